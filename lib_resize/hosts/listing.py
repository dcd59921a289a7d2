"""Snapshots of a host's list of LoRAs, complete although the host clears and refills it in another thread."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FileError
from .guard import read, warn_once
from .host import LoraFile, LoraList, same_file
from .scan import Folders


@dataclass(frozen=True)
class ListedLora:
    """An entry of the host's list."""

    path: Path
    alias: str | None = None
    more_names: tuple[str, ...] = ()


ListedLoras = Mapping[str, ListedLora]


def find(loras: LoraList, name: str) -> LoraFile:
    """Return the LoRA that a name means. Raises ``FileError`` where there is none, or several share the alias."""
    found = loras.candidates(name)
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(lora.name for lora in found[:5])
        raise FileError(f"{name}: {len(found)} LoRAs share this alias ({names}). Use the file name.")
    raise FileError(f"{name}: no installed LoRA has this name. Check the name, or refresh the library.")


# One entry -----------------------------------------------------------------------------------------------------


def listed_lora(name: Any, listed: Any) -> ListedLora | None:
    """Convert an entry of the host's list; None where it names no file."""
    if isinstance(listed, ListedLora):
        return listed
    filename = read(listed, "filename")
    if isinstance(filename, bytes):
        filename = os.fsdecode(filename)
    if not isinstance(name, str) or not isinstance(filename, (str, os.PathLike)):
        return None
    text = os.fspath(filename)
    if not name or not isinstance(text, str) or not text or "\0" in text:
        return None
    alias = read(listed, "alias")
    return ListedLora(Path.cwd() / text, alias if isinstance(alias, str) and alias and alias != name else None)


def listed_loras(listed: Mapping[Any, Any]) -> dict[str, ListedLora]:
    """Convert all entries that name a file. The others are logged and ignored."""
    found: dict[str, ListedLora] = {}
    for name, one in listed.items():
        entry = listed_lora(name, one)
        if entry is None:
            warn_once(f"the entry {str(name)[:80]!r} in the host's list of LoRAs names no file and is ignored.")
        else:
            found[name] = entry
    return found


# The complete list ------------------------------------------------------------------------------------------------


class CompleteList:
    """The entries of a dictionary that the host clears and refills in another thread.

    An entry that was seen once stays until its file is deleted. The first look has nothing to compare with: it waits
    until the dictionary has all files of the host's folders, or has not changed for a while.
    """

    QUIET = 0.5  # seconds without a change after which the first look counts as complete
    PATIENCE = 3.0  # maximum seconds that the first look waits
    _PAUSE = 0.002

    def __init__(self, on_disk: Callable[[], Iterable[Path]]) -> None:
        """`on_disk` lists the files in the host's folders."""
        self._on_disk = on_disk
        self._lock = threading.Lock()
        self._seen: Mapping[Any, Any] | None = None
        self._entries: dict[str, ListedLora] = {}
        self._kept: set[str] = set()

    def look(self, listed: Mapping[Any, Any]) -> ListedLoras:
        """Return the entries, and earlier ones whose files still exist. The same object if nothing changed."""
        with self._lock:
            now = copy_of(listed) if self._seen is not None else self._settled(listed)
            if self._kept or not _same(now, self._seen):
                self._merge(listed_loras(now))
            self._seen = now
            return self._entries

    def _settled(self, listed: Mapping[Any, Any]) -> Mapping[Any, Any]:
        """Collect entries until the list is complete."""
        seen = copy_of(listed)
        missing = {path.stem for path in self._on_disk()} - _stems(seen)
        began = changed = time.monotonic()
        while missing and time.monotonic() < min(changed + self.QUIET, began + self.PATIENCE):
            time.sleep(self._PAUSE)
            now = copy_of(listed)
            new = {name: one for name, one in now.items() if name not in seen}
            seen.update(now)
            missing -= _stems(new)
            if new or len(now) < len(seen):
                changed = time.monotonic()
        return seen

    def _merge(self, now: dict[str, ListedLora]) -> None:
        missing = {name: entry for name, entry in self._entries.items() if name not in now}
        kept = {name: entry for name, entry in missing.items() if _is_file(entry.path)}
        folded = {_folded(entry.path): entry.path for entry in now.values()} if kept else {}
        for name, entry in list(kept.items()):
            other = folded.get(_folded(entry.path))
            if other is not None and same_file(entry.path, other):
                del kept[name]  # it has another name now
        self._kept = set(kept)
        merged = {**now, **kept}
        if merged != self._entries:
            self._entries = merged


def _stems(listed: Mapping[Any, Any]) -> set[str]:
    return {entry.path.stem for entry in listed_loras(listed).values()}


def copy_of(listed: Mapping[Any, Any]) -> dict[Any, Any]:
    """Copy a dictionary that another thread may change at the same time."""
    for _ in range(100):
        try:
            return dict(listed)
        except RuntimeError:  # its size changed
            time.sleep(0.001)
    return {}


def _same(one: Mapping[Any, Any], other: Mapping[Any, Any] | None) -> bool:
    """Return whether two copies have the same objects. They are not compared with ``==``, which a host may override."""
    if other is None or one.keys() != other.keys():
        return False
    return all(value is other[name] for name, value in one.items())


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _folded(path: Path) -> str:
    return str(path).casefold()


# With previews -------------------------------------------------------------------------------------------------


class LoraListCache:
    """Makes the `LoraList` of a host, and a new one only after an entry or a folder changed."""

    def __init__(self) -> None:
        self._folders = Folders()
        self._last: tuple[ListedLoras, Mapping[Path, frozenset[str]], LoraList] | None = None

    def of(self, entries: ListedLoras) -> LoraList:
        """Return the entries with their previews."""
        last = self._last
        folders = last[2].folders if last is not None and last[0] is entries else _folders(entries)
        names = {folder: self._folders.names(folder) for folder in folders}
        if last is not None and last[0] is entries and last[1] == names:
            return last[2]
        made = LoraList(
            LoraFile(
                name,
                entry.path,
                entry.alias,
                self._folders.preview(entry.path, names[entry.path.parent]),
                entry.more_names,
            )
            for name, entry in entries.items()
        )
        self._last = entries, names, made
        return made


def _folders(entries: ListedLoras) -> frozenset[Path]:
    return frozenset(entry.path.parent for entry in entries.values())
