"""Read single tensors of a safetensors file, on demand."""

from __future__ import annotations

import copy
import hashlib
import math
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DamagedFileError
from .alike import Layouts
from .header import Layout, TensorEntry, parse_header, read_text
from .steady import SteadyFile

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
"""dtype name -> the NumPy dtype that ``SafeFile.bits`` returns: that of the numbers where NumPy is fast with it,
else an unsigned integer of the same bits."""

_SAMPLE = 512

Bits = NDArray[Any]
Raw = bytes


class SafeFile:
    """A safetensors file, opened read-only: ``with SafeFile(path) as file: file.bits(name)``.

    Opening reads the header. Each call that reads a tensor reads it from the disk, into new memory. Raises what
    ``read_header`` raises, and ``FileError`` where the file changed since it was opened. Threads can share an instance.

    For many files, pass the same `layouts`: headers that say the same of their tensors are parsed once.
    """

    def __init__(self, path: str | os.PathLike[str], layouts: Layouts | None = None) -> None:
        self.path = Path(path)
        self._disk = SteadyFile(self.path)
        try:
            self.header = (
                parse_header(self._disk.stream, self.path)
                if layouts is None
                else layouts.header(read_text(self._disk.stream, self.path), self.path)
            )
            self._disk.check()
        except BaseException:
            self._disk.close()
            raise

    def __enter__(self) -> SafeFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Arrays already read stay valid."""
        self._disk.close()

    def renamed(self, names: Mapping[str, str], metadata: Mapping[str, str]) -> SafeFile:
        """Return the same open file with other tensor names and other metadata.

        `names` maps the name of every tensor to its new name. The returned object can be used as long as this one is
        open.
        """
        other = copy.copy(self)
        entries = {names[key]: entry for key, entry in self.header.entries.items()}
        other.header = replace(self.header, layout=Layout(entries), metadata=dict(metadata))
        return other

    def bits(self, key: str, rows: tuple[int, int] | None = None) -> Bits:
        """Read a tensor, or its rows ``rows[0]`` to ``rows[1]`` (excluded), as a read-only array.

        The array has the tensor's shape, with the number of rows in its first dimension, and the dtype that
        ``STORAGE`` has for it. Raises ``KeyError`` for an unknown name, ``ValueError`` for rows outside of the tensor,
        and ``FileError``.
        """
        entry = self.header.entries[key]
        shape, skipped = entry.shape, 0
        if rows is not None:
            shape = _rows_shape(key, entry, rows)
            skipped = rows[0] * math.prod(entry.shape[1:])
        bits = np.empty(shape, STORAGE[entry.dtype])
        if bits.size:
            start = self.header.data_start + entry.start + skipped * bits.itemsize
            self._disk.read_into(bits.reshape(-1).view(np.uint8).data, start)
        bits.flags.writeable = False
        return bits

    def bytes(self, key: str) -> Raw:
        """Read the data of a tensor as it is stored. Raises ``KeyError`` and ``FileError``."""
        entry = self.header.entries[key]
        return self._disk.read(self.header.data_start + entry.start, entry.stop - entry.start)

    def scalar(self, key: str) -> float:
        """Read a tensor of one element, of any dtype in which trainers store single numbers.

        Raises ``DamagedFileError`` for other tensors, ``KeyError`` and ``FileError``.
        """
        entry = self.header.entries[key]
        decode = _DECODE.get(entry.dtype)
        if math.prod(entry.shape) != 1 or decode is None:
            raise DamagedFileError(
                f"{self.path}: tensor {key!r} is {entry.dtype} of shape {list(entry.shape)}; "
                "expected a single number. Download or copy the file again."
            )
        plain = _STRUCTS.get(entry.dtype)
        if plain is not None:  # most are of these, and there is one for each layer
            return float(struct.unpack(plain, self.bytes(key))[0])
        return float(decode(self.bits(key).reshape(-1))[0])

    def sha256(self) -> str:
        """Return the SHA-256 of the whole file, in hex. Reads it in pieces and releases the GIL."""
        return self._disk.sha256()

    def sample(self, start: int, count: int) -> Raw:
        """Read `count` bytes from the file position `start`."""
        return self._disk.read(start, count)


def fingerprint(file: SafeFile) -> str:
    """Return a key for the contents of a checkpoint, independent of its path: 64 hex digits.

    It is the SHA-256 of the header and of 512 bytes from the middle of every tensor of two or more dimensions. Two
    fine-tunes of one architecture get two keys, a renamed copy gets the same. Reads about 1 MB of a 7 GB file.
    """
    data_start = file.header.data_start
    digest = hashlib.sha256(file.sample(0, data_start))
    for entry in file.header.entries.values():
        if len(entry.shape) >= 2:
            middle = (entry.start + entry.stop) // 2
            start = max(entry.start, middle - _SAMPLE // 2)
            digest.update(file.sample(data_start + start, min(entry.stop - start, _SAMPLE)))
    return digest.hexdigest()


def _rows_shape(key: str, entry: TensorEntry, rows: tuple[int, int]) -> tuple[int, ...]:
    first, last = rows
    if not entry.shape or not 0 <= first <= last <= entry.shape[0]:
        raise ValueError(f"rows {first} to {last} were requested of tensor {key!r}, which has the shape {entry.shape}")
    return (last - first, *entry.shape[1:])


def _e4m3(bits: Bits) -> Bits:
    """Decode fp8 e4m3fn to float64: sign, 4 exponent bits (bias 7), 3 mantissa bits, no infinity, 0x7f is NaN."""
    magnitude = (bits & 0x7F).astype(np.int64)
    exponent, mantissa = magnitude >> 3, magnitude & 7
    value = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10.0))
    value = np.where(magnitude == 0x7F, np.nan, value)
    return np.where(bits & 0x80, -value, value)


_STRUCTS = {"F16": "<e", "F32": "<f", "F64": "<d"}

_DECODE: dict[str, Callable[[Bits], Bits]] = {
    **dict.fromkeys(("BOOL", "U8", "I8", "U16", "I32", "U32", "I64", "U64", "F32", "F64"), lambda bits: bits),
    "I16": lambda bits: bits.view("<i2"),
    "F16": lambda bits: bits.view("<f2"),
    "BF16": lambda bits: (bits.astype("<u4") << 16).view("<f4"),
    "F8_E5M2": lambda bits: (bits.astype("<u2") << 8).view("<f2"),
    "F8_E4M3": _e4m3,
}
"""From stored bits to numbers, for the dtypes in which trainers store single numbers."""
