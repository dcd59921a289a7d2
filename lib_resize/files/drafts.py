"""Temporaries of unfinished files: their names, the lock that shows that their run is alive, and their removal.

A name is ``.resize-lora-``, 8 digits for the machine, 8 random ones, ``.part``. A temporary of this machine that nobody
holds is what a killed run left, and is removed at the next start. On a network share the locks of another machine may
be invisible, so its temporaries are removed a day after they were last written to. Standard library only.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import sys
import time
import uuid
from functools import cache
from pathlib import Path

_NAME = re.compile(r"\.resize-lora-([0-9a-f]{8})[0-9a-f]{8}\.part")
_STALE_SECONDS = 24 * 3600
_UNLOCKED_SECONDS = 15 * 60
"""On Windows, which cannot rename an open file, a finished temporary is unlocked while it is checked."""
_TRIES = 100


def new_path(folder: Path) -> Path:
    """A name in a folder that nothing has."""
    return folder / f".resize-lora-{_machine()}{os.urandom(4).hex()}.part"


def create(folder: Path) -> tuple[Path, int]:
    """A new temporary, empty and locked: its path and descriptor. Raises OSError."""
    for _ in range(_TRIES):
        path = new_path(folder)
        with contextlib.suppress(FileExistsError):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
            _lock(fd, wait=True)
            if _is_at(fd, path):
                return path, fd
            os.close(fd)  # swept before it was locked
    raise FileExistsError(f"no free name for a temporary in {folder}")


def sweep(folder: str | os.PathLike[str]) -> None:
    """Remove the temporaries in one folder whose runs are dead; anything else is left alone, and nothing is raised.

    A host calls this once at its start for each folder of LoRAs.
    """
    with contextlib.suppress(OSError, ValueError), os.scandir(folder) as found:
        for item in found:
            match = _NAME.fullmatch(item.name)
            if match:
                with contextlib.suppress(OSError):
                    _remove_if_dead(item, is_own=match[1] == _machine())


def _remove_if_dead(item: os.DirEntry[str], *, is_own: bool) -> None:
    if not item.is_file(follow_symlinks=False):
        return
    age = time.time() - item.stat(follow_symlinks=False).st_mtime
    if sys.platform == "win32":  # a file that is open anywhere cannot be removed there
        if age > (_UNLOCKED_SECONDS if is_own else _STALE_SECONDS):
            Path(item.path).unlink()
        return
    if is_own or age > _STALE_SECONDS:
        fd = os.open(item.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if _lock(fd, wait=False) and _is_at(fd, Path(item.path)):
                Path(item.path).unlink()
        finally:
            os.close(fd)


def _lock(fd: int, *, wait: bool) -> bool:
    """Lock an open file until it is closed, by a kill as well. False where somebody holds it, or locks are unknown."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def _is_at(fd: int, path: Path) -> bool:
    """Whether a path still is the open file."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except OSError:
        return False


@cache
def _machine() -> str:
    """8 hex digits for this machine; others each time where it has no address, which only delays removal."""
    return hashlib.sha256(f"{platform.node()} {uuid.getnode()}".encode()).hexdigest()[:8]
