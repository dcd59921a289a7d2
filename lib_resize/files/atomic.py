"""Write files atomically: a temporary file first, then one step to the final name. Standard library only.

The temporary file is in the folder of the final file, so that the last step is a rename on one disk. Its name ends in
``.part``, so that no host lists it as a model. It is locked as long as its process runs (see ``drafts``).
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from ..errors import OutputError
from . import drafts
from .drafts import sweep as sweep
from .locks import folder_turn

_GATHER_BYTES = 1 << 16
# Errors of file systems without hard links: FAT, some network and FUSE mounts, Android.
_NO_LINKS = frozenset(
    (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EXDEV, errno.EMLINK)
)
_FULL_DISK = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_IN_USE = (errno.EBUSY, errno.ETXTBSY)
_WINDOWS_IN_USE = (32, 33, 1224)  # sharing violation, lock violation, user-mapped section open


def mib(nbytes: int) -> str:
    """Return a size in bytes as text in MiB (2**20 bytes), with two decimals."""
    return f"{nbytes / 2**20:.2f} MiB"


class AtomicFile:
    """A new file that gets its final name only when it is complete.

    ``with AtomicFile(final) as file:``, then ``open``, ``write`` (repeatedly), ``finish``, ``publish``. If the block
    ends early, by Ctrl-C too, the temporary file is removed and nothing changes under the final name. Its methods
    raise ``OutputError``; errors raised by the code inside of the block pass unchanged.
    """

    def __init__(self, final: Path, *, overwrite: bool = False) -> None:
        self.final = final
        self.overwrite = overwrite
        self.path = drafts.new_path(final.parent)
        """The temporary file; it exists from ``open`` until ``publish``."""
        self._fd = -1
        self._gathered = bytearray()

    def __enter__(self) -> AtomicFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        with contextlib.suppress(OSError):
            self.path.unlink()

    def open(self) -> None:
        """Create the folder if it is missing, refuse names that cannot be used, create the empty temporary file."""
        with in_plain_words(self.final):
            self.final.parent.mkdir(parents=True, exist_ok=True)
            refuse_taken(self.final, overwrite=self.overwrite)
            sweep(self.final.parent)
            self.path, self._fd = drafts.create(self.final.parent)

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes. Small pieces are collected into larger writes."""
        if self._gathered and len(self._gathered) + len(data) > _GATHER_BYTES:
            self._flush()
        if len(data) > _GATHER_BYTES // 4:
            self._flush()
            self._write_all(memoryview(data))
        else:
            self._gathered += data

    def rewrite_start(self, data: bytes) -> None:
        """Replace the first bytes of the file."""
        self._flush()
        with in_plain_words(self.final):
            os.lseek(self._fd, 0, os.SEEK_SET)
        self._write_all(memoryview(data))
        with in_plain_words(self.final):
            os.lseek(self._fd, 0, os.SEEK_END)

    def finish(self) -> None:
        """Flush all bytes to the disk, and drop them from the system's cache where it allows that.

        Later reads then come from the disk. The temporary file stays open where an open file can be renamed: its lock
        shows that this process is alive.
        """
        self._flush()
        with in_plain_words(self.final):
            os.fsync(self._fd)
        if hasattr(os, "posix_fadvise"):
            with contextlib.suppress(OSError):
                os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if sys.platform == "win32":
            self._close()

    def publish(self) -> None:
        """Move the finished file to its final name, in one step."""
        with in_plain_words(self.final):
            if self.overwrite:
                self.path.replace(self.final)
            else:
                move_if_free(self.path, self.final)
            sync_folder(self.final.parent)

    def _flush(self) -> None:
        gathered, self._gathered = self._gathered, bytearray()
        self._write_all(memoryview(gathered))

    def _write_all(self, view: memoryview) -> None:
        with in_plain_words(self.final):
            while len(view):
                view = view[os.write(self._fd, view) :]

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)


def write_whole(final: Path, data: bytes, *, overwrite: bool = False) -> None:
    """Write a small file completely or not at all. Raises ``OutputError``."""
    with AtomicFile(final, overwrite=overwrite) as draft:
        draft.open()
        draft.write(data)
        draft.finish()
        draft.publish()


def refuse_taken(final: Path, *, overwrite: bool) -> None:
    """Raise ``OutputError`` if the name cannot be used: taken without ``overwrite``, a folder, too long."""
    with in_plain_words(final):
        try:
            os.lstat(final)
        except FileNotFoundError:
            return
    if final.is_dir():
        raise OutputError(f"{final}: there is a folder of this name. Choose another name.")
    if not overwrite:
        raise OutputError(_exists(final))


def check_room(folder: Path, needed: int) -> None:
    """Raise ``OutputError`` if the disk of this existing folder has fewer than ``needed`` bytes free."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return
    # Some network mounts report a size of zero. Then only the write itself can fail.
    if usage.total > 0 and usage.free < needed:
        raise OutputError(
            f"{folder}: the disk has {mib(usage.free)} free, the file needs {mib(needed)}. "
            "Free some space or choose another folder."
        ) from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def move_if_free(temporary: Path, final: Path) -> None:
    """Rename without replacing: of several processes that try at the same time, exactly one succeeds.

    Raises ``FileExistsError`` where the name is taken, and other ``OSError``.
    """
    if sys.platform == "win32":
        temporary.rename(final)  # fails if the name is taken
        return
    try:
        os.link(temporary, final)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _move_under_lock(temporary, final)
    else:
        temporary.unlink()


def _move_under_lock(temporary: Path, final: Path) -> None:
    """Check, then rename, while no other process of this program can. For file systems without hard links."""
    with folder_turn(final.parent):
        if os.path.lexists(final):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final))
        temporary.rename(final)


def sync_folder(folder: Path) -> None:
    """Flush the folder's entries to the disk, where the system can (Windows cannot open folders)."""
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


@contextlib.contextmanager
def in_plain_words(final: Path) -> Iterator[None]:
    """Turn errors while ``final`` is checked or written into ``OutputError`` with a message for the user."""
    try:
        yield
    except OSError as error:
        raise OutputError(explain(error, final)) from error
    except ValueError as error:  # a NUL in the path
        raise OutputError(f"{str(final)!r}: this cannot be a file name: {error}.") from error


def is_full(error: BaseException) -> bool:
    """Return whether an error, or one that caused it, is that of a full disk."""
    return any(one.errno in _FULL_DISK or getattr(one, "winerror", None) == 112 for one in _causes(error))


def is_in_use(error: BaseException) -> bool:
    """Return whether an error, or one that caused it, is that of a file that another program has open."""
    return any(getattr(one, "winerror", None) in _WINDOWS_IN_USE or one.errno in _IN_USE for one in _causes(error))


def _causes(error: BaseException | None) -> Iterator[OSError]:
    while error is not None:
        if isinstance(error, OSError):
            yield error
        error = error.__cause__


def _exists(final: Path) -> str:
    return f"{final}: this file exists already. Choose another name, or allow overwriting (--overwrite)."


def explain(error: OSError, final: Path) -> str:
    """Return a message for a failed write to ``final``: what happened, and what to do."""
    if isinstance(error, FileExistsError):
        return _exists(final) if os.path.lexists(final) else f"{final}: there is a file where its folder should be."
    if getattr(error, "winerror", None) in _WINDOWS_IN_USE:
        return f"{final}: another program has the file open, perhaps a WebUI that loaded it. Close the file there."
    words = _WORDS.get(error.errno or 0)
    if words is None:
        return f"{final}: cannot be written: {error.strerror or error}."
    return f"{final}: {words.format(folder=final.parent, length=len(os.fsencode(final.name)))}"


_DENIED = "no permission to write in the folder {folder}. Check its permissions or choose another folder."
_FULL = "no space is left on the disk of {folder}. Free some space or choose another folder."
_WORDS = {
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EROFS: "the disk of {folder} is mounted read-only. Choose another folder.",
    errno.ENOSPC: _FULL,
    getattr(errno, "EDQUOT", errno.ENOSPC): _FULL,
    errno.EFBIG: "the file is larger than this disk or account allows in one file. Choose another folder.",
    errno.ENAMETOOLONG: "the name is too long ({length} bytes; most disks allow 255). Choose a shorter one.",
    errno.ENOTDIR: "there is a file where its folder should be. Choose another folder.",
    errno.ENOENT: "the folder {folder} does not exist any more. Check that the drive is connected.",
    errno.EIO: "the disk reported an error while writing. Check the disk and its free space.",
}
