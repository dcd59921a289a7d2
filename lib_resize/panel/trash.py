"""Move undone results to a trash folder, and back on request. Standard library only.

Each undo is a folder of its own in the trash root: a manifest, and the moved files under numbers that end in
``.trashed``, so that no host lists them. The manifest is on the disk before the first file moves and says where each
one belongs. After a crash every file is in one of the two places that it names; `recover` then finishes what was half
done: an undo is reverted, a restore is completed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import OutputError
from ..files.atomic import in_plain_words, write_whole
from ..files.locks import folder_turn
from ..files.moving import move, same_content

MANIFEST = "manifest.json"
VERSION = 1
_ITEM = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{8}")
_MOVED = re.compile(r"[0-9]{3}\.trashed")
_LEFT = re.compile(r"\.resize-lora-[0-9a-f]{16}\.part")


@dataclass(frozen=True)
class Moved:
    """A file of an item."""

    home: Path
    """The path that it was moved from."""
    kept: str
    """Its name in the item's folder."""
    bytes: int
    modified: int | None = None
    """Nanoseconds since 1970; None in items of earlier versions."""


@dataclass(frozen=True)
class Item:
    """An undone result."""

    id: str
    name: str
    """Of the LoRA, as in prompts."""
    trashed: float
    """Moment."""
    files: tuple[Moved, ...]
    """The LoRA last, so that it is the last to go and the last to come back: a host never lists it half moved."""
    folder: Path
    result: str | None = None
    """Id of the record of what was undone; None in items of earlier versions."""

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


def trash(root: Path, name: str, files: Sequence[Path], result: str | None = None) -> Item:
    """Move files to the trash; the first of `files` is the LoRA. Raises OutputError, after moving all files back."""
    _in_words(lambda: root.mkdir(parents=True, exist_ok=True), root)
    with folder_turn(root), in_plain_words(root):
        item = _new_item(root, name, [*files[1:], files[0]], result)
        try:
            for file in item.files:
                move(file.home, item.folder / file.kept)
        except (OutputError, OSError):
            with contextlib.suppress(
                OutputError, OSError
            ):  # where the disk fails again, the next start moves them back
                _bring_back(item)
            raise
        return item


def restore(item: Item) -> None:
    """Move the files of an item back. Raises OutputError where a name is taken; nothing is moved then."""
    with folder_turn(item.folder.parent), in_plain_words(item.folder):
        _bring_back(item)


def _bring_back(item: Item) -> None:
    for file in item.files:
        kept = item.folder / file.kept
        if kept.exists() and os.path.lexists(file.home) and not same_content(kept, file.home):
            raise OutputError(f"{file.home}: another file has this name now. Rename or move it first.")
    for file in item.files:
        kept = item.folder / file.kept
        if not kept.exists():  # never moved, or already moved back
            continue
        if os.path.lexists(file.home):  # a move that was interrupted between its two steps
            _in_words(kept.unlink, kept)
        else:
            _in_words(lambda home=file.home: home.parent.mkdir(parents=True, exist_ok=True), file.home)
            move(kept, file.home)
    _remove_folder(item)


def ids(root: Path) -> list[str]:
    """Return the ids of the folders that look like items, oldest first."""
    try:
        names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []
    return [name for name in names if _ITEM.fullmatch(name)]


def items(root: Path) -> list[Item]:
    """Return the items of a trash folder, oldest first; other folders are left alone."""
    return [item for name in ids(root) if (item := read(root, name)) is not None]


def empty(root: Path) -> tuple[int, int]:
    """Delete all items for good; return the number of files and bytes. Raises OutputError where that is impossible."""
    count = size = 0
    with folder_turn(root), in_plain_words(root):
        for item in items(root):
            for file in item.files:
                kept = item.folder / file.kept
                if kept.exists():
                    _in_words(kept.unlink, kept)
                    count, size = count + 1, size + file.bytes
            _remove_folder(item)
    return count, size


def recover(root: Path, check: Callable[[Item], None]) -> None:
    """Finish what a killed process left half done, where that is possible.

    `check` raises OutputError for an item that must not be moved.
    """
    with folder_turn(root):
        for id in ids(root):
            _clear_drafts(root / id)
            item = read(root, id)
            if item is None:
                with contextlib.suppress(OSError):
                    (root / id).rmdir()  # goes only if it is empty
            elif _is_half(item):
                with contextlib.suppress(OutputError, OSError):
                    check(item)
                    _bring_back(item)


def _is_half(item: Item) -> bool:
    """Return whether an undo or a restore was interrupted. In both, the LoRA is the last file to move."""
    *sidecars, lora = item.files
    kept = item.folder / lora.kept
    if not kept.exists():
        return _is_home(lora)  # an interrupted undo, or a restore that is complete except for its manifest
    if os.path.lexists(lora.home):
        return same_content(kept, lora.home)  # a move that was interrupted between its two steps
    return any(_is_home(file) for file in sidecars)  # a restore: an undo would have moved all of them by now


def _is_home(file: Moved) -> bool:
    try:
        found = os.lstat(file.home)
    except OSError:
        return False
    return found.st_size == file.bytes and file.modified in (None, found.st_mtime_ns)


def _clear_drafts(folder: Path) -> None:
    """Remove incomplete copies; their sources still exist."""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            if _LEFT.fullmatch(entry.name):
                Path(entry.path).unlink()


# Items on the disk ---------------------------------------------------------------------------------------------


def _new_item(root: Path, name: str, files: Sequence[Path], result: str | None) -> Item:
    now = time.time()
    id = time.strftime("%Y%m%d-%H%M%S", time.localtime(now)) + "-" + secrets.token_hex(4)
    moved = tuple(Moved(path, f"{number:03}.trashed", *_stamp(path)) for number, path in enumerate(files))
    item = Item(id, name, now, moved, root / id, result)
    try:
        write_whole(item.folder / MANIFEST, json.dumps(_as_json(item), ensure_ascii=True, indent=1).encode())
    except OutputError:
        _remove_folder(item)
        raise
    return item


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise OutputError(f"{path}: cannot be moved to the trash: {error.strerror}.") from error
    return found.st_size, found.st_mtime_ns


def _as_json(item: Item) -> dict[str, Any]:
    files = [{**asdict(file), "home": str(file.home)} for file in item.files]
    return {
        "version": VERSION,
        "id": item.id,
        "name": item.name,
        "trashed": item.trashed,
        "result": item.result,
        "files": files,
    }


def read(root: Path, id: str) -> Item | None:
    """The item of a folder; None where its manifest is not whole, which only a foreign hand can have done."""
    try:
        return _parsed(json.loads((root / id / MANIFEST).read_text("utf-8")), root / id)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _parsed(document: Mapping[str, Any], folder: Path) -> Item:
    if document["version"] != VERSION:
        raise ValueError("another version")
    files = tuple(map(_parsed_file, document["files"]))
    if not files or not all(_MOVED.fullmatch(file.kept) and file.home.is_absolute() for file in files):
        raise ValueError("not names of this program")
    result = document.get("result")
    result = result if isinstance(result, str) else None
    return Item(folder.name, str(document["name"]), float(document["trashed"]), files, folder, result)


def _parsed_file(document: Mapping[str, Any]) -> Moved:
    modified = document.get("modified")
    return Moved(
        Path(document["home"]), document["kept"], int(document["bytes"]), None if modified is None else int(modified)
    )


def _remove_folder(item: Item) -> None:
    """Remove the folder of an item, if only the manifest is left in it."""
    with contextlib.suppress(OSError):
        if any((item.folder / file.kept).exists() for file in item.files):
            return
        (item.folder / MANIFEST).unlink(missing_ok=True)
        item.folder.rmdir()


def _in_words(act: Any, path: Path) -> None:
    with in_plain_words(path):
        act()
