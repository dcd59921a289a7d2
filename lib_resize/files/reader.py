"""Read tensors of a safetensors file from its memory map, without copying."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
import mmap
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DamagedFileError, FileError
from .header import Entry, open_file, parse_header, read_fully

STORAGE: dict[str, np.dtype[Any]] = {
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), np.dtype("<u2")),
    **dict.fromkeys(("BOOL", "U8"), np.dtype("u1")),
    **dict.fromkeys(("F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), np.dtype("u1")),
    "I8": np.dtype("i1"),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "I64": np.dtype("<i8"),
    "U64": np.dtype("<u8"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "C64": np.dtype("<c8"),
}
"""How each dtype comes back from ``SafeFile.bits``: as numbers where NumPy is quick at them, else as bits."""

_LARGE = 1 << 30  # bytes of a file that is not to be in memory as a whole
_PIECE = 1 << 24  # large, for between two pieces a thread may have to wait for one that runs Python
_SAMPLE = 512

Bits = NDArray[Any]
Raw = bytes


class SafeFile:
    """A safetensors file, opened read-only: ``with SafeFile(path) as file: file.bits(name)``.

    Raises what ``read_header`` raises. Safe to use from several threads. Arrays may outlive the file: they
    keep the memory map, and on Windows with it the file's name, until the last of them is gone.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._stream = open_file(self.path)
        self._turn = threading.Lock()
        try:
            self.header = parse_header(self._stream, self.path)
            self._map: mmap.mmap | None = self._map_bytes(0, self.header.file_bytes)
        except BaseException:
            self._stream.close()
            raise

    def __enter__(self) -> SafeFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file. Arrays and views that are still alive stay valid."""
        self._stream.close()
        whole, self._map = self._map, None
        if whole is not None:
            # BufferError: somebody still looks at the map; it is unmapped when the last view of it dies.
            with contextlib.suppress(BufferError):
                whole.close()

    def renamed(self, names: Mapping[str, str], metadata: Mapping[str, str]) -> SafeFile:
        """The same open file, its tensors under other names (old -> new, all of them) and with other metadata.

        It lives as long as this one is open.
        """
        other = copy.copy(self)
        entries = {names[key]: entry for key, entry in self.header.entries.items()}
        other.header = replace(self.header, entries=entries, metadata=dict(metadata))
        return other

    def bits(self, key: str) -> Bits:
        """The tensor as a read-only view of the map: its shape, dtype as in ``STORAGE``, any alignment."""
        entry = self.header.entries[key]
        return _as_array(self._whole(), self.header.data_start + entry.start, entry, entry.shape)

    def window(self, key: str, rows: tuple[int, int] | None = None) -> Bits:
        """Like ``bits``, of rows ``rows[0]`` to ``rows[1]`` (excluded), on a map of its own.

        The memory that reading it takes is given back when the array dies, so that a checkpoint of any size
        can be walked through.
        """
        entry = self.header.entries[key]
        shape, skipped = entry.shape, 0
        if rows is not None:
            shape = _rows_shape(key, entry, rows)
            skipped = rows[0] * math.prod(entry.shape[1:])
        storage = STORAGE[entry.dtype]
        nbytes = math.prod(shape) * storage.itemsize
        if nbytes == 0:
            return _as_array(b"", 0, entry, shape)
        start = self.header.data_start + entry.start + skipped * storage.itemsize
        # A map may only begin at a multiple of this (64 KiB on Windows).
        lead = start % mmap.ALLOCATIONGRANULARITY
        return _as_array(self._map_bytes(start - lead, lead + nbytes), lead, entry, shape)

    def bytes(self, key: str) -> memoryview:
        """The tensor's data as they lie in the file, a read-only view."""
        entry = self.header.entries[key]
        start = self.header.data_start
        return memoryview(self._whole())[start + entry.start : start + entry.stop]

    def scalar(self, key: str) -> float:
        """The value of a tensor of one element, of any ordinary dtype. Raises ``DamagedFileError``."""
        entry = self.header.entries[key]
        decode = _DECODE.get(entry.dtype)
        if math.prod(entry.shape) != 1 or decode is None:
            raise DamagedFileError(
                f"{self.path}: tensor {key!r} is {entry.dtype} of shape {list(entry.shape)}; "
                "expected a single number. Download or copy the file again."
            )
        return float(decode(self.bits(key).reshape(-1))[0])

    def sha256(self) -> str:
        """SHA-256 of the whole file, hex. Streams, and lets other threads run."""
        digest = hashlib.sha256()
        for piece in self._pieces():
            digest.update(piece)
        return digest.hexdigest()

    def sample(self, start: int, count: int) -> Raw:
        """``count`` bytes at the file position ``start``, read without touching the map."""
        with self._turn:
            self._stream.seek(start)
            return read_fully(self._stream, count)

    def _pieces(self) -> Iterator[Raw | memoryview]:
        """The whole file in order: as views of the map, whose pages are wanted anyway, or where it is as large as a
        checkpoint, of which one tensor at a time is wanted, read past it."""
        whole = memoryview(self._whole())
        is_large = len(whole) > _LARGE
        for start in range(0, len(whole), _PIECE):
            end = min(start + _PIECE, len(whole))
            yield self.sample(start, end - start) if is_large else whole[start:end]

    def _whole(self) -> mmap.mmap:
        if self._map is None:
            raise ValueError(f"{self.path}: this file is closed")
        return self._map

    def _map_bytes(self, start: int, count: int) -> mmap.mmap:
        try:
            return mmap.mmap(self._stream.fileno(), count, access=mmap.ACCESS_READ, offset=start)
        except (OSError, ValueError) as error:
            raise FileError(f"{self.path}: cannot be mapped into memory: {error}.") from error


def fingerprint(file: SafeFile) -> str:
    """A key for what a checkpoint contains, not for where it lies: 64 hex digits.

    SHA-256 over the header and 512 bytes from the middle of every tensor of two or more dimensions, so that
    two fine-tunes of one layout differ and a renamed copy does not. Reads about 1 MB of a 7 GB file.
    """
    data_start = file.header.data_start
    digest = hashlib.sha256(file.sample(0, data_start))
    for entry in file.header.entries.values():
        if len(entry.shape) >= 2:
            middle = (entry.start + entry.stop) // 2
            start = max(entry.start, middle - _SAMPLE // 2)
            digest.update(file.sample(data_start + start, min(entry.stop - start, _SAMPLE)))
    return digest.hexdigest()


def _as_array(buffer: mmap.mmap | bytes, offset: int, entry: Entry, shape: tuple[int, ...]) -> Bits:
    storage = STORAGE[entry.dtype]
    count = math.prod(shape)
    if count == 0:
        empty = np.empty(shape, storage)
        empty.flags.writeable = False
        return empty
    return np.frombuffer(buffer, storage, count, offset).reshape(shape)


def _rows_shape(key: str, entry: Entry, rows: tuple[int, int]) -> tuple[int, ...]:
    first, last = rows
    if not entry.shape or not 0 <= first <= last <= entry.shape[0]:
        raise ValueError(f"rows {first} to {last} were asked of tensor {key!r}, which has the shape {entry.shape}")
    return (last - first, *entry.shape[1:])


def _e4m3(bits: Bits) -> Bits:
    """fp8 e4m3fn to float64: sign, 4 exponent bits (bias 7), 3 mantissa bits, no infinity, 0x7f is NaN."""
    magnitude = (bits & 0x7F).astype(np.int64)
    exponent, mantissa = magnitude >> 3, magnitude & 7
    value = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10.0))
    value = np.where(magnitude == 0x7F, np.nan, value)
    return np.where(bits & 0x80, -value, value)


_DECODE: dict[str, Callable[[Bits], Bits]] = {
    **dict.fromkeys(("BOOL", "U8", "I8", "U16", "I32", "U32", "I64", "U64", "F32", "F64"), lambda bits: bits),
    "I16": lambda bits: bits.view("<i2"),
    "F16": lambda bits: bits.view("<f2"),
    "BF16": lambda bits: (bits.astype("<u4") << 16).view("<f4"),
    "F8_E5M2": lambda bits: (bits.astype("<u2") << 8).view("<f2"),
    "F8_E4M3": _e4m3,
}
"""From storage to numbers, for the dtypes in which trainers store single numbers."""
