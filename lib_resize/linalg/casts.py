"""Exact conversions between stored bits and floating point numbers, for numpy.

A *storage array* holds a tensor as it lies in a safetensors file: uint16 for F16 and BF16, uint8 for the
two F8 kinds, float32 and float64 for themselves. numpy has no bfloat16 and no float8, and converts float16
one element at a time; integer arithmetic on pieces that stay in the second-level cache is several times
faster and gives the same bits.
"""

from __future__ import annotations

import functools
import threading
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
"""Floating dtypes of safetensors that we compute with, and the numpy type that carries their bits."""

LARGEST: dict[str, float] = {
    "F64": float(np.finfo(np.float64).max),
    "F32": float(np.finfo(np.float32).max),
    "F16": 65504.0,
    "BF16": 3.3895313892515355e38,
    "F8_E4M3": 448.0,
}
"""The largest finite value of every dtype that we write."""

_PIECE = 1 << 15  # elements: the arrays of one piece share a 1 MiB cache
_SIGN_AND_NUMBER = np.array([0x8FFFE000], np.uint32).view(np.int32)[0]
_REBIAS = 2.0**112  # exponent bias of float32 less that of float16

_scratch = threading.local()


def scratch(slot: str, elements: int, dtype: type[np.generic]) -> NDArray[Any]:
    """A 1-D buffer of this thread, reused by the next call with the same slot.

    Fresh large buffers cost more in page faults than the arithmetic done in them.
    """
    held = getattr(_scratch, slot, None)
    if held is None or held.size < elements or held.dtype != dtype:
        held = np.empty(elements, dtype)
        setattr(_scratch, slot, held)
    return held[:elements]


def forget_scratch() -> None:
    """Gives this thread's buffers back."""
    _scratch.__dict__.clear()


def widen(bits: Bits, kind: str, out: NDArray[Any]) -> NDArray[Any]:
    """Writes the numbers stored in `bits` (any shape, dtype `kind`) into `out` (same shape, float32 or float64).

    Exact for every finite value. Infinities and NaN of F16 come out as numbers of 65536 and more, so
    that a caller who sees such a number must ask `all_finite`.
    """
    if bits.dtype != STORAGE[kind]:
        raise ValueError(f"{kind} is carried by {STORAGE[kind].__name__}, not by {bits.dtype}")
    if kind in ("F32", "F64"):
        out[...] = bits
        return out
    if kind.startswith("F8"):
        np.copyto(out, _f8_values(kind)[bits])
        return out
    _widen_halves(bits, kind, out)
    return out


def _widen_halves(bits: Bits, kind: str, out: NDArray[Any]) -> None:
    if not bits.flags.c_contiguous or bits.size <= _PIECE:
        _widen_piece(bits, kind, out)
        return
    flat, target = bits.reshape(-1), out.reshape(-1)
    for start in range(0, flat.size, _PIECE):
        _widen_piece(flat[start : start + _PIECE], kind, target[start : start + _PIECE])


def _widen_piece(bits: Bits, kind: str, out: NDArray[Any]) -> None:
    number = scratch("piece", bits.size, np.int32).reshape(bits.shape)
    np.copyto(number, bits.view(np.int16), casting="unsafe")  # the sign spreads to the left
    if kind == "BF16":
        np.left_shift(number, 16, out=number)
        with np.errstate(invalid="ignore"):  # NaN passes through; whoever cares asks `all_finite`
            np.copyto(out, number.view(np.float32))
        return
    np.left_shift(number, 13, out=number)
    np.bitwise_and(number, _SIGN_AND_NUMBER, out=number)
    # The smallest are subnormal float32 now, which cost a multiplication ten times its time, but a cast nothing.
    wide = out if out.dtype == np.float64 else scratch("wide piece", bits.size, np.float64).reshape(bits.shape)
    np.copyto(wide, number.view(np.float32))
    np.multiply(wide, _REBIAS, out=wide)
    if wide is not out:
        np.copyto(out, wide, casting="same_kind")


def singles(bits: Bits, kind: str) -> Single:
    """A new float32 array of the numbers stored in `bits`; see `widen`."""
    return widen(bits, kind, np.empty(bits.shape, np.float32))


def doubles(bits: Bits, kind: str) -> Double:
    """A new float64 array of the numbers stored in `bits`; see `widen`."""
    return widen(bits, kind, np.empty(bits.shape, np.float64))


def all_finite(bits: Bits, kind: str) -> bool:
    """Whether no stored value is an infinity or NaN."""
    if kind == "F16":
        return not bool(np.any((bits & 0x7C00) == 0x7C00))
    if kind == "BF16":
        return not bool(np.any((bits & 0x7F80) == 0x7F80))
    if kind.startswith("F8"):
        return bool(np.isfinite(_f8_values(kind)).take(bits).all())
    return bool(np.isfinite(bits).all())


def round_to(values: Single, kind: str) -> Bits:
    """The storage array of `values` (float32, any shape), rounded to nearest, ties to even.

    Values beyond the largest of F16 become infinite there, as IEEE 754 has it; F8_E4M3 has no infinity
    and gets NaN. `largest_magnitude` tells beforehand.
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
    """max |x|; NaN where any element is NaN. 0 for no elements."""
    if values.size == 0:
        return 0.0
    return float(max(values.max(), -values.min()))


def _to_f16(values: Single) -> Bits:
    flat = values.reshape(-1).view(np.int32)
    out = np.empty(flat.size, np.uint16)
    for start in range(0, flat.size, _PIECE):
        _to_f16_piece(flat[start : start + _PIECE], out[start : start + _PIECE])
    return out.reshape(values.shape)


def _to_f16_piece(bits: NDArray[np.int32], out: NDArray[np.uint16]) -> None:
    """Two roundings, of which each number takes the one that fits it.

    As a normal float16: the bits move right by 13 after half a unit is added, ties to even. As a multiple of 2^-24,
    the unit of subnormals: the float adder rounds it when 0.5 is added. The second is right up to 2^-14, which is
    1024 units; below that it is never the smaller of the two.
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
    """Nearest of the 127 non-negative values, ties to the even code, sign kept (OCP 8-bit floating point, E4M3)."""
    table = _f8_values("F8_E4M3")[:127]
    middles = (table[1:] + table[:-1]) / 2
    magnitude = np.abs(values)
    code = np.searchsorted(middles, magnitude, side="left")
    tie = (code < 126) & (magnitude == middles[np.minimum(code, 125)])
    code += tie & (code % 2 == 1)
    code[~(magnitude < 464.0)] = 127  # halfway from 448 to the missing 480; also NaN
    return (code | np.where(np.signbit(values), 128, 0)).astype(np.uint8)


@functools.lru_cache(maxsize=2)
def _f8_values(kind: str) -> Single:
    """All 256 values of an F8 kind, by code (OCP 8-bit floating point specification, revision 1.0)."""
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
