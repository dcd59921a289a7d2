"""LoKr: ``scale * kron(w1, w2)``, each side in full or in factors, w2 also as a Tucker core: eight layouts.

The singular values of a Kronecker product are the products of its factors', and truncating w2 loses ``||w1||_F`` times
what w2 loses: w1 stays as it is, and w2 is truncated to its best.

Readers take the rank that alpha is divided by from the rows of ``w2_b``, else of ``w1_b``, and ignore alpha where both
sides are in full. So a scale is always folded into w2, and alpha is the rank by that rule.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import LayerError
from ...linalg.arrays import Arrays
from ...linalg.casts import Double, Single, doubles, singles
from ...linalg.dense import singular_values, truncated_dense
from ...linalg.factor import Factor, Pair, Spectrum, decompose
from ...linalg.lazy import LazyMatrix, kronecker_pair, materialise
from ...linalg.truncate import truncated
from ...linalg.tucker import (
    TuckerFactors,
    TuckerSpectrum,
    decompose_tucker,
    truncated_tucker,
    tucker_alignment,
    tucker_as_pair,
    tucker_product,
)
from .form import (
    Form,
    Shape,
    Tensors,
    TensorSlot,
    WriteSpec,
    inner_product,
    kernel_fits,
    projected_error,
    relative_difference,
)
from .full import Full, Strengths, least_rank_stored_in_full, stored_ranks_from
from .lora import LowRank, lora_from_pair
from .tucker import read_tucker_factors, tucker_error

Small = Factor | Pair
Large = Factor | Pair | TuckerFactors


@dataclass(frozen=True)
class LokrSpectrum:
    """w2 decomposed, and the strengths of the whole."""

    s: Double
    w2: Spectrum | TuckerSpectrum | Strengths

    @property
    def nbytes(self) -> int:
        return self.s.nbytes + self.w2.nbytes


@dataclass(frozen=True)
class Lokr(Form):
    """w1 and w2."""

    w1: Small
    w2: Large
    factor: float
    stored: tuple[str, str]
    """safetensors dtypes of w1 and w2."""
    taps: Shape = ()
    """The kernel; empty where the file flattens it."""
    ignored_alpha: float = field(default=1.0)
    """What the file has as alpha where readers ignore it."""

    kind = "LoKr"

    @property
    def nested(self) -> bool:  # type: ignore[override]
        """Dimensions of a core cannot be parted."""
        return isinstance(self.w2, TuckerFactors)

    @property
    def size(self) -> tuple[int, int]:
        (n1, m1), (n2, m2) = _size(self.w1), _size(self.w2)
        return n1 * n2, m1 * m2

    @property
    def rank(self) -> int:
        return self.w2.rank if isinstance(self.w2, (Pair, TuckerFactors)) else min(self.w2.shape)

    @property
    def kernel(self) -> Shape:
        return self.taps

    def with_kernel(self, kernel: Shape) -> Lokr:
        return replace(self, taps=kernel) if not self.taps and kernel_fits(kernel, _size(self.w2)[1]) else self

    @property
    def scale(self) -> float:
        return self.factor

    @property
    def dtypes(self) -> frozenset[str]:
        return frozenset(self.stored)

    @property
    def parameters_per_rank(self) -> int:
        if isinstance(self.w2, TuckerFactors):
            return self.w2.up.shape[0] + self.w2.down.shape[1]
        return sum(_size(self.w2))

    @property
    def parameters_per_squared_rank(self) -> int:
        return self.w2.taps if isinstance(self.w2, TuckerFactors) else 0

    @property
    def has_whole(self) -> bool:
        """Whether w2 is in full, and can be written so again."""
        return not isinstance(self.w2, (Pair, TuckerFactors))

    def is_whole(self, rank: int) -> bool:
        """Whether w2 is written in full at this rank, because factors would be no smaller."""
        return self.has_whole and rank >= least_rank_stored_in_full(_size(self.w2))

    def stored_ranks(self, solved: Any) -> NDArray[np.intp] | None:
        return stored_ranks_from(self.rank, least_rank_stored_in_full(_size(self.w2))) if self.has_whole else None

    @cached_property
    def _weight(self) -> float:
        """``|scale| * ||w1||_F``."""
        with np.errstate(all="ignore"):  # infinities are told of by name, see `decompose`
            return abs(self.factor) * float(np.linalg.norm(_dense(self.w1)))

    def decompose(self, arrays: Arrays, base: Factor | None = None) -> LokrSpectrum:
        if not np.isfinite(self._weight):
            raise LayerError("w1 or the scale holds NaN or infinite values: the file is damaged")
        if isinstance(self.w2, TuckerFactors):
            solved: Spectrum | TuckerSpectrum | Strengths = decompose_tucker(self.w2, arrays)
        elif isinstance(self.w2, Pair):
            solved = decompose([self.w2], arrays)[0]
        else:
            solved = Strengths(singular_values(self.w2, arrays))
        return LokrSpectrum(solved.s * self._weight, solved)

    def slots(self, rank: int) -> tuple[TensorSlot, ...]:
        return (*self._small_slots(), *self._large_slots(rank))

    def _small_slots(self) -> list[TensorSlot]:
        if not isinstance(self.w1, Pair):
            return [TensorSlot("lokr_w1", self.w1.shape, self.stored[0])]
        up, down = self.w1.up.shape, self.w1.down.shape
        return [TensorSlot("lokr_w1_a", up, self.stored[0]), TensorSlot("lokr_w1_b", down, self.stored[0])]

    def _large_slots(self, rank: int) -> list[TensorSlot]:
        dtype = self.stored[1]
        if isinstance(self.w2, TuckerFactors):
            n, m = self.w2.up.shape[0], self.w2.down.shape[1]
            shapes = {"lokr_t2": (rank, rank, *self.taps), "lokr_w2_a": (rank, n), "lokr_w2_b": (rank, m)}
        elif self.is_whole(rank):
            n, m = self.w2.shape  # type: ignore[union-attr]
            shapes = {"lokr_w2": (n, m // prod(self.taps), *self.taps)}
        else:
            n, m = _size(self.w2)
            shapes = {"lokr_w2_a": (n, rank), "lokr_w2_b": (rank, m)}
        return [TensorSlot(role, shape, dtype) for role, shape in shapes.items()]

    def values(self, work: WriteSpec) -> dict[str, Single]:
        shift = self._shift(work)
        return self._small_values(shift) | self._large_values(work, self.factor * work.gain**2 / shift)

    def _shift(self, work: WriteSpec) -> float:
        """A power of two that goes from w2 into w1 where one is so much greater that float16 could not hold both."""
        spectrum, strength = _spectrum(work), abs(self.factor) * work.gain**2
        w1 = self._weight / (abs(self.factor) or 1.0) / prod(_size(self.w1)) ** 0.5
        w2 = strength * float(np.linalg.norm(spectrum.w2.s)) / prod(_size(self.w2)) ** 0.5
        if w1 == 0.0 or w2 == 0.0 or 2.0**-8 < w1 / w2 < 2.0**8:
            return 1.0
        return float(2.0 ** np.round(np.log2(w2 / w1) / 2))

    def _small_values(self, shift: float) -> dict[str, Single]:
        if not isinstance(self.w1, Pair):
            return {"lokr_w1": materialise(self.w1) * np.float32(shift)}
        return {"lokr_w1_a": materialise(self.w1.up) * np.float32(shift), "lokr_w1_b": materialise(self.w1.down)}

    def _large_values(self, work: WriteSpec, strength: float) -> dict[str, Single]:
        spectrum, k = _spectrum(work).w2, len(work.kept)
        if isinstance(self.w2, TuckerFactors):
            assert isinstance(spectrum, TuckerSpectrum)
            up, mid, down = truncated_tucker(self.w2, spectrum, k, work.arrays, strength)
            return {"lokr_t2": mid, "lokr_w2_a": up.T, "lokr_w2_b": down}
        if self.is_whole(k):
            return {"lokr_w2": np.float32(strength) * materialise(self.w2)}  # type: ignore[arg-type]
        gain = abs(strength) ** 0.5
        if isinstance(self.w2, Pair):
            assert isinstance(spectrum, Spectrum)
            up, down = truncated(self.w2, spectrum, work.kept, work.arrays, gain)
        else:
            up, down = truncated_dense(self.w2, work.kept, work.arrays, gain)
        return {"lokr_w2_a": up * np.float32(np.copysign(1.0, strength)), "lokr_w2_b": down}

    def alpha(self, rank: int) -> float:
        if not self.is_whole(rank):
            return float(rank)
        return float(self.w1.rank) if isinstance(self.w1, Pair) else self.ignored_alpha

    def error(self, found: Lokr, work: WriteSpec) -> float:
        shift = self._shift(work)
        small = relative_difference(_dense(found.w1), shift * _dense(self.w1))
        return float(np.hypot(small, self._large_error(found, work, self.factor * work.gain**2 / shift)))

    def _large_error(self, found: Lokr, work: WriteSpec, strength: float) -> float:
        kept = _spectrum(work).w2.s[work.kept] * strength
        if found.has_whole:
            return relative_difference(found.factor * _dense(found.w2), strength * _dense(self.w2))
        if isinstance(self.w2, TuckerFactors):
            assert isinstance(found.w2, TuckerFactors)
            core, spectrum = replace(found.w2, scale=found.factor), _spectrum(work).w2
            assert isinstance(spectrum, TuckerSpectrum)
            return tucker_error(core, self.w2, spectrum, len(work.kept), work.arrays, strength)
        mine = _pair(found.w2)
        if self.has_whole:
            up, down = (doubles(one.bits, one.kind) for one in (mine.up, mine.down))
            shared = mine.scale * float(np.sum((up.T @ _dense(self.w2)) * down))
        else:
            shared = inner_product(mine, _pair(self.w2))
        square = found.factor**2 * inner_product(mine, mine)
        return projected_error(square, found.factor * strength * shared, float(kept @ kept))

    def times(self, weight: float) -> Lokr:
        return replace(self, factor=self.factor * weight)

    def _dense(self) -> Single:
        return np.asarray(np.kron(self.factor * _dense(self.w1), _dense(self.w2)), np.float32)

    def full(self, values: dict[str, Single]) -> Single:
        w1 = values["lokr_w1"] if "lokr_w1" in values else values["lokr_w1_a"] @ values["lokr_w1_b"]
        if "lokr_w2" in values:
            w2 = values["lokr_w2"]
        elif "lokr_t2" in values:
            w2 = tucker_product(values["lokr_w2_a"].T, values["lokr_t2"], values["lokr_w2_b"])
        else:
            w2 = values["lokr_w2_a"] @ values["lokr_w2_b"]
        return np.kron(w1, w2)

    def converted(self) -> LowRank | Full:
        """Of rank columns(w1) * r, by ``kron(w1, B) @ kron(I, A)``; in full where that is no less than the matrix."""
        if not self.has_whole:
            left = LazyMatrix(_size(self.w1), lambda: _dense(self.w1).astype(np.float32))
            pair = kronecker_pair(left, _pair(self.w2), self.factor)
            if pair.rank <= min(self.size):
                return lora_from_pair(pair, self.kernel, self.stored[1])
        n, m = self.size
        return Full(LazyMatrix(self.size, self._dense), (n, m // prod(self.kernel), *self.kernel), self.stored[1])

    def base_alignment(self, solved: Any, weight: Factor, arrays: Arrays, *, transposed: bool) -> Double:
        w = singles(weight.bits, weight.kind)
        (n1, m1), (n2, m2) = _size(self.w1), _size(self.w2)
        blocks = (w.T if transposed else w).reshape(n1, n2, m1, m2)
        seen = np.einsum("ac,abcd->bd", _dense(self.w1), blocks, optimize=True)
        if isinstance(self.w2, TuckerFactors):
            return tucker_alignment(self.w2, solved.w2, seen) * (abs(self.factor) / (self._weight or 1.0))
        if isinstance(self.w2, Pair):
            up, down = truncated(self.w2, solved.w2, np.arange(self.rank), arrays)
        else:
            up, down = truncated_dense(self.w2, np.arange(self.rank), arrays)
        met = np.einsum("bj,bd,jd->j", up, seen, down, optimize=True)
        strengths = solved.s / (abs(self.factor) or 1.0)
        return np.asarray(np.abs(np.divide(met, strengths, out=np.zeros(self.rank), where=strengths > 0)))


def _size(side: Large) -> tuple[int, int]:
    return side.size if isinstance(side, (Pair, TuckerFactors)) else side.shape


def _pair(side: Large) -> Pair:
    assert isinstance(side, (Pair, TuckerFactors))
    return tucker_as_pair(side) if isinstance(side, TuckerFactors) else side


def _dense(side: Large) -> Double:
    """One side as a matrix, float64."""
    if isinstance(side, (Pair, TuckerFactors)):
        pair = _pair(side)
        return pair.scale * (doubles(pair.up.bits, pair.up.kind) @ doubles(pair.down.bits, pair.down.kind))
    return doubles(side.bits, side.kind)


def _spectrum(work: WriteSpec) -> LokrSpectrum:
    assert isinstance(work.solved, LokrSpectrum)
    return work.solved


# Reading ----------------------------------------------------------------------------------------------------


def read_lokr(tensors: Tensors) -> Lokr:
    """From any of the eight layouts. Raises DamagedFileError and LayerError."""
    w1, w2 = _read_w1(tensors), _read_w2(tensors)
    factor = tensors.outer_scale(_alpha_rank(tensors))
    ignored = tensors.file.scalar(tensors.parts["alpha"].key) if "alpha" in tensors else 1.0
    names = "lokr_w1" if "lokr_w1" in tensors else "lokr_w1_a", "lokr_w2" if "lokr_w2" in tensors else "lokr_w2_a"
    return Lokr(w1, w2, factor, (tensors.dtype(names[0]), tensors.dtype(names[1])), _read_kernel(tensors), ignored)


def _alpha_rank(tensors: Tensors) -> int | None:
    """What readers divide alpha by; None where they ignore it."""
    if "lokr_w2" not in tensors:
        return tensors.shape("lokr_w2_b")[0]
    return None if "lokr_w1" in tensors else tensors.shape("lokr_w1_b")[0]


def _read_w1(tensors: Tensors) -> Small:
    return tensors.matrix("lokr_w1") if "lokr_w1" in tensors else _read_pair(tensors, "lokr_w1_a", "lokr_w1_b")


def _read_w2(tensors: Tensors) -> Large:
    if "lokr_w2" in tensors:
        return tensors.matrix("lokr_w2")
    if "lokr_t2" in tensors:
        return read_tucker_factors(tensors, "lokr_w2_a", "lokr_t2", "lokr_w2_b", transposed=True, scale=1.0)
    return _read_pair(tensors, "lokr_w2_a", "lokr_w2_b")


def _read_pair(tensors: Tensors, up: str, down: str) -> Pair:
    tensors.need(up, down)
    left, right = tensors.matrix(up), tensors.matrix(down)
    tensors.expect(up, left.shape[1] == right.shape[0], f"its rank is not that of {down}, {right.shape[0]}")
    return Pair(left, right)


def _read_kernel(tensors: Tensors) -> Shape:
    for role in ("lokr_w2", "lokr_t2", "lokr_w2_b"):
        if role in tensors:
            return tensors.shape(role)[2:]
    return ()
