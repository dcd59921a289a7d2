"""Read the header of a GGUF file: names, shapes, packing and positions of its tensors, and a few fields.

The library ``gguf`` parses headers too, but maps the file into memory, and a mapped file that shrinks ends the process.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import DamagedFileError
from ..files.steady import SteadyFile

_VERSIONS = (2, 3)
_MOST_BYTES = 100_000_000
"""Longer headers are refused; real files have a few megabytes."""
_MOST_DIMENSIONS = 8
_MOST_NESTED = 4
_PIECE = 1 << 20
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""The struct code of each numeric type."""
_TEXT, _LIST = 8, 9

FieldValue = int | float | bool | str | tuple[int | float | bool, ...] | None


@dataclass(frozen=True)
class PackedTensor:
    """One tensor: dimensions in GGUF's order (torch's last one first), packing type, position in the file in bytes."""

    dimensions: tuple[int, ...]
    kind: int
    start: int


@dataclass(frozen=True)
class GgufHeader:
    """The fields and tensors of a GGUF file."""

    fields: Mapping[str, FieldValue]
    """Numbers, texts and lists of numbers; None for other lists."""
    tensors: Mapping[str, PackedTensor]


def read_gguf_header(file: SteadyFile) -> GgufHeader:
    """Read a header. Raises ``DamagedFileError`` where it is not valid, ``FileError`` where the file cannot be read."""
    return _HeaderReader(file).header()


class _HeaderReader:
    """Reads a header from start to end, with bounds on everything that the file claims."""

    def __init__(self, file: SteadyFile) -> None:
        self._file = file
        self._piece = b""
        self._first = 0
        """Position of `_piece` in the file."""
        self._at = 0

    def header(self) -> GgufHeader:
        """Read the whole header. Raises ``DamagedFileError`` and ``FileError``."""
        if self._bytes(4) != b"GGUF":
            raise self._damaged("it does not begin with GGUF")
        version = self._number("I")
        if version not in _VERSIONS:
            raise self._damaged(f"its version is {version}; 2 or 3 was expected")
        tensors, fields = self._number("Q"), self._number("Q")
        found = dict(self._field() for _ in range(self._count(fields, least=13)))
        places = [self._tensor() for _ in range(self._count(tensors, least=24))]
        start = self._data_start(found)
        named = {name: PackedTensor(sizes, kind, start + offset) for name, sizes, kind, offset in places}
        if len(named) != len(places):
            raise self._damaged("a tensor name occurs twice")
        return GgufHeader(found, named)

    def _field(self) -> tuple[str, FieldValue]:
        return self._text(), self._value(self._number("I"), nested=0)

    def _value(self, kind: int, nested: int) -> FieldValue:
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        if kind == _TEXT:
            return self._text()
        if kind == _LIST and nested < _MOST_NESTED:
            return self._list(nested + 1)
        raise self._damaged(f"a field has the unknown type {kind}")

    def _list(self, nested: int) -> FieldValue:
        kind, count = self._number("I"), self._number("Q")
        if kind in _NUMBERS:
            code = f"<{self._count(count, struct.calcsize('<' + _NUMBERS[kind]))}{_NUMBERS[kind]}"
            return struct.unpack(code, self._bytes(struct.calcsize(code)))
        for _ in range(self._count(count, least=8)):
            self._value(kind, nested)
        return None

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name, count = self._text(), self._number("I")
        if count > _MOST_DIMENSIONS:
            raise self._damaged(f"tensor {name[:80]!r} has {count} dimensions")
        sizes = tuple(self._number("Q") for _ in range(count))
        return name, sizes, self._number("I"), self._number("Q")

    def _data_start(self, fields: Mapping[str, FieldValue]) -> int:
        alignment = fields.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise self._damaged(f"its alignment is {alignment!r}; a power of two was expected")
        return -(-self._at // alignment) * alignment

    def _text(self) -> str:
        try:
            return self._bytes(self._count(self._number("Q"), least=1)).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._damaged("a name or text is not UTF-8") from error

    def _number(self, code: str) -> int:
        """Read one number: int for integer types, else float or bool."""
        packed = struct.Struct("<" + code)
        (number,) = packed.unpack(self._bytes(packed.size))
        return number  # type: ignore[no-any-return]

    def _count(self, count: int, least: int) -> int:
        """Return a count of entries of at least `least` bytes each. Raises where the file cannot hold so many."""
        if count * least > min(self._file.size, _MOST_BYTES) - self._at:
            raise self._damaged(f"it claims {count} entries at byte {self._at}, more than fit into it")
        return count

    def _bytes(self, count: int) -> bytes:
        end = self._at + count
        if end > min(self._file.size, _MOST_BYTES):
            raise self._damaged(f"its header does not end within {min(self._file.size, _MOST_BYTES)} bytes")
        if end > self._first + len(self._piece):
            self._first = self._at
            self._piece = self._file.read(self._at, min(max(count, _PIECE), self._file.size - self._at))
        found = self._piece[self._at - self._first : end - self._first]
        self._at = end
        return found

    def _damaged(self, what: str) -> DamagedFileError:
        return DamagedFileError(f"{self._file.path}: cannot be read as GGUF: {what}. Download or copy the file again.")


def torch_shape(name: str, tensor: PackedTensor, header: GgufHeader) -> tuple[int, ...]:
    """Return a tensor's shape in torch's order.

    Convolutions may be stored flattened; ComfyUI's tools note their real shape in a field.
    """
    noted = header.fields.get(f"comfy.gguf.orig_shape.{name}")
    if isinstance(noted, tuple) and math.prod(noted) == math.prod(tensor.dimensions):
        return tuple(int(size) for size in noted)
    return tuple(reversed(tensor.dimensions))
