"""Read, check, lay out and encode the header of a safetensors file. Standard library only.

A file is eight bytes (length of the header, little endian), the header (JSON, padded with spaces) and the tensor
region. Every offset here is in bytes from the start of the tensor region, as in the format.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ..errors import FileError, OutputError
from .damage import COPY_AGAIN, damaged_file, shortened
from .header_entries import DTYPE_BYTES as DTYPE_BYTES
from .header_entries import TensorEntry as TensorEntry
from .header_entries import entry_of
from .header_json import parse_object, parse_value
from .other_formats import refuse_other_formats

T = TypeVar("T")

MAX_HEADER_BYTES = 100_000_000
"""The library refuses longer headers. No file can make this package allocate more."""

MODEL_HASH = "sshs_model_hash"
LEGACY_HASH = "sshs_legacy_hash"
PLACEHOLDERS = {MODEL_HASH: "0" * 64, LEGACY_HASH: "0" * 8}
"""Values of the same length as the hashes that replace them once the tensor region is written."""

_DTYPE_RANK = {dtype: place for place, dtype in enumerate(DTYPE_BYTES)}
_SNIFF_BYTES = 512
_METADATA = "__metadata__"
_BLANKS = b" \t\r\n"


class TensorSpec(NamedTuple):
    """A tensor to write: name, dtype name (a key of ``DTYPE_BYTES``) and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of the tensor's data, in bytes."""
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True)
class Layout:
    """The tensors of a file by their header, and what was found from them alone.

    Files that say the same share a layout, see `alike`, so neither the entries nor the results ever change.
    """

    entries: Mapping[str, TensorEntry]
    """Tensors by name, in the order of the header. A name is only a string: never use it as a path."""
    _found: dict[str, tuple[Hashable, Any]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def found(self, question: str, given: Hashable = None) -> Any:
        """Return what was kept for a question and for what was `given` with it; None for nothing."""
        known = self._found.get(question)
        return known[1] if known is not None and known[0] == given else None

    def keep(self, question: str, result: T, given: Hashable = None) -> T:
        """Keep a result that follows from the entries and from `given`, and return it.

        Of each question the last result is kept, for all files of this layout.
        """
        self._found[question] = (given, result)
        return result


@dataclass(frozen=True)
class Header:
    """A checked header: the tensors cover the tensor region completely, each byte once."""

    layout: Layout
    """The tensors."""
    metadata: dict[str, str]
    """The file's text fields; empty if it has none."""
    data_start: int
    """Position of the tensor region in the file, in bytes."""
    file_bytes: int
    """Size of the whole file, in bytes."""

    @property
    def entries(self) -> Mapping[str, TensorEntry]:
        """Tensors by name, in the order of the header."""
        return self.layout.entries


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read and check the header of a safetensors file. No tensor data is read.

    Raises ``FileError`` if the path cannot be opened as a file, ``UnsupportedError`` for pickles and other known
    formats, ``DamagedFileError`` for everything else that is not a whole, well-formed safetensors file.
    """
    path = Path(path)
    with open_file(path) as stream:
        return parse_header(stream, path)


def open_file(path: Path) -> io.FileIO:
    """Open a regular file for reading, unbuffered. Raises ``FileError`` with a message for the user.

    Pipes and devices are refused without opening them: opening a pipe waits until somebody writes to it.
    """
    try:
        if path.is_dir():
            raise FileError(f"{path}: this is a folder, a .safetensors file was expected.")
        if path.exists() and not path.is_file():
            raise FileError(f"{path}: this is a pipe or a device, a .safetensors file was expected.")
        return open(path, "rb", buffering=0)
    except FileNotFoundError as error:
        raise FileError(f"{path}: no such file. Check the path, and that the drive is connected.") from error
    except PermissionError as error:
        raise FileError(f"{path}: no permission to read this file. Check its permissions.") from error
    except OSError as error:
        raise FileError(f"{path}: cannot be opened: {error.strerror}.") from error
    except ValueError as error:  # a NUL in the path
        raise FileError(f"{str(path)!r}: cannot be opened: {error}.") from error


def parse_header(stream: io.FileIO, path: Path) -> Header:
    """Read and check the header of an open file, at its start. `path` is used in messages only.

    Raises what ``read_header`` raises.
    """
    return parse_text(read_text(stream, path), path)


@dataclass(frozen=True)
class HeaderText:
    """The bytes of a header, not parsed yet."""

    json: bytes
    file_bytes: int
    """Size of the whole file, in bytes."""

    @property
    def data_start(self) -> int:
        """Position of the tensor region in the file, in bytes."""
        return 8 + len(self.json)


def read_text(stream: io.FileIO, path: Path) -> HeaderText:
    """Read the bytes of the header of an open file, at its start.

    Raises what ``read_header`` raises, except for faults inside of the JSON.
    """
    try:
        size = os.fstat(stream.fileno()).st_size
        start = stream.read(_SNIFF_BYTES)
        length = _header_length(path, start, size)
        raw = (start[8:] + read_fully(stream, 8 + length - len(start)))[:length]
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}. {COPY_AGAIN}") from error
    if len(raw) < length:
        raise damaged_file(path, "the file shrank while it was being read", "a file that does not change", "Try again.")
    return HeaderText(raw, size)


def parse_text(text: HeaderText, path: Path) -> Header:
    """Parse and check a header. Raises ``DamagedFileError``; `path` is used in messages only."""
    document = parse_object(path, text.json)
    metadata = _metadata(path, document.pop(_METADATA, None))
    entries = {name: entry_of(path, name, fields) for name, fields in document.items()}
    _check_tiling(path, entries, text.file_bytes - text.data_start)
    return Header(Layout(entries), metadata, text.data_start, text.file_bytes)


_METADATA_FIRST = re.compile(rf'\s*\{{\s*"{_METADATA}"\s*:\s*')


def split_metadata(text: HeaderText) -> tuple[str, dict[str, str]] | None:
    """Split a header into the JSON text of its tensors and its metadata; None where the metadata does not come first.

    Much faster than ``parse_text``. Two files with the same text and the same size of data have the same tensors, so
    only one of them has to be parsed.
    """
    try:
        words = text.json.decode("utf-8")
        begin = _METADATA_FIRST.match(words)
        if begin is None:
            return None
        metadata, end = parse_value(words, begin.end())
    except (ValueError, RecursionError):
        return None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        return None
    return words[end:].rstrip(), metadata  # rstrip: the padding


def read_fully(stream: io.FileIO, count: int) -> bytes:
    """Read `count` bytes from the current position; fewer only at the end of the file."""
    pieces = []
    while count > 0:
        piece = stream.read(count)
        if not piece:
            break
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def _header_length(path: Path, start: bytes, size: int) -> int:
    """Return the length of the JSON header in bytes, from the first bytes of the file and its size in bytes."""
    if size == 0:
        raise damaged_file(path, "the file is empty (0 bytes)", "a safetensors file")
    length = int.from_bytes(start[:8], "little")
    fits = size >= 8 and length <= MAX_HEADER_BYTES and 8 + length <= size
    begin = start[8 : 8 + length].lstrip(_BLANKS)[:1]  # the library skips blanks
    if fits and length > 0 and (begin == b"{" or (not begin and length > len(start) - 8)):
        return length
    refuse_other_formats(path, start)
    if size < 8:
        raise damaged_file(path, f"the file has {size} bytes", "at least the 8 bytes that give the header's length")
    if length > MAX_HEADER_BYTES:
        raise damaged_file(path, f"the header claims {length} bytes", f"at most {MAX_HEADER_BYTES}")
    if 8 + length > size:
        raise damaged_file(
            path,
            f"the header claims {length} bytes, the file has {size}",
            "a whole file; this one is cut off",
        )
    raise damaged_file(path, f"the header begins with {start[8:9]!r}", "a JSON object, which begins with '{'")


def _metadata(path: Path, fields: object) -> dict[str, str]:
    if fields is None:
        return {}
    if not isinstance(fields, dict):
        raise damaged_file(path, f"{_METADATA} is {type(fields).__name__}", "an object of texts")
    for key, value in fields.items():
        if not isinstance(value, str):
            raise damaged_file(path, f"{_METADATA} field {shortened(key)} is {type(value).__name__}", "a text")
    return fields


def _check_tiling(path: Path, entries: Mapping[str, TensorEntry], data_bytes: int) -> None:
    """Raise ``DamagedFileError`` unless the tensors cover the tensor region exactly, each byte once."""
    end, before = 0, None
    spans = sorted((entry.start, entry.stop, name) for name, entry in entries.items())
    needed = max((stop for _, stop, _ in spans), default=0)
    if needed > data_bytes:
        missing, whole = shortened(needed - data_bytes), shortened(needed)
        raise damaged_file(
            path, f"the file is cut off: {missing} bytes are missing of {whole} bytes of tensor data", "a whole file"
        )
    for start, stop, name in spans:
        if start < end:
            raise damaged_file(
                path, f"tensor {shortened(name)} overlaps tensor {shortened(before)}", "each byte in one tensor"
            )
        if start > end:
            raise damaged_file(
                path, f"{shortened(start - end)} bytes before tensor {shortened(name)} belong to no tensor", "no gaps"
            )
        end, before = stop, name
    if end < data_bytes:
        raise damaged_file(path, f"{data_bytes - end} bytes after the last tensor belong to no tensor", "none")


def file_order(tensors: Iterable[TensorSpec]) -> list[TensorSpec]:
    """Sort tensors as the library lays them out: by dtype (last declared first), then by name."""
    return sorted(tensors, key=lambda tensor: (-_DTYPE_RANK[tensor.dtype], tensor.name))


def encode(specs: Sequence[TensorSpec], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the bytes before the tensor region (length and padded JSON) for tensors in the given order.

    For tensors in ``file_order`` they equal what the library writes, except that the library shuffles metadata of two
    or more fields. ``None`` leaves the metadata out; an empty mapping writes an empty object. Raises ``OutputError``
    for names or texts that cannot be stored.
    """
    return frame(describe(specs), metadata)


def describe(specs: Sequence[TensorSpec]) -> str:
    """Return the tensors as members of the header's JSON object, without its braces; see ``encode``.

    Raises ``OutputError`` where two tensors have one name.
    """
    fields: dict[str, object] = {}
    end = 0
    for spec in specs:
        if spec.name in fields or spec.name == _METADATA:
            raise OutputError(f"the tensor name {spec.name!r} is taken; each name can be written once.")
        start, end = end, end + spec.nbytes
        fields[spec.name] = {"dtype": spec.dtype, "shape": spec.shape, "data_offsets": (start, end)}
    return _compact(fields)[1:-1]


def frame(members: str, metadata: Mapping[str, str] | None) -> bytes:
    """Return the bytes before the tensor region, from the text that ``describe`` returned and the metadata.

    Saves time where only the metadata changes. Raises ``OutputError`` for texts that cannot be stored, and for a header
    of more than ``MAX_HEADER_BYTES``.
    """
    parts = [] if metadata is None else [f'"{_METADATA}":{_compact(_checked_texts(metadata))}']
    text = "{" + ",".join(part for part in (*parts, members) if part) + "}"
    try:
        raw = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise OutputError(f"a name or metadata text cannot be written as UTF-8: {error}.") from error
    raw += b" " * (-len(raw) % 8)
    if len(raw) > MAX_HEADER_BYTES:
        raise OutputError(f"the header would have {len(raw)} bytes; the format allows {MAX_HEADER_BYTES}.")
    return len(raw).to_bytes(8, "little") + raw


def _compact(document: object) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def _checked_texts(metadata: Mapping[str, str]) -> dict[str, str]:
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise OutputError(f"the metadata field {key!r} is {type(value).__name__}; the format stores texts only.")
    return dict(metadata)
