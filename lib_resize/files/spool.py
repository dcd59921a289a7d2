"""Keep matrices in a temporary file, so that only a few of them are in memory."""

from __future__ import annotations

import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import OutputError


@dataclass(frozen=True)
class SpooledMatrix:
    """A float32 matrix in a spool, shape (rows, columns); a `linalg.factor.Factor`."""

    spool: Spool
    start: int
    shape: tuple[int, int]
    kind: str = "F32"

    @property
    def bits(self) -> NDArray[Any]:
        """The matrix, read from the disk at each access. Raises ``OutputError``."""
        return self.spool.read(self.start, self.shape)


class Spool:
    """A temporary file without a name in a folder; the system removes it when it is closed. Threads can share it.

    Raises ``OutputError`` where the folder cannot be written to, or the disk is full.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = threading.Lock()
        self._end = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder, prefix=".resize-lora-", suffix=".part")  # noqa: SIM115
        except OSError as error:
            raise OutputError(f"{folder}: no temporary file can be created here: {error.strerror}.") from error

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, matrix: NDArray[np.float32]) -> SpooledMatrix:
        """Store a matrix as float32. Raises ``OutputError``."""
        rows, columns = matrix.shape
        data = np.ascontiguousarray(matrix, np.float32)
        with self._lock:
            start = self._end
            try:
                self._file.seek(start)
                self._file.write(data.reshape(-1).view(np.uint8).data)
            except OSError as error:
                raise OutputError(f"the temporary file cannot be written: {error.strerror}.") from error
            self._end += data.nbytes
        return SpooledMatrix(self, start, (rows, columns))

    def read(self, start: int, shape: tuple[int, int]) -> NDArray[np.float32]:
        """Read a matrix of this shape from position `start`, in bytes. Raises ``OutputError``."""
        values = np.empty(shape, np.float32)
        with self._lock:
            self._file.seek(start)
            if self._file.readinto(values.reshape(-1).view(np.uint8).data) != values.nbytes:
                raise OutputError("the temporary file ends early; the disk is full or damaged.")
        return values
