"""The entry of one tensor in the header of a safetensors file, checked. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from ..errors import UnsupportedError
from .damage import damaged_file, shortened
from .header_json import check_unique_keys

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
"""Bytes of one element by dtype name, in the order in which the safetensors library declares the dtypes."""

_PACKED_DTYPES = ("F4", "F6_E2M3", "F6_E3M2")
_MAX_DIMENSIONS = 32  # the maximum of numpy 1.26
_MAX_BYTES = 2**62


class TensorEntry(NamedTuple):
    """One tensor of a file: dtype name, shape, and its bytes ``start`` to ``stop`` (excluded) of the tensor region."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def entry_of(path: Path, name: str, fields: object) -> TensorEntry:
    """Return the entry of a tensor from its fields. Raises ``DamagedFileError`` and ``UnsupportedError``."""
    return _plain_entry(fields) or _checked_entry(path, name, fields)


def _plain_entry(fields: object) -> TensorEntry | None:
    """Return the entry of faultless fields, in few steps, because thousands pass here; None for any others.

    A type that is compared with ``is`` is exact: True is an int, but not a size, and fields with a repeated key are of
    another type than dict.
    """
    if type(fields) is not dict:
        return None
    try:
        dtype, shape, (start, stop) = fields["dtype"], fields["shape"], fields["data_offsets"]
        nbytes = DTYPE_BYTES[dtype]
    except (KeyError, TypeError, ValueError):
        return None
    if type(shape) is not list or len(shape) > _MAX_DIMENSIONS:
        return None
    for size in shape:
        if type(size) is not int or size <= 0:
            return None
        nbytes *= size
    is_range = type(fields["data_offsets"]) is list and type(start) is int and type(stop) is int
    return TensorEntry(dtype, tuple(shape), start, stop) if is_range and 0 <= start == stop - nbytes else None


def _checked_entry(path: Path, name: str, fields: object) -> TensorEntry:
    check_unique_keys(path, f"tensor {shortened(name)}", fields)
    if not isinstance(fields, dict):
        raise damaged_file(path, f"tensor {shortened(name)} is described by {type(fields).__name__}", "an object")
    dtype, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    if dtype is None or shape is None or offsets is None:
        found = f"tensor {shortened(name)} has the fields {shortened(sorted(fields))}"
        raise damaged_file(path, found, "dtype, shape and data_offsets")
    width = DTYPE_BYTES.get(dtype) if isinstance(dtype, str) else None
    if width is None:
        _refuse_dtype(path, name, dtype)
    if not _is_shape(shape):
        found = f"tensor {shortened(name)} has the shape {shortened(shape)}"
        raise damaged_file(path, found, "whole numbers, none negative, at most 32")
    if not _is_range(offsets):
        found = f"tensor {shortened(name)} has the offsets {shortened(offsets)}"
        raise damaged_file(path, found, "two rising whole numbers")
    start, stop = offsets
    nbytes = math.prod(shape) * width
    if nbytes == 0 or nbytes != stop - start:
        _check_size(path, name, nbytes, fields)
    return TensorEntry(dtype, tuple(shape), start, stop)


def _is_shape(value: Any) -> bool:
    return _are_sizes(value) and len(value) <= _MAX_DIMENSIONS


def _is_range(value: Any) -> bool:
    return _are_sizes(value) and len(value) == 2 and value[0] <= value[1]


def _are_sizes(numbers: object) -> bool:
    if type(numbers) is not list:
        return False
    for number in numbers:  # noqa: SIM110 - a plain loop takes half the time of all(), and thousands of tensors pass here
        if type(number) is not int or number < 0:  # `type`, not isinstance: True is an int, but not a size
            return False
    return True


def _refuse_dtype(path: Path, name: str, dtype: object) -> NoReturn:
    if dtype in _PACKED_DTYPES:
        raise UnsupportedError(
            f"{path}: tensor {shortened(name)} has the packed dtype {dtype}, which is not read. "
            "Use a version of the model in fp8, fp16, bf16 or fp32."
        )
    raise damaged_file(
        path, f"tensor {shortened(name)} has the unknown dtype {shortened(dtype)}", f"one of {', '.join(DTYPE_BYTES)}"
    )


def _check_size(path: Path, name: str, nbytes: int, fields: Mapping[str, Any]) -> None:
    shape, (start, stop) = fields["shape"], fields["data_offsets"]
    if stop - start != nbytes:
        found = f"tensor {shortened(name)} has {shortened(stop - start)} bytes by its offsets"
        raise damaged_file(
            path,
            found,
            f"{nbytes if nbytes < _MAX_BYTES else 'far more'} ({fields['dtype']} {shortened(shape)})",
        )
    # Only a tensor without elements can have sizes here that no array type can hold.
    if nbytes == 0 and math.prod(size for size in shape if size) > _MAX_BYTES // 8:
        raise damaged_file(
            path, f"tensor {shortened(name)} has the shape {shortened(shape)}", "sizes that fit in memory"
        )
