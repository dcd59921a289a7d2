"""Move files without ever replacing one, also to another disk. Standard library only.

A file moves to another disk by a complete copy, which is flushed, compared and only then followed by the removal of
the original.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path

from ..errors import OutputError
from .atomic import AtomicFile, in_plain_words, move_if_free, sync_folder

_PIECE = 1 << 20


def move(old: Path, new: Path) -> None:
    """Move a file without ever replacing one; to another disk by a complete copy first. Raises ``OutputError``."""
    with in_plain_words(new):
        try:
            on_one_disk = old.stat().st_dev == new.parent.stat().st_dev
        except OSError:
            on_one_disk = True
        if not on_one_disk or not moved_at_once(old, new):
            copy_whole(old, new)
            old.unlink()
        sync_folder(new.parent)
        sync_folder(old.parent)


def moved_at_once(old: Path, new: Path) -> bool:
    """Move a file by renaming it; return False where the two paths are on different disks after all, as with mounts."""
    try:
        move_if_free(old, new)
    except OSError as error:
        if error.errno == errno.EXDEV:
            return False
        raise
    return True


def copy_whole(old: Path, new: Path) -> None:
    """Copy a file with its times and permissions, under a new name, and compare the copy.

    The new name appears only when the copy is complete and on the disk. Raises ``OutputError``; nothing is left then.
    """
    with in_plain_words(new), open(old, "rb") as source, AtomicFile(new) as draft:
        draft.open()
        while piece := source.read(_PIECE):
            draft.write(piece)
        draft.finish()
        shutil.copystat(old, draft.path)
        if not same_content(old, draft.path):
            raise OutputError(f"{new}: the copy differs from {old}, which was not moved. Check the disk.")
        draft.publish()


def same_content(one: Path, other: Path) -> bool:
    """Return whether two files have the same content; False where one of them cannot be read."""
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


def sha256_of(path: Path) -> str | None:
    """Return the SHA-256 of a plain file, hex; None where nothing, a link or something else has the name.

    Raises ``OSError`` where the file cannot be read.
    """
    digest = hashlib.sha256()
    if path.is_symlink() or (os.path.lexists(path) and not path.is_file()):
        return None
    try:
        with open(path, "rb", buffering=0) as stream:
            while piece := stream.read(_PIECE):
                digest.update(piece)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return digest.hexdigest()


def make_folders(folder: Path) -> None:
    """Create a folder and its parents, and flush the name of each new one to the disk. Raises ``OSError``."""
    missing = []
    place = folder
    while not place.is_dir() and place != place.parent:
        missing.append(place)
        place = place.parent
    for one in reversed(missing):
        one.mkdir(exist_ok=True)
        sync_folder(one.parent)


def remove_empty(folder: Path, stop: Path) -> None:
    """Remove a folder and its parents below `stop`, as long as they are empty. Never raises."""
    while folder != stop and stop in folder.parents:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent
