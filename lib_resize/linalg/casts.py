"""Exact conversions between stored bits and floating point numbers, for numpy.

A *storage array* holds a tensor as in a safetensors file: uint16 for F16 and BF16, uint8 for the two F8 dtypes,
float32 and float64 for themselves. numpy has no bfloat16 and no float8, and converts float16 one element at a time,
subnormal numbers ten times slower still. All numbers of 16 bits fit into a table that stays in the second-level cache.
A lookup is faster, and it is one call during which other threads run. Shifting the bits to their places in a float32 is
faster still, where the processor computes with the subnormal numbers that this makes, see `shifting_is_exact`.
"""

from __future__ import annotations

import functools
import threading
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[Any]
Single = NDArray[np.float32]
Double = NDArray[np.float64]

STORAGE: dict[str, type[np.generic]] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.uint16,
    "BF16": np.uint16,
    "F8_E4M3": np.uint8,
    "F8_E5M2": np.uint8,
}
"""The floating dtypes of safetensors that are supported, and the numpy type that holds their bits."""

LARGEST: dict[str, float] = {
    "F64": float(np.finfo(np.float64).max),
    "F32": float(np.finfo(np.float32).max),
    "F16": 65504.0,
    "BF16": 3.3895313892515355e38,
    "F8_E4M3": 448.0,
}
"""The largest finite value of each dtype that is written."""

UNIT_ROUNDOFF: dict[str, float] = {
    "F64": 2.0**-20,
    "F32": 2.0**-20,
    "F16": 2.0**-11,
    "BF16": 2.0**-8,
    "F8_E4M3": 2.0**-4,
    "F8_E5M2": 2.0**-3,
}
"""The relative error of a stored number. For F64 and F32: what float32 arithmetic may add to a sum that cancels."""

_PIECE = 1 << 16  # elements: numpy makes an index of 8 bytes for each that it looks up

_ROUNDED = 1 << 16  # elements: four arrays of these share the second-level cache
_scratch = threading.local()


def scratch(slot: str, elements: int, dtype: type[np.generic]) -> NDArray[Any]:
    """Return a 1-D buffer of this thread, (elements,). The next call with the same slot reuses it.

    Fresh large buffers cost more in page faults than the arithmetic done in them.
    """
    held = getattr(_scratch, slot, None)
    if held is None or held.size < elements or held.dtype != dtype:
        held = np.empty(elements, dtype)
        setattr(_scratch, slot, held)
    return held[:elements]


def widen(bits: Bits, kind: str, out: NDArray[Any]) -> NDArray[Any]:
    """Write the numbers stored in `bits` (any shape, dtype `kind`) into `out` (same shape), and return it.

    `out` is float32 or float64. Exact, infinities and NaN included. Raises ValueError if the bits are not those of the
    dtype.
    """
    if bits.dtype != STORAGE[kind]:
        raise ValueError(f"{kind} is carried by {STORAGE[kind].__name__}, not by {bits.dtype}")
    if kind in ("F32", "F64"):
        out[...] = bits
        return out
    if kind == "BF16":
        return _widen_bf16(bits, out)
    is_flat = bits.flags.c_contiguous and out.flags.c_contiguous
    if kind == "F16" and out.dtype == np.float32 and is_flat and shifting_is_exact():
        return _widen_f16(bits, out)
    table = _values(kind, out.dtype.char)
    if bits.size <= 2 * _PIECE or not is_flat:
        np.take(table, bits, out=out, mode="wrap")
        return out
    flat, target = bits.reshape(-1), out.reshape(-1)
    for start in range(0, flat.size, _PIECE):
        np.take(table, flat[start : start + _PIECE], out=target[start : start + _PIECE], mode="wrap")
    return out


def _widen_bf16(bits: Bits, out: NDArray[Any]) -> NDArray[Any]:
    """Write bfloat16 numbers into `out`: they are the upper halves of float32, so shifting is exact for all of them."""
    moved = out.view(np.uint32) if out.dtype == np.float32 else scratch("moved", bits.size, np.uint32)
    moved = moved.reshape(bits.shape)
    np.copyto(moved, bits)
    np.left_shift(moved, 16, out=moved)
    if out.dtype != np.float32:
        with np.errstate(invalid="ignore"):  # a signalling NaN
            np.copyto(out, moved.view(np.float32))
    return out


SHIFTED_UNIT = 2.0**112
"""What the numbers of `widen_shifted` must be multiplied by: the difference of the exponent biases of float32 (127) and
float16 (15), as a power of two."""
_MOVED = np.int32(-0x70002000)  # sign, exponent and mantissa of a float16 at their places in a float32: 0x8FFFE000


def shifting_is_exact() -> bool:
    """Return whether float16 numbers may be moved to their places in a float32, in this thread and now.

    The exponent keeps its small bias there, so that subnormal numbers of float16 are subnormal in float32. A library
    that was compiled with ``-ffast-math``, or ``torch.set_flush_denormal``, lets the processor read these as zeros, in
    one thread and in those that it starts. Some processors compute with them a hundred times slower.
    """
    return float(np.multiply(_SUBNORMAL, _UNIT32)[0]) == _SUBNORMAL_TIMES_UNIT and _subnormals_are_fast()


_UNIT32 = np.float32(SHIFTED_UNIT)
_SUBNORMAL = np.array([1 << 13], np.int32).view(np.float32)
"""The smallest number of float16, 2^-24, after its move."""
_SUBNORMAL_TIMES_UNIT = 2.0**-24


@functools.cache
def _subnormals_are_fast() -> bool:
    """Return whether this processor multiplies and converts subnormal numbers as fast as others; measured once."""
    product, wide = np.empty(4096, np.float32), np.empty(4096, np.float64)

    def seconds(value: np.float32) -> float:
        values = np.full(4096, value, np.float32)
        taken = []
        for _ in range(5):
            begun = time.perf_counter()
            np.multiply(values, _UNIT32, out=product)
            np.copyto(wide, values)
            taken.append(time.perf_counter() - begun)
        return min(taken)

    return seconds(_SUBNORMAL[0]) < 3 * seconds(np.float32(1e-20))


def _widen_f16(bits: Bits, out: Single) -> Single:
    """Write float16 numbers into `out`, both contiguous; if `shifting_is_exact`."""
    flat, target = bits.reshape(-1), out.reshape(-1)
    for start in range(0, flat.size, _PIECE):
        _shift_piece(flat[start : start + _PIECE], target[start : start + _PIECE])
    return out


def _shift_piece(bits: Bits, out: Single) -> None:
    """Write float16 numbers (1-D) into `out`, float32. Shifting would make infinities and NaN finite."""
    unsigned = np.left_shift(bits, 1, out=out.view(np.uint16)[: bits.size])  # there is room until the numbers come
    if int(unsigned.max()) >= 0xF800:
        np.take(_values("F16", "f"), bits, out=out, mode="wrap")
        return
    _move(bits, out.view(np.int32))
    np.multiply(out, _UNIT32, out=out)


def _move(bits: Bits, moved: NDArray[np.int32]) -> None:
    """Write the bits of float16 numbers to their places in a float32."""
    np.copyto(moved, bits.view(np.int16), casting="unsafe")  # fills with the sign, which so is in the highest bit
    np.left_shift(moved, 13, out=moved)
    np.bitwise_and(moved, _MOVED, out=moved)


def widen_shifted(bits: Bits, out: Double) -> Double:
    """Write the float16 numbers of `bits` (any shape) over `SHIFTED_UNIT` into `out` (float64), and return it.

    The bits are moved to their places in a float32, and the exponent keeps its small bias: that divides every number by
    2^112, subnormal ones too, without error if `shifting_is_exact`. It takes 0.6 of the time of a lookup. Multiplying
    here would lose that again; the caller multiplies a small result instead.

    An infinity or a NaN becomes a finite number of at least 2^16 over that unit, more than any other.
    """
    moved = scratch("moved16", bits.size, np.int32).reshape(bits.shape)
    _move(bits, moved)
    np.copyto(out, moved.view(np.float32))
    return out


def singles(bits: Bits, kind: str) -> Single:
    """Return a new float32 array of the numbers stored in `bits`, same shape; see `widen`."""
    return widen(bits, kind, np.empty(bits.shape, np.float32))


def doubles(bits: Bits, kind: str) -> Double:
    """Return a new float64 array of the numbers stored in `bits`, same shape; see `widen`."""
    return widen(bits, kind, np.empty(bits.shape, np.float64))


def round_to(values: Single, kind: str) -> Bits:
    """Return the storage array of `values` (float32, any shape), rounded to nearest, ties to even (IEEE 754).

    Values above the largest of F16 become infinite. F8_E4M3 has no infinity: they become NaN. Call `largest_magnitude`
    first to find them.
    """
    values = np.ascontiguousarray(values, np.float32)
    if kind == "F16":
        return _to_f16(values)
    if kind == "BF16":
        return _to_bf16(values)
    if kind == "F8_E4M3":
        return _to_f8_e4m3(values)
    return values.astype(STORAGE[kind])


def largest_magnitude(values: Single) -> float:
    """Return max |x|; NaN if any element is NaN, 0 if there are no elements."""
    if values.size == 0:
        return 0.0
    return float(max(values.max(), -values.min()))


def _to_f16(values: Single) -> Bits:
    flat = values.reshape(-1).view(np.int32)
    out = np.empty(flat.size, np.uint16)
    for start in range(0, flat.size, _ROUNDED):
        _to_f16_piece(flat[start : start + _ROUNDED], out[start : start + _ROUNDED])
    return out.reshape(values.shape)


def _to_f16_piece(bits: NDArray[np.int32], out: NDArray[np.uint16]) -> None:
    """Round twice, and use for each number the rounding that fits it.

    As a normal float16: half a unit is added, ties to even, and the bits move right by 13. As a multiple of 2^-24, the
    unit of subnormals: the float adder rounds it when 0.5 is added. The second is right up to 2^-14, which is 1024
    units; below that it is never the smaller of the two.
    """
    magnitude = np.bitwise_and(bits, 0x7FFFFFFF, out=scratch("f16a", bits.size, np.int32))
    if int(magnitude.max(initial=0)) >= 0x477FF000:  # rounds to infinity, or is not finite
        with np.errstate(over="ignore"):
            out[:] = bits.view(np.float32).astype(np.float16).view(np.uint16)
        return
    normal = np.right_shift(magnitude, 13, out=scratch("f16b", bits.size, np.int32))
    np.bitwise_and(normal, 1, out=normal)
    np.add(normal, magnitude, out=normal)
    np.add(normal, 0x0FFF - (112 << 23), out=normal)
    np.right_shift(normal, 13, out=normal)
    units = magnitude
    np.add(units.view(np.float32), np.float32(0.5), out=units.view(np.float32))
    np.subtract(units, 0x3F000000, out=units)
    np.minimum(units, 1024, out=units)
    np.maximum(normal, units, out=normal)
    sign = np.right_shift(bits, 16, out=units)
    np.bitwise_and(sign, 0x8000, out=sign)
    np.bitwise_or(normal, sign, out=normal)
    np.copyto(out, normal, casting="unsafe")


def _to_bf16(values: Single) -> Bits:
    bits = values.view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16)


def _to_f8_e4m3(values: Single) -> Bits:
    """Return the nearest of the 127 non-negative values, sign kept, ties to the even code (OCP 8-bit floats, E4M3)."""
    table = _values("F8_E4M3", "f")[:127]
    middles = (table[1:] + table[:-1]) / 2
    magnitude = np.abs(values)
    code = np.searchsorted(middles, magnitude, side="left")
    tie = (code < 126) & (magnitude == middles[np.minimum(code, 125)])
    code += tie & (code % 2 == 1)
    code[~(magnitude < 464.0)] = 127  # halfway from 448 to the missing 480; also NaN
    return np.asarray((code | np.where(np.signbit(values), 128, 0)).astype(np.uint8))


@functools.cache
def _values(kind: str, dtype: str) -> NDArray[Any]:
    """Return the value of each code of a dtype. `dtype` is numpy's type letter, because its type names are slow."""
    if kind == "F16":
        values: NDArray[Any] = np.arange(65536, dtype=np.uint16).view(np.float16)
    else:
        values = _f8_values(kind)
    with np.errstate(invalid="ignore"):
        return values.astype(dtype)


@functools.cache
def _f8_values(kind: str) -> Single:
    """Return all 256 values of an F8 dtype by code, (256,) (OCP 8-bit floating point specification, revision 1.0)."""
    mantissa_bits, bias = (3, 7) if kind == "F8_E4M3" else (2, 15)
    code = np.arange(256)
    mantissa = (code & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    exponent = (code & 127) >> mantissa_bits
    value = np.where(
        exponent == 0, mantissa * 2.0 ** (1 - bias), (1 + mantissa) * 2.0 ** (exponent.astype(float) - bias)
    )
    if kind == "F8_E4M3":
        value[code & 127 == 127] = np.nan
    else:
        value[code & 127 == 124] = np.inf
        value[code & 127 > 124] = np.nan
    return np.where(code < 128, value, -value).astype(np.float32)
