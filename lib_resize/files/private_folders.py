"""Folders for files that only this process uses, removed when it no longer needs them, or at the next start.

A name is ``private-``, 8 digits for the machine, 8 random digits. The folder contains a file ``lock``, which is locked
as long as its process runs: a folder of this machine whose lock is free was left by a killed process. Where the disk
has no locks, and for other machines, a folder is removed a day after the last change. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from ..errors import OutputError
from .drafts import is_at, machine
from .locks import try_lock

_NAME = re.compile(r"private-([0-9a-f]{8})[0-9a-f]{8}")
_LOCK = "lock"
_STALE_SECONDS = 24 * 3600
_TRIES = 100


class PrivateFolder:
    """A folder that is removed with all its files when it is closed."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    def close(self) -> None:
        """Remove the folder. A file that another program has open stays until the next start."""
        if self._lock < 0:
            return
        for entry in list(self.path.iterdir()) if self.path.exists() else ():
            if entry.name != _LOCK:
                _remove(entry)
        os.close(self._lock)  # Windows removes no open file
        self._lock = -1
        _remove(self.path)

    def __enter__(self) -> PrivateFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def create(parents: Sequence[Path]) -> PrivateFolder:
    """Create a folder in the first of some folders where that is possible. Raises ``OutputError``."""
    failed: OSError | None = None
    for parent in parents:
        try:
            return _created(parent)
        except OSError as error:
            failed = error
    if failed is None:
        raise OutputError(
            "All folders for temporary files are in folders that are scanned for models. Set RESIZE_LORA_CACHE to a "
            "folder outside of them."
        )
    raise OutputError(
        f"No folder for temporary files can be created: {failed.strerror}. Set RESIZE_LORA_CACHE to another folder."
    ) from failed


def _created(parent: Path) -> PrivateFolder:
    parent.mkdir(parents=True, exist_ok=True)
    for _ in range(_TRIES):
        path = parent / f"private-{machine()}{os.urandom(4).hex()}"
        path.mkdir(mode=0o700)
        with contextlib.suppress(FileNotFoundError):  # swept before it was locked
            fd = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            if try_lock(fd) is not False and is_at(fd, path / _LOCK):
                return PrivateFolder(path, fd)
            os.close(fd)
    raise FileExistsError(f"no free name for a temporary folder in {parent}")


def sweep(parent: Path) -> None:
    """Remove the folders of dead processes. Never raises; those of running processes are not touched."""
    with contextlib.suppress(OSError), os.scandir(parent) as found:
        for item in found:
            match = _NAME.fullmatch(item.name)
            if match and item.is_dir(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    _remove_if_dead(Path(item.path), is_own=match[1] == machine())


def _remove_if_dead(path: Path, *, is_own: bool) -> None:
    is_old = time.time() - path.stat().st_mtime > _STALE_SECONDS
    fd = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        locked = try_lock(fd)
        is_dead = (locked is True and (is_own or is_old)) or (locked is None and is_old)
        if is_dead:
            for entry in path.iterdir():
                if entry.name != _LOCK:
                    _remove(entry)
    finally:
        os.close(fd)
    if is_dead:
        _remove(path)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
