"""Every LoRA of the host's list with the facts of its header, which is read in the background when a file changed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..hosts.host import Host, LoraFile
from ..studies.catalogue import Facts, KnownFiles, Stamp, cache_file, facts_of_alike, read_facts, stamp_of
from .archives import plain
from .protocol.types import Json
from .same_names import SameName, same_names
from .snapshot import HostLists

_PATIENCE = 0.12  # seconds that one answer may wait for the first files


@dataclass(frozen=True)
class _Known:
    """A file of the list."""

    lora: LoraFile
    stamp: Stamp
    facts: Facts
    folder: str
    revision: int
    predicted: dict[str, int | None] | None = None
    estimated: bool = False
    read: bool = True
    """False until its header was read."""
    same_name: tuple[tuple[str, SameName], ...] = ()
    """Folder and file of each other file of this name."""

    def to_json(self, family: str | None, listed: Collection[str], archived: str | None) -> Json:
        """Return the `File` of the protocol; `family` is that of the reference, `listed` the names of the list."""
        facts = self.facts
        fits = None if facts.family is None or family is None else facts.family == family
        ours = None
        if facts.source is not None:
            ours = {"source": facts.source, "recipe": facts.recipe or "", "there": facts.source in listed}
        return {
            "name": self.lora.name,
            "folder": self.folder,
            "family": facts.family,
            "kind": facts.kind,
            "rank": facts.rank,
            "dtype": facts.dtype,
            "layers": facts.layers,
            "bytes": self.stamp[0],
            "modified": self.stamp[1] / 1e9,
            "preview": self.lora.preview is not None,
            "fits": fits,
            "ours": ours,
            "problem": facts.problem,
            "predicted": self.predicted,
            "same_name": [other.to_json(folder) for folder, other in self.same_name],
            "estimated": self.estimated,
            "archived": archived,
            "read": self.read,
        }


@dataclass(frozen=True)
class ListedFile:
    """A file of the list with what is known of it, for other parts of the service."""

    lora: LoraFile
    stamp: Stamp
    facts: Facts
    folder: str
    predicted: dict[str, int | None] | None
    estimated: bool


Archived = Callable[[], Mapping[Path, str]]
"""Returns the ids of the entries of the archive, by the paths of their files, with links of the folder resolved."""


class Library:
    """The host's LoRAs. Every method may be called from any thread."""

    def __init__(self, host: Host, cache: Path | None = None, archived: Archived = dict) -> None:
        self._host = host
        self._archived = archived
        self.cache = cache or cache_file()
        self._cache = KnownFiles(self.cache)
        self._lock = threading.RLock()
        self._files: dict[str, _Known] = {}
        self._gone: dict[str, int] = {}
        self._revision = 0
        self._thread: threading.Thread | None = None
        self._total = 0
        self._roots: list[Path] = []
        self._same_names: dict[str, tuple[SameName, ...]] | None = None
        self._dirty = True
        self._refresh = False
        self._family: str | None = None

    @property
    def revision(self) -> int:
        return self._revision

    def touch(self) -> None:
        """Note that files were added or moved: the next question compares the list again."""
        with self._lock:
            self._dirty = True
            self._revision += 1

    def answer(self, since: int, refresh: bool, family: str | None, lists: HostLists) -> Json:
        """Return the files that changed since a revision; `family` is that of the reference."""
        thread = self._scan_if_needed(lists, whole=since <= 0, refresh=refresh)
        if thread is not None:
            thread.join(_PATIENCE)
        with self._lock:
            if family != self._family:
                self._family = family
                self.revise()
            complete = self.is_complete()
            files = [known for known in self._files.values() if known.revision > since]
            archived = self._archived() if files else {}
            return {
                "files": [known.to_json(family, self._files, archived.get(plain(known.lora.path))) for known in files],
                "gone": [name for name, revision in self._gone.items() if revision > since > 0],
                "roots": root_names(lists.lora_roots()),
                "complete": complete,
                "known": sum(known.read for known in self._files.values()),
                "total": max(self._total, len(self._files)),
                "revision": self._revision,
            }

    def facts(self, lora: LoraFile) -> Facts:
        """Return the facts of a file as it is now."""
        stamp = stamp_of(lora.path)
        with self._lock:
            known = self._files.get(lora.name)
        if known is not None and known.read and known.stamp == stamp and known.lora.path == lora.path:
            return known.facts
        return read_facts(lora.path)

    def listed(self, lists: HostLists) -> dict[str, ListedFile]:
        """Return all files by name, in the order of the list, once all headers are read."""
        self._scan_if_needed(lists, whole=False, refresh=False)
        self.join()
        with self._lock:
            found = sorted(self._files.values(), key=lambda known: known.lora.name.lower())
        return {
            one.lora.name: ListedFile(one.lora, one.stamp, one.facts, one.folder, one.predicted, one.estimated)
            for one in found
        }

    def is_complete(self) -> bool:
        """Return whether all headers are read."""
        return not (self._thread and self._thread.is_alive()) and not self._dirty

    def revise(self) -> None:
        """Note that something changed that is not in the files, such as the archive: all are sent again."""
        with self._lock:
            if self._files:
                self._revision += 1
                self._files = {name: replace(known, revision=self._revision) for name, known in self._files.items()}

    def predict(self, lora: LoraFile, stamp: Stamp, sizes: dict[str, int | None], *, estimated: bool = False) -> None:
        """Keep the size that each preset would write; an estimate in memory alone, as its own store has it."""
        with self._lock:
            known = self._files.get(lora.name)
            if known is None or known.stamp != stamp or (known.predicted == sizes and known.estimated == estimated):
                return
            if estimated and known.predicted is not None and not known.estimated:
                return
            self._revision += 1
            self._files[lora.name] = replace(known, predicted=sizes, estimated=estimated, revision=self._revision)
        if not estimated:
            self._cache.add(lora.path, (stamp, known.facts, sizes, False))

    def save(self) -> None:
        """Write the cache to the disk, at the end of a service."""
        self._cache.save()

    def versions(self, source: str) -> list[str]:
        """Return the names of files that were made of this one."""
        with self._lock:
            return [known.lora.name for known in self._files.values() if known.facts.source == source]

    def join(self, seconds: float = 60.0) -> None:
        """Wait for the scan that is running."""
        thread = self._thread
        if thread is not None:
            thread.join(seconds)

    # Scanning --------------------------------------------------------------------------------------------------

    def _scan_if_needed(self, lists: HostLists, *, whole: bool, refresh: bool) -> threading.Thread | None:
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                self._refresh = self._refresh or refresh
                return self._thread
            if not (whole or refresh or self._dirty or self._refresh or _list_changed(lists, self._files)):
                return None
            self._dirty = False
            again, self._refresh = refresh or self._refresh, False
            self._thread = threading.Thread(target=self._scan, args=(again,), name="resize-lora-library", daemon=True)
            self._thread.start()
            return self._thread

    def _scan(self, refresh: bool) -> None:
        if refresh:
            with contextlib.suppress(Exception):  # the list that the host has is better than none
                self._host.refresh()
        loras, self._roots = self._host.loras(), self._host.lora_roots()
        self._total = len(loras)
        self._drop_others({lora.name for lora in loras})
        if refresh or self._same_names is None:
            self._same_names = same_names(loras, self._roots)
        unread = [lora for lora in loras if not self._list(lora)]
        self._read(unread)

    def _read(self, loras: Sequence[LoraFile]) -> None:
        """Read headers and keep the facts of each at once: a few thousand take longer than a user waits."""
        alike = facts_of_alike()
        for lora in loras:
            stamp = self._stamp(lora)
            if stamp is not None:
                facts = read_facts(lora.path, alike)
                self._cache.add(lora.path, (stamp, facts, None, False))
                self._put(lora, stamp, facts)
        self._cache.save()

    def _drop_others(self, names: set[str]) -> None:
        with self._lock:
            for name in [name for name in self._files if name not in names]:
                self._revision += 1
                del self._files[name]
                self._gone[name] = self._revision

    def _list(self, lora: LoraFile) -> bool:
        """Put a file in the list with what is known without its header; return whether that is everything."""
        stamp = self._stamp(lora)
        if stamp is None:
            return True
        known = self._files.get(lora.name)
        if known is not None and known.read and known.stamp == stamp and known.lora == lora:
            self._note_same_name(lora.name)
            return True
        cached = self._cache.get(lora.path)
        if cached is not None and cached[0] == stamp:
            self._put(lora, stamp, cached[1], cached[2], estimated=cached[3])
            return True
        self._put(lora, stamp, Facts(), read=False)
        return False

    def _stamp(self, lora: LoraFile) -> Stamp | None:
        """Return the stamp of a file; None where it cannot be read, after listing it with the reason."""
        try:
            return stamp_of(lora.path)
        except OSError as error:
            self._put(lora, (0, 0), Facts(problem=f"cannot be read: {error.strerror}"))
            return None

    def _put(
        self,
        lora: LoraFile,
        stamp: Stamp,
        facts: Facts,
        predicted: dict[str, int | None] | None = None,
        *,
        estimated: bool = False,
        read: bool = True,
    ) -> None:
        folder = folder_of(lora.path, self._roots)
        same_name = _with_folders((self._same_names or {}).get(lora.name, ()), self._roots)
        with self._lock:
            before = self._files.get(lora.name)
            revision = before.revision if before else 0
            new = _Known(lora, stamp, facts, folder, revision, predicted, estimated, read, same_name)
            if new == before:
                return
            self._revision += 1
            self._gone.pop(lora.name, None)
            self._files[lora.name] = replace(new, revision=self._revision)

    def _note_same_name(self, name: str) -> None:
        """Note the other files of a name, for a file that has not changed itself."""
        same_name = _with_folders((self._same_names or {}).get(name, ()), self._roots)
        with self._lock:
            known = self._files.get(name)
            if known is None or known.same_name == same_name:
                return
            self._revision += 1
            self._files[name] = replace(known, same_name=same_name, revision=self._revision)


def _with_folders(others: Sequence[SameName], roots: Sequence[Path]) -> tuple[tuple[str, SameName], ...]:
    return tuple((folder_of(other.path, roots), other) for other in others)


def _list_changed(lists: HostLists, known: Mapping[str, _Known]) -> bool:
    return {lora.name: lora.path for lora in lists.loras()} != {name: one.lora.path for name, one in known.items()}


def root_names(roots: Sequence[Path]) -> list[str]:
    """Return the names of folders; with the parent's name where two are the same."""
    names = [root.name or str(root.anchor) for root in roots]
    return [
        name if names.count(name) == 1 else f"{root.parent.name}/{name}"
        for name, root in zip(names, roots, strict=True)
    ]


def folder_of(path: Path, roots: Sequence[Path]) -> str:
    """Return the folder of a file below its root, with ``/``; with several roots, the root's name comes first."""
    for find in (_as_it_is, _real):
        parent = find(path.parent)
        for root, name in zip(roots, root_names(roots), strict=True):
            if parent == root or root in parent.parents:
                below = parent.relative_to(root).parts
                return "/".join((name, *below) if len(roots) > 1 else below)
    return path.parent.name


def _as_it_is(folder: Path) -> Path:
    return folder


def _real(folder: Path) -> Path:
    try:
        return folder.resolve()
    except (OSError, RuntimeError):  # a link that leads to itself
        return folder
