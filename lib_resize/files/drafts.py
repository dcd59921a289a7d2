"""Temporary files: their names, the lock that shows that their process is alive, and their removal.

A name is ``.resize-lora-``, 8 digits for the machine, 8 random digits, ``.part``. A temporary file of this machine
that is not locked was left by a killed process, and is removed at the next start. On a network share the locks of
another machine may be invisible, so its temporary files are removed a day after the last write to them. Standard
library only.

A staged file is complete, and waits to replace another one. Its name ends in the process id and ``.staged``; it is
removed when no such process runs any more.
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
_STAGED = re.compile(r"\.resize-lora-([0-9a-f]{8})[0-9a-f]{8}-([0-9]{1,10})\.staged")
_STALE_SECONDS = 24 * 3600
_UNLOCKED_SECONDS = 15 * 60
"""On Windows, which cannot rename an open file, a finished temporary file is unlocked while it is checked."""
_TRIES = 100


def new_path(folder: Path) -> Path:
    """Return a new random name in a folder."""
    return folder / f".resize-lora-{machine()}{os.urandom(4).hex()}.part"


def staged_path(folder: Path) -> Path:
    """Return a new random name in a folder for a complete file that will replace another one."""
    return folder / f".resize-lora-{machine()}{os.urandom(4).hex()}-{os.getpid()}.staged"


def create(folder: Path) -> tuple[Path, int]:
    """Create an empty, locked temporary file; return its path and descriptor. Raises ``OSError``."""
    for _ in range(_TRIES):
        path = new_path(folder)
        with contextlib.suppress(FileExistsError):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
            try:
                _lock(fd, wait=True)
                if is_at(fd, path):
                    return path, fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # swept before it was locked, or it cannot be seen
            with contextlib.suppress(OSError):
                path.unlink()
    raise FileExistsError(f"no free name for a temporary file in {folder}")


def sweep(folder: str | os.PathLike[str]) -> None:
    """Remove the temporary files of dead processes from one folder. Never raises; other files are not touched.

    A host calls this once at its start, for each folder of LoRAs.
    """
    with contextlib.suppress(OSError, ValueError), os.scandir(folder) as found:
        for item in found:
            if match := _NAME.fullmatch(item.name):
                with contextlib.suppress(OSError):
                    _remove_if_dead(item, is_own=match[1] == machine())
            elif match := _STAGED.fullmatch(item.name):
                with contextlib.suppress(OSError):
                    _remove_if_abandoned(item, int(match[2]), is_own=match[1] == machine())


def _remove_if_abandoned(item: os.DirEntry[str], process: int, *, is_own: bool) -> None:
    """Remove a staged file of a process that ended, or of another machine after a day."""
    if not item.is_file(follow_symlinks=False):
        return
    age = time.time() - item.stat(follow_symlinks=False).st_mtime
    if age > _STALE_SECONDS or (is_own and not _runs(process)):
        Path(item.path).unlink()


def _runs(process: int) -> bool:
    """Return whether a process runs. On Windows, where a signal would end it, always True."""
    if sys.platform == "win32" or process <= 0:
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it belongs to another user
        return True
    return True


def _remove_if_dead(item: os.DirEntry[str], *, is_own: bool) -> None:
    if not item.is_file(follow_symlinks=False):
        return
    age = time.time() - item.stat(follow_symlinks=False).st_mtime
    if sys.platform == "win32":  # Windows refuses to remove an open file
        if age > (_UNLOCKED_SECONDS if is_own else _STALE_SECONDS):
            Path(item.path).unlink()
        return
    if is_own or age > _STALE_SECONDS:
        fd = os.open(item.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if _lock(fd, wait=False) and is_at(fd, Path(item.path)):
                Path(item.path).unlink()
        finally:
            os.close(fd)


def _lock(fd: int, *, wait: bool) -> bool:
    """Lock an open file until it is closed (a kill closes it too).

    Return False where another process holds the lock, or where the system has no locks.
    """
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def is_at(fd: int, path: Path) -> bool:
    """Return whether a path still leads to the open file."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except OSError:
        return False


@cache
def machine() -> str:
    """Return 8 hex digits for this machine. Without a network address they are random, which only delays removal."""
    return hashlib.sha256(f"{platform.node()} {uuid.getnode()}".encode()).hexdigest()[:8]
