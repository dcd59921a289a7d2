"""Read parts of a file that must not change while it is open. Standard library only.

No file of the user is mapped into memory. Where a mapped file shrinks, or its drive goes away, the system ends the
whole process (SIGBUS on Linux and macOS, an access violation on Windows): inside a WebUI that is the host. A read
reports the same event as an error.
"""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

from ..errors import FileError
from .header import open_file

_PIECE = 1 << 22  # of what is hashed. Not small: between two pieces a thread may wait for one that runs Python


class SteadyFile:
    """A file opened for reading. Each read checks that size and modification time are those of the opening.

    Raises ``FileError`` where the file cannot be opened or read, and where it changed. Threads may share it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stream = open_file(path)
        """The open file, at its start; for those who read the header. Reads here leave its position alone on POSIX."""
        self._turn = threading.Lock()
        try:
            self._stamp = self._stamp_now()
        except BaseException:
            self.stream.close()
            raise

    @property
    def size(self) -> int:
        """Size in bytes at the opening."""
        return self._stamp[0]

    def close(self) -> None:
        self.stream.close()

    def read(self, start: int, count: int) -> bytes:
        """``count`` bytes from position ``start``."""
        data = bytearray(count)
        self.read_into(memoryview(data), start)
        return bytes(data)

    def read_into(self, buffer: memoryview, start: int) -> None:
        """Fill a writable buffer of bytes from position ``start``."""
        if self.stream.closed:
            raise ValueError(f"{self.path}: this file is closed")
        left = buffer
        while len(left):
            try:
                count = self._read_some(left, start)
            except OSError as error:
                raise FileError(
                    f"{self.path}: cannot be read at byte {start}: {error.strerror}. Check the disk or the network, "
                    "then try again."
                ) from error
            if count == 0:
                break
            left, start = left[count:], start + count
        self.check()
        if len(left):
            raise self._changed(f"it ends at byte {start}")

    def sha256(self, start: int = 0) -> str:
        """SHA-256 of the bytes from position ``start`` to the end, hex. Streams, and lets other threads run."""
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(min(_PIECE, self.size - start)))
        while start < self.size:
            piece = buffer[: self.size - start]
            self.read_into(piece, start)
            digest.update(piece)
            start += len(piece)
        return digest.hexdigest()

    def check(self) -> None:
        """Raise ``FileError`` where the file is not as it was at the opening."""
        size, modified = self._stamp_now()
        if size != self._stamp[0]:
            raise self._changed(f"it had {self._stamp[0]} bytes and has {size} now")
        if modified != self._stamp[1]:
            raise self._changed("it was written to")

    def _read_some(self, buffer: memoryview, start: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self.stream.fileno(), [buffer], start)
        with self._turn:
            self.stream.seek(start)
            return self.stream.readinto(buffer) or 0

    def _stamp_now(self) -> tuple[int, int]:
        """Size and modification time of what is open; a new file under the same name is not meant."""
        try:
            found = os.fstat(self.stream.fileno())
        except OSError as error:
            raise FileError(f"{self.path}: cannot be read: {error.strerror}. Try again.") from error
        return found.st_size, found.st_mtime_ns

    def _changed(self, what: str) -> FileError:
        return FileError(
            f"{self.path}: the file changed while it was being read ({what}). "
            "Wait until it is complete, then try again."
        )
