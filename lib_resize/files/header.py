"""The header of a safetensors file: read and checked, or laid out and encoded. Standard library only.

A file is eight bytes (length of the header, little endian), the header (JSON, padded with spaces) and
the tensor region. Every offset here is in bytes from the start of the tensor region, as in the format.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ..errors import DamagedFileError, FileError, OutputError, UnsupportedError

DTYPE_BYTES: dict[str, int] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E5M2": 1,
    "F8_E4M3": 1,
    "F8_E8M0": 1,
    "F8_E4M3FNUZ": 1,
    "F8_E5M2FNUZ": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "C64": 8,
    "F64": 8,
    "I64": 8,
    "U64": 8,
}
"""Bytes of one element by dtype name, in the order in which the safetensors library declares them."""

MAX_HEADER_BYTES = 100_000_000
"""The library refuses longer headers, so do we: no file can make us allocate more than this."""

MODEL_HASH = "sshs_model_hash"
LEGACY_HASH = "sshs_legacy_hash"
PLACEHOLDERS = {MODEL_HASH: "0" * 64, LEGACY_HASH: "0" * 8}
"""Values of the same length as the hashes that replace them when the tensor region is known."""

_DTYPE_RANK = {dtype: place for place, dtype in enumerate(DTYPE_BYTES)}
_PACKED_DTYPES = ("F4", "F6_E2M3", "F6_E3M2")
_MAX_DIMENSIONS = 32  # numpy 1.26 can hold no more
_MAX_BYTES = 2**62
_SNIFF_BYTES = 512
_METADATA = "__metadata__"
_AGAIN = "Download or copy the file again."
_SAVE = "Save it again with the tool that made it, or get another version."
_BLANKS = b" \t\r\n"


@dataclass(frozen=True)
class TensorEntry:
    """One tensor: its dtype name, its shape, and the bytes ``start`` to ``stop`` of the tensor region."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class TensorSpec:
    """A tensor to be written: name, dtype name (a key of ``DTYPE_BYTES``) and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of the tensor's data in bytes."""
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True)
class Header:
    """A checked header: the offsets tile the tensor region without holes, overlaps or rest."""

    entries: dict[str, TensorEntry]
    """Tensors by name, in the order of the header. A name is only a string: never use it as a path."""
    metadata: dict[str, str]
    """The file's free text fields; empty if it has none."""
    data_start: int
    """Position of the tensor region in the file, in bytes."""
    file_bytes: int
    """Size of the whole file."""


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read and check the header of a safetensors file; no tensor data is touched.

    Raises ``FileError`` if the path cannot be opened as a file, ``UnsupportedError`` for pickles and other
    known formats, ``DamagedFileError`` for everything that is not a whole, well-formed safetensors file.
    """
    path = Path(path)
    with open_file(path) as stream:
        return parse_header(stream, path)


def open_file(path: Path) -> io.FileIO:
    """Open a regular file for reading, unbuffered. Raises ``FileError`` in plain words.

    Pipes and devices are refused before opening, which would wait for a writer that never comes.
    """
    try:
        if path.is_dir():
            raise FileError(f"{path}: this is a folder, a .safetensors file was expected.")
        if path.exists() and not path.is_file():
            raise FileError(f"{path}: this is a pipe or a device, a .safetensors file was expected.")
        return open(path, "rb", buffering=0)
    except FileNotFoundError as error:
        raise FileError(f"{path}: no such file. Check the spelling, or whether the drive is there.") from error
    except PermissionError as error:
        raise FileError(f"{path}: we are not allowed to read this file. Check its permissions.") from error
    except OSError as error:
        raise FileError(f"{path}: cannot be opened: {error.strerror}.") from error
    except ValueError as error:  # a NUL in the path
        raise FileError(f"{str(path)!r}: cannot be opened: {error}.") from error


def parse_header(stream: io.FileIO, path: Path) -> Header:
    """Like ``read_header``, from a file that is open at its start; ``path`` is used for messages only."""
    return parse_text(read_text(stream, path), path)


@dataclass(frozen=True)
class HeaderText:
    """A header as it stands in its file, not looked at yet."""

    json: bytes
    file_bytes: int
    """Size of the whole file."""

    @property
    def data_start(self) -> int:
        return 8 + len(self.json)


def read_text(stream: io.FileIO, path: Path) -> HeaderText:
    """Of a file that is open at its start. Raises as ``read_header`` does where it is no safetensors file."""
    try:
        size = os.fstat(stream.fileno()).st_size
        start = stream.read(_SNIFF_BYTES)
        length = _header_length(path, start, size)
        raw = (start[8:] + read_fully(stream, 8 + length - len(start)))[:length]
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}. {_AGAIN}") from error
    if len(raw) < length:
        _damaged(path, "the file shrank while it was being read", "a file at rest", "Try again.")
    return HeaderText(raw, size)


def parse_text(text: HeaderText, path: Path) -> Header:
    """Raises ``DamagedFileError``; ``path`` is used for messages only."""
    document = _parse_json(path, text.json)
    metadata = _metadata(path, document.pop(_METADATA, None))
    entries = {name: _entry(path, name, fields) for name, fields in document.items()}
    _check_tiling(path, entries, text.file_bytes - text.data_start)
    return Header(entries, metadata, text.data_start, text.file_bytes)


_METADATA_FIRST = re.compile(rf'\s*\{{\s*"{_METADATA}"\s*:\s*')


def split_metadata(text: HeaderText) -> tuple[str, dict[str, str]] | None:
    """What a header says of its tensors, as text, and its metadata; None where the metadata is not at the beginning.

    Takes a small part of the time of ``parse_text``. Of two files with the same text and equally many bytes of data,
    one needs to be parsed.
    """
    try:
        words = text.json.decode("utf-8")
        begin = _METADATA_FIRST.match(words)
        if begin is None:
            return None
        reader = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant, parse_int=_PARSE_INT)
        metadata, end = reader.raw_decode(words, begin.end())
        _check_surrogates(metadata)
    except (ValueError, RecursionError):
        return None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        return None
    return words[end:].rstrip(), metadata  # without the padding


def _damaged(path: Path, found: str, expected: str, advice: str = _AGAIN) -> NoReturn:
    raise DamagedFileError(f"{path}: {found}; expected {expected}. {advice}")


def read_fully(stream: io.FileIO, count: int) -> bytes:
    """``count`` bytes from where the stream stands, fewer only at the end of the file."""
    pieces = []
    while count > 0:
        piece = stream.read(count)
        if not piece:
            break
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def _header_length(path: Path, start: bytes, size: int) -> int:
    """Length of the JSON header in bytes, from the first bytes of the file."""
    if size == 0:
        _damaged(path, "the file is empty (0 bytes)", "a safetensors file")
    length = int.from_bytes(start[:8], "little")
    fits = size >= 8 and length <= MAX_HEADER_BYTES and 8 + length <= size
    begin = start[8 : 8 + length].lstrip(_BLANKS)[:1]  # the library reads past blanks
    if fits and length > 0 and (begin == b"{" or (not begin and length > len(start) - 8)):
        return length
    _refuse_other_kinds(path, start)
    if size < 8:
        _damaged(path, f"the file has {size} bytes", "at least the 8 bytes that give the header's length")
    if length > MAX_HEADER_BYTES:
        _damaged(path, f"the header claims {length} bytes", f"at most {MAX_HEADER_BYTES}")
    if 8 + length > size:
        _damaged(
            path,
            f"the header claims {length} bytes, the file has {size}",
            "a whole file, this one is cut off",
        )
    _damaged(path, f"the header begins with {start[8:9]!r}", "a JSON object, which begins with '{'")


def _refuse_other_kinds(path: Path, start: bytes) -> None:
    """Name what the file is instead, where its first bytes tell. Only for what cannot be safetensors."""
    if start[:2] == b"PK" or (start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")):
        raise UnsupportedError(
            f"{path}: this is a PyTorch pickle file (.pt, .ckpt, .bin), and loading a pickle can run any "
            "code that is hidden in it; only safetensors files are read. Convert it with a tool you trust, "
            "for instance the WebUI's checkpoint merger with safetensors as output format."
        )
    if start[:4] == b"GGUF":
        raise UnsupportedError(f"{path}: this is a GGUF file; only safetensors files are read. Get that version.")
    if start.startswith(b"version https://git-lfs"):
        _damaged(path, "this is a Git LFS pointer, a note of where the file lies", "the file itself", _LFS)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<body")):
        _damaged(path, "this is a web page, saved by a download that failed", "a safetensors file", _WEB)
    if text.startswith((b'{"', b"{'", b"[{")):
        _damaged(
            path,
            "this is a JSON text, often the error message of a failed download",
            "a safetensors file",
            _WEB,
        )


_LFS = "Run `git lfs pull`, or download the file from its page."
_WEB = "Download it again; the site may ask you to log in first."


def _parse_json(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        _damaged(path, f"the header is not UTF-8 (byte {8 + error.start} of the file)", "JSON in UTF-8")
    try:
        document = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant, parse_int=_PARSE_INT)
        if "\\u" in text:
            _check_surrogates(document)
    except UnicodeEncodeError:
        _damaged(path, "the header holds half of a surrogate pair", "JSON in UTF-8")
    except RecursionError:
        _damaged(path, "the header is nested too deeply", "an object with one field per tensor")
    except ValueError as error:
        _damaged(path, f"the header is not JSON ({error})", "a JSON object")
    if not isinstance(document, dict):
        _damaged(path, "the header is not a JSON object", "an object with one field per tensor")
    _check_once(path, "the header", document)
    return document


class _Repeating(dict[str, Any]):
    """An object of JSON in which a key is there twice; the last one counts."""

    again: str
    """The first key that is there again."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) == len(pairs):
        return fields
    repeating = _Repeating(fields)
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            repeating.again = key
            break
        seen.add(key)
    return repeating


def _check_once(path: Path, where: str, fields: object) -> None:
    """The library refuses a tensor, or a field of one, that is there twice. Of metadata the last counts, as there."""
    if isinstance(fields, _Repeating):
        _damaged(path, f"{where} holds the key {_short(fields.again)} twice", "each name once", _SAVE)


def _whole_number(digits: str) -> int:
    if len(digits) > 4300:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


# From 3.10.7 on Python itself refuses numbers of so many digits, whose conversion takes quadratic time.
_PARSE_INT = None if hasattr(sys, "get_int_max_str_digits") else _whole_number


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a JSON number")


def _check_surrogates(document: object) -> None:
    """Python reads a lone surrogate escape, the library does not, and no file can be written with one."""
    json.dumps(document, ensure_ascii=False).encode("utf-8")


def _metadata(path: Path, fields: object) -> dict[str, str]:
    if fields is None:
        return {}
    if not isinstance(fields, dict):
        _damaged(path, f"{_METADATA} is {type(fields).__name__}", "an object of texts")
    for key, value in fields.items():
        if not isinstance(value, str):
            _damaged(path, f"{_METADATA} field {_short(key)} is {type(value).__name__}", "a text")
    return fields


def _entry(path: Path, name: str, fields: object) -> TensorEntry:
    _check_once(path, f"tensor {_short(name)}", fields)
    if not isinstance(fields, dict):
        _damaged(path, f"tensor {_short(name)} is described by {type(fields).__name__}", "an object")
    dtype, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    if dtype is None or shape is None or offsets is None:
        _damaged(
            path, f"tensor {_short(name)} has the fields {_short(sorted(fields))}", "dtype, shape and data_offsets"
        )
    width = DTYPE_BYTES.get(dtype) if isinstance(dtype, str) else None
    if width is None:
        _refuse_dtype(path, name, dtype)
    if not _are_sizes(shape) or len(shape) > _MAX_DIMENSIONS:
        _damaged(
            path, f"tensor {_short(name)} has the shape {_short(shape)}", "whole numbers, none negative, at most 32"
        )
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        _damaged(path, f"tensor {_short(name)} has the offsets {_short(offsets)}", "two rising whole numbers")
    start, stop = offsets
    nbytes = math.prod(shape) * width
    if nbytes == 0 or nbytes != stop - start:
        _check_size(path, name, nbytes, fields)
    return TensorEntry(dtype, tuple(shape), start, stop)


def _are_sizes(numbers: object) -> bool:
    if type(numbers) is not list:
        return False
    for number in numbers:  # noqa: SIM110 - a plain loop takes half the time of all(), and thousands of tensors pass here
        if type(number) is not int or number < 0:  # `type`, not isinstance: True is an int, but not a size
            return False
    return True


def _short(value: object) -> str:
    """A value for a message, cut to a length that can be shown."""
    if isinstance(value, list) and len(value) > 8:
        return f"[{', '.join(map(_short, value[:4]))}, ... {len(value)} in all]"
    try:
        text = repr(value[:80] if isinstance(value, str) else value)
    except RecursionError:
        return "..."
    return text if len(text) <= 80 else text[:77] + "..."


def _refuse_dtype(path: Path, name: str, dtype: object) -> NoReturn:
    if dtype in _PACKED_DTYPES:
        raise UnsupportedError(
            f"{path}: tensor {_short(name)} has the packed dtype {dtype}, which is not read. "
            "Use a version of the model in fp8, fp16, bf16 or fp32."
        )
    _damaged(path, f"tensor {_short(name)} has the unknown dtype {_short(dtype)}", f"one of {', '.join(DTYPE_BYTES)}")


def _check_size(path: Path, name: str, nbytes: int, fields: Mapping[str, Any]) -> None:
    shape, (start, stop) = fields["shape"], fields["data_offsets"]
    if stop - start != nbytes:
        found = f"tensor {_short(name)} has {_short(stop - start)} bytes by its offsets"
        _damaged(
            path,
            found,
            f"{nbytes if nbytes < _MAX_BYTES else 'far more'} ({fields['dtype']} {_short(shape)})",
        )
    # Only a tensor without elements can get this far with sizes that no array type can hold.
    if nbytes == 0 and math.prod(size for size in shape if size) > _MAX_BYTES // 8:
        _damaged(path, f"tensor {_short(name)} has the shape {_short(shape)}", "sizes that fit in memory")


def _check_tiling(path: Path, entries: Mapping[str, TensorEntry], data_bytes: int) -> None:
    """The tensors must cover the tensor region exactly, each byte once."""
    end, before = 0, None
    spans = sorted((entry.start, entry.stop, name) for name, entry in entries.items())
    needed = max((stop for _, stop, _ in spans), default=0)
    if needed > data_bytes:
        missing, whole = _short(needed - data_bytes), _short(needed)
        _damaged(
            path, f"the file is cut off: {missing} bytes are missing of {whole} bytes of tensor data", "a whole file"
        )
    for start, stop, name in spans:
        if start < end:
            _damaged(path, f"tensor {_short(name)} overlaps tensor {_short(before)}", "each byte in one tensor")
        if start > end:
            _damaged(path, f"{_short(start - end)} bytes before tensor {_short(name)} belong to no tensor", "no holes")
        end, before = stop, name
    if end < data_bytes:
        _damaged(path, f"{data_bytes - end} bytes after the last tensor belong to no tensor", "no rest")


def file_order(tensors: Iterable[TensorSpec]) -> list[TensorSpec]:
    """The order in which the library lays tensors out: by dtype, last declared first, then by name."""
    return sorted(tensors, key=lambda tensor: (-_DTYPE_RANK[tensor.dtype], tensor.name))


def encode(specs: Sequence[TensorSpec], metadata: Mapping[str, str] | None = None) -> bytes:
    """The bytes before the tensor region: length and padded JSON, for tensors laid out in the given order.

    Equal to what the library writes for tensors in ``file_order`` (which shuffles metadata of two or more
    fields). ``None`` leaves the metadata out, an empty mapping writes an empty object. Raises ``OutputError``
    for names or texts that cannot be stored.
    """
    return frame(describe(specs), metadata)


def describe(specs: Sequence[TensorSpec]) -> str:
    """The tensors as members of the header's JSON object, without its braces; see ``encode``."""
    fields: dict[str, object] = {}
    end = 0
    for spec in specs:
        if spec.name in fields or spec.name == _METADATA:
            raise OutputError(f"the tensor name {spec.name!r} is taken; each name can be written once.")
        start, end = end, end + spec.nbytes
        fields[spec.name] = {"dtype": spec.dtype, "shape": spec.shape, "data_offsets": (start, end)}
    return _compact(fields)[1:-1]


def frame(members: str, metadata: Mapping[str, str] | None) -> bytes:
    """The bytes before the tensor region, from ``describe``'s text: cheap if only the metadata changes."""
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
