"""Advisory locks between processes and threads. The system releases them after a kill. Standard library only."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_WAIT = 0.05  # seconds between two tries on Windows, whose own waiting gives up after ten seconds


@contextlib.contextmanager
def folder_turn(folder: Path) -> Iterator[None]:
    """Let one process or thread at a time work in a folder. The lock is on the folder itself and needs no cleanup.

    Without effect where the folder is missing, on disks without locks, and on Windows, which refuses to move open
    files.
    """
    fd = -1
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            fd = os.open(folder, os.O_RDONLY)
            _wait_for(fd)
    try:
        yield
    finally:
        if fd >= 0:
            os.close(fd)


@contextlib.contextmanager
def file_turn(path: Path) -> Iterator[None]:
    """Let one process or thread at a time hold a lock file, on every system.

    The file is created where it is missing, and stays. Raises ``OSError`` where it cannot be opened.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with contextlib.suppress(OSError):  # a disk without locks
            _wait_for(fd)
        yield
    finally:
        os.close(fd)


def try_file(path: Path) -> int | None:
    """Lock a file, and return its descriptor, which is to be closed; None where another process or thread has it.

    The file is created where it is missing. Raises ``OSError`` where it cannot be opened.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    if try_lock(fd) is False:
        os.close(fd)
        return None
    return fd


def try_lock(fd: int) -> bool | None:
    """Lock an open file until it is closed. False: another process or thread has it; None: a disk without locks."""
    try:
        _try(fd)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return None
    return True


def _try(fd: int) -> None:
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    import msvcrt

    msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)


def _wait_for(fd: int) -> None:
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(fd, fcntl.LOCK_EX)
        return
    import msvcrt

    while True:
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except PermissionError:  # another process has it
            time.sleep(_WAIT)
        else:
            return
