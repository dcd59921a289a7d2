"""Undone results: moved aside, never deleted, and brought back on request. Standard library only.

Each undo is a folder of its own in the trash root: a manifest, and the moved files under numbers that end in
``.trashed``, so that no host lists them. The manifest is on the disk before the first file moves and says where each
one belongs, so that whatever moment the machine dies at, every file is in one of two places that it names, and
`restore` brings back what has moved.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import OutputError
from ..files.atomic import Draft, explain, move_if_free, sync_folder, write_whole

MANIFEST = "manifest.json"
VERSION = 1
_ITEM = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{8}")
_MOVED = re.compile(r"[0-9]{3}\.trashed")
_PIECE = 1 << 20


@dataclass(frozen=True)
class Moved:
    """One file of an item."""

    home: Path
    """Where it was, and goes back to."""
    kept: str
    """Its name in the item's folder."""
    bytes: int


@dataclass(frozen=True)
class Item:
    """One undone result."""

    id: str
    name: str
    """Of the LoRA, as in prompts."""
    trashed: float
    """Moment."""
    files: tuple[Moved, ...]
    """The LoRA last, so that it is the last to go and the last to come back: a host never lists it half moved."""
    folder: Path

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


def trash(root: Path, name: str, files: Sequence[Path]) -> Item:
    """Moves files to the trash, the LoRA being the first of `files`. Raises OutputError; then all are back."""
    item = _new_item(root, name, [*files[1:], files[0]])
    done: list[Moved] = []
    try:
        for file in item.files:
            _move(file.home, item.folder / file.kept)
            done.append(file)
    except OutputError:
        for file in done:
            _move(item.folder / file.kept, file.home)
        _remove_folder(item)
        raise
    return item


def restore(item: Item) -> None:
    """Moves an item's files back. Raises OutputError where a name is taken; then nothing was moved."""
    for file in item.files:
        kept = item.folder / file.kept
        if kept.exists() and os.path.lexists(file.home) and not _same(kept, file.home):
            raise OutputError(f"{file.home}: there is another file of this name now. Rename or move that one first.")
    for file in item.files:
        kept = item.folder / file.kept
        if not kept.exists():  # it never moved, or is back already
            continue
        if os.path.lexists(file.home):  # a copy to another disk that was cut off
            _in_words(kept.unlink, kept)
        else:
            _in_words(lambda home=file.home: home.parent.mkdir(parents=True, exist_ok=True), file.home)
            _move(kept, file.home)
    _remove_folder(item)


def items(root: Path) -> list[Item]:
    """What lies in the trash, oldest first; folders that are not ours are left alone."""
    try:
        names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []
    return [item for name in names if _ITEM.fullmatch(name) and (item := _read(root / name)) is not None]


def empty(root: Path) -> tuple[int, int]:
    """Deletes all items for good; how many files and bytes that were. Raises OutputError where one stays."""
    count = size = 0
    for item in items(root):
        for file in item.files:
            kept = item.folder / file.kept
            if kept.exists():
                _in_words(kept.unlink, kept)
                count, size = count + 1, size + file.bytes
        _remove_folder(item)
    return count, size


# Items on the disk ---------------------------------------------------------------------------------------------


def _new_item(root: Path, name: str, files: Sequence[Path]) -> Item:
    now = time.time()
    id = time.strftime("%Y%m%d-%H%M%S", time.localtime(now)) + "-" + secrets.token_hex(4)
    moved = tuple(Moved(path, f"{number:03}.trashed", _size(path)) for number, path in enumerate(files))
    item = Item(id, name, now, moved, root / id)
    write_whole(item.folder / MANIFEST, json.dumps(_as_json(item), ensure_ascii=True, indent=1).encode())
    return item


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise OutputError(f"{path}: cannot be moved to the trash: {error.strerror}.") from error


def _as_json(item: Item) -> dict[str, Any]:
    files = [{"home": str(file.home), "kept": file.kept, "bytes": file.bytes} for file in item.files]
    return {"version": VERSION, "id": item.id, "name": item.name, "trashed": item.trashed, "files": files}


def _read(folder: Path) -> Item | None:
    """The item of a folder; None where its manifest is not whole, which only a foreign hand can have done."""
    try:
        return _parsed(json.loads((folder / MANIFEST).read_text("utf-8")), folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _parsed(document: Mapping[str, Any], folder: Path) -> Item:
    if document["version"] != VERSION:
        raise ValueError("another version")
    files = tuple(Moved(Path(file["home"]), file["kept"], int(file["bytes"])) for file in document["files"])
    if not files or not all(_MOVED.fullmatch(file.kept) and file.home.is_absolute() for file in files):
        raise ValueError("not names that we gave")
    return Item(folder.name, str(document["name"]), float(document["trashed"]), files, folder)


def _remove_folder(item: Item) -> None:
    """The folder goes only when nothing but the manifest is left in it."""
    with contextlib.suppress(OSError):
        if any((item.folder / file.kept).exists() for file in item.files):
            return
        (item.folder / MANIFEST).unlink()
        item.folder.rmdir()


# Moving --------------------------------------------------------------------------------------------------------


def _move(old: Path, new: Path) -> None:
    """Moves a file without ever replacing one; onto another disk by a whole copy first."""
    with _words(new):
        try:
            on_one_disk = old.stat().st_dev == new.parent.stat().st_dev
        except OSError:
            on_one_disk = True
        if not on_one_disk or not _moved_at_once(old, new):
            _copy(old, new)
            old.unlink()
        sync_folder(new.parent)
        sync_folder(old.parent)


def _moved_at_once(old: Path, new: Path) -> bool:
    """False where the two are not on one disk after all, as with some mounts."""
    try:
        move_if_free(old, new)
    except OSError as error:
        if error.errno == errno.EXDEV:
            return False
        raise
    return True


def _copy(old: Path, new: Path) -> None:
    with open(old, "rb") as source, Draft(new) as draft:
        draft.open()
        while piece := source.read(_PIECE):
            draft.write(piece)
        draft.finish()
        shutil.copystat(old, draft.path)
        draft.publish()


def _same(one: Path, other: Path) -> bool:
    """Whether two files hold the same bytes."""
    try:
        if one.stat().st_size != other.stat().st_size:
            return False
        with open(one, "rb") as first, open(other, "rb") as second:
            while piece := first.read(_PIECE):
                if piece != second.read(_PIECE):
                    return False
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _words(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(explain(error, path)) from error


def _in_words(act: Any, path: Path) -> None:
    with _words(path):
        act()
