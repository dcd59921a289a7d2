"""Read parts of a file that must not change while it is open. Standard library only.

No file of the user is mapped into memory. If a mapped file shrinks or its drive is removed, the system ends the whole
process (SIGBUS on Linux and macOS, an access violation on Windows), which in a WebUI is the host. A read reports the
same event as an error.
"""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

from ..errors import FileError
from .header import open_file

_PIECE = 1 << 22  # bytes hashed at a time; not small, because between two pieces the thread may wait for the GIL


class SteadyFile:
    """A file opened for reading. Each read checks that size and modification time are unchanged since it was opened.

    Raises ``FileError`` where the file cannot be opened or read, and where it changed. Threads can share an instance.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stream = open_file(path)
        """The open file, at its start, for reading the header. On POSIX the methods here do not move its position."""
        self._lock = threading.Lock()
        try:
            self._stamp = self._stamp_now()
        except BaseException:
            self.stream.close()
            raise

    @property
    def size(self) -> int:
        """Size in bytes when the file was opened."""
        return self._stamp[0]

    def close(self) -> None:
        """Close the file."""
        self.stream.close()

    def read(self, start: int, count: int) -> bytes:
        """Read `count` bytes from position `start`."""
        data = bytearray(count)
        self.read_into(memoryview(data), start)
        return bytes(data)

    def read_into(self, buffer: memoryview, start: int) -> None:
        """Fill a writable buffer of bytes from position `start`."""
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
        """Return the SHA-256 of the bytes from position `start` to the end, in hex.

        Reads the file in pieces and releases the GIL.
        """
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(min(_PIECE, self.size - start)))
        while start < self.size:
            piece = buffer[: self.size - start]
            self.read_into(piece, start)
            digest.update(piece)
            start += len(piece)
        return digest.hexdigest()

    def check(self) -> None:
        """Raise ``FileError`` where the file changed since it was opened."""
        size, modified = self._stamp_now()
        if size != self._stamp[0]:
            raise self._changed(f"it had {self._stamp[0]} bytes and has {size} now")
        if modified != self._stamp[1]:
            raise self._changed("it was modified")

    def _read_some(self, buffer: memoryview, start: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self.stream.fileno(), [buffer], start)
        with self._lock:
            self.stream.seek(start)
            return self.stream.readinto(buffer) or 0

    def _stamp_now(self) -> tuple[int, int]:
        """Return size and modification time of the open file, not of a new file under the same name."""
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
