"""LoHa: ``scale * (w1_a w1_b) o (w2_a w2_b)``, elementwise; with Tucker cores each side is a `TuckerFactors`.

Both sides are truncated to the same rank (LyCORIS loads no other), each to its best approximation, and the error of the
product is measured at every rank. If a larger rank has no smaller error, the smaller rank is written for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import LayerError
from ...linalg.arrays import Arrays
from ...linalg.casts import Double, Single, singles
from ...linalg.factor import Factor, Pair, Spectrum, decompose
from ...linalg.hadamard import NestedTruncations, product_errors, step_alignment
from ...linalg.lazy import LazyMatrix, hadamard_pair, product_matrix
from ...linalg.truncate import truncated
from ...linalg.tucker import (
    TuckerFactors,
    TuckerSpectrum,
    decompose_tucker,
    truncated_tucker,
    tucker_as_pair,
    tucker_product,
)
from .form import Form, Shape, Tensors, TensorSlot, WriteSpec, kernel_fits, relative_distance
from .full import Full
from .lora import LowRank, lora_from_pair
from .tucker import as_stored, read_tucker_factors

Side = Pair | TuckerFactors
SideSpectrum = Spectrum | TuckerSpectrum


@dataclass(frozen=True)
class LohaSpectrum:
    """Both sides decomposed, and the energy of their product at every rank."""

    s: Double
    written_ranks: NDArray[np.intp]
    first: SideSpectrum
    second: SideSpectrum

    @property
    def nbytes(self) -> int:
        return self.s.nbytes + self.written_ranks.nbytes + self.first.nbytes + self.second.nbytes


@dataclass(frozen=True)
class Loha(Form):
    """Two sides: pairs, or Tucker factors."""

    first: Side
    second: Side
    factor: float
    stored: str
    taps: Shape = ()
    """The kernel; empty where the file flattens it."""

    kind = "LoHa"
    nested = True

    @property
    def size(self) -> tuple[int, int]:
        return self.first.size

    @property
    def rank(self) -> int:
        return max(self.first.rank, self.second.rank)

    @property
    def kernel(self) -> Shape:
        return self.taps

    def with_kernel(self, kernel: Shape) -> Loha:
        return replace(self, taps=kernel) if not self.taps and kernel_fits(kernel, self.size[1]) else self

    @property
    def scale(self) -> float:
        return self.factor

    @property
    def dtypes(self) -> frozenset[str]:
        return frozenset({self.stored})

    @property
    def parameters_per_rank(self) -> int:
        return 2 * sum(_outer(self.first))

    @property
    def parameters_per_squared_rank(self) -> int:
        return 2 * self.first.taps if isinstance(self.first, TuckerFactors) else 0

    def stored_ranks(self, solved: Any) -> NDArray[np.intp]:
        written_ranks: NDArray[np.intp] = solved.written_ranks
        return written_ranks

    def decompose(self, arrays: Arrays, base: Factor | None = None) -> LohaSpectrum:
        if not np.isfinite(self.factor):
            raise LayerError(f"its scale is {self.factor}: alpha is damaged")
        first, second = _decomposed(self.first, arrays), _decomposed(self.second, arrays)
        nested = _nested(self.first, first, arrays), _nested(self.second, second, arrays)
        lost = abs(self.factor) * product_errors(*nested, self.rank)
        written_ranks = _best_so_far(lost)
        held = np.maximum.accumulate(np.maximum(lost[0] ** 2 - lost[written_ranks] ** 2, 0.0))
        return LohaSpectrum(np.sqrt(np.diff(held)), written_ranks, first, second)

    def slots(self, rank: int) -> tuple[TensorSlot, ...]:
        shapes = _side_shapes("1", self.first, rank, self.kernel) | _side_shapes("2", self.second, rank, self.kernel)
        return tuple(TensorSlot(role, shape, self.stored) for role, shape in shapes.items())

    def values(self, work: WriteSpec) -> dict[str, Single]:
        spectrum, k = _spectrum(work), len(work.kept)
        strength = self.factor * work.gain**2
        one, two = _leading(spectrum.first), _leading(spectrum.second)
        share = np.sqrt(abs(strength) * two / one) if one > 0 and two > 0 else 1.0  # both sides equally strong
        first = _side_values("1", self.first, spectrum.first, k, work.arrays, share)
        second = _side_values("2", self.second, spectrum.second, k, work.arrays, abs(strength) / share)
        first["hada_w1_a"] = first["hada_w1_a"] * np.float32(np.copysign(1.0, strength))
        return first | second

    def error(self, found: Loha, work: WriteSpec) -> float:
        """Return the distance from the product of the truncations, which are computed again."""
        spectrum, k = _spectrum(work), len(work.kept)
        wanted = hadamard_pair(
            _truncation(self.first, spectrum.first, k, work.arrays),
            _truncation(self.second, spectrum.second, k, work.arrays),
            self.factor * work.gain**2,
        )
        return relative_distance(found.as_pair(), wanted)

    def times(self, weight: float) -> Loha:
        return replace(self, factor=self.factor * weight)

    def as_pair(self) -> Pair:
        """Return the same delta, exactly, as a pair of rank r1 * r2."""
        return hadamard_pair(_as_pair(self.first), _as_pair(self.second), self.factor)

    def base_alignment(self, solved: Any, weight: Factor, arrays: Arrays, *, transposed: bool) -> Double:
        """Return the alignment of what each rank adds; 0 for ranks that are written as a smaller one."""
        bits = weight.bits.T if transposed else weight.bits
        first, second = _nested(self.first, solved.first, arrays), _nested(self.second, solved.second, arrays)
        ranks = np.unique(solved.written_ranks[solved.written_ranks > 0])
        found = np.zeros(self.rank)
        found[ranks - 1] = step_alignment(first, second, ranks.tolist(), lambda rows: singles(bits[rows], weight.kind))
        return found

    def _dense(self) -> Single:
        one, two = (product_matrix(_as_pair(side)).bits for side in (self.first, self.second))
        return np.asarray(np.float32(self.factor) * one * two)

    def full(self, values: dict[str, Single]) -> Single:
        return np.asarray(_side_full("1", self.first, values) * _side_full("2", self.second, values))

    def converted(self) -> LowRank | Full:
        pair = self.as_pair()
        if pair.rank <= min(self.size):
            return lora_from_pair(pair, self.kernel, self.stored)
        n, m = self.size
        return Full(LazyMatrix(self.size, self._dense), (n, m // prod(self.kernel), *self.kernel), self.stored)


def _outer(side: Side) -> tuple[int, int]:
    """Return rows and columns of the outer factors."""
    return side.up.shape[0], side.down.shape[1]


def _as_pair(side: Side) -> Pair:
    return tucker_as_pair(side) if isinstance(side, TuckerFactors) else side


def _decomposed(side: Side, arrays: Arrays) -> SideSpectrum:
    return decompose_tucker(side, arrays) if isinstance(side, TuckerFactors) else decompose([side], arrays)[0]


def _side_shapes(name: str, side: Side, rank: int, kernel: Shape) -> dict[str, Shape]:
    n, m = _outer(side)
    if isinstance(side, TuckerFactors):
        shapes = {f"hada_t{name}": (rank, rank, *kernel), f"hada_w{name}_a": (rank, n)}
    else:
        shapes = {f"hada_w{name}_a": (n, rank)}
    shapes[f"hada_w{name}_b"] = (rank, m)
    return shapes


def _side_full(name: str, side: Side, values: dict[str, Single]) -> Single:
    up, down = values[f"hada_w{name}_a"], values[f"hada_w{name}_b"]
    return tucker_product(up.T, values[f"hada_t{name}"], down) if isinstance(side, TuckerFactors) else up @ down


def _leading(spectrum: SideSpectrum) -> float:
    return float(spectrum.s.max())


def _truncation(side: Side, spectrum: SideSpectrum, k: int, arrays: Arrays) -> Pair:
    nested = _nested(side, spectrum, arrays)
    return Pair(as_stored(nested.up[:, :k]), as_stored(nested.down(k)))


def _nested(side: Side, spectrum: SideSpectrum, arrays: Arrays) -> NestedTruncations:
    if isinstance(side, TuckerFactors):
        assert isinstance(spectrum, TuckerSpectrum)
        return _nested_core(side, spectrum, arrays)
    assert isinstance(spectrum, Spectrum)
    up, down = truncated(side, spectrum, np.arange(side.rank), arrays)
    return NestedTruncations(up, _first_rows(down))


def _first_rows(down: Single) -> Callable[[int], Single]:
    return lambda k: down[:k]


def _nested_core(side: TuckerFactors, spectrum: TuckerSpectrum, arrays: Arrays) -> NestedTruncations:
    """Return the truncations of Tucker factors. The core of each rank is its own, not a part of a larger one."""
    up, mid, down = truncated_tucker(side, spectrum, side.rank, arrays)

    def rows(k: int) -> Single:
        return np.asarray(np.einsum("abt,by->ayt", mid[:k, :k], down[:k], optimize=True)).reshape(k, -1)

    return NestedTruncations(up, rows)


def _side_values(
    name: str, side: Side, spectrum: SideSpectrum, k: int, arrays: Arrays, strength: float
) -> dict[str, Single]:
    """Return `strength` times the truncation to k, padded with zeros if the side has a lower rank."""
    if isinstance(side, TuckerFactors):
        assert isinstance(spectrum, TuckerSpectrum)
        up, mid, down = truncated_tucker(side, spectrum, min(k, side.rank), arrays, strength)
        short = k - len(mid)
        mid = np.pad(mid, ((0, short), (0, short), (0, 0)))
        outer = {f"hada_t{name}": mid, f"hada_w{name}_a": np.pad(up, ((0, 0), (0, short))).T}
        return outer | {f"hada_w{name}_b": np.pad(down, ((0, short), (0, 0)))}
    assert isinstance(spectrum, Spectrum)
    up, down = truncated(side, spectrum, np.arange(min(k, side.rank)), arrays, strength**0.5)
    short = k - len(down)
    return {f"hada_w{name}_a": np.pad(up, ((0, 0), (0, short))), f"hada_w{name}_b": np.pad(down, ((0, short), (0, 0)))}


def _best_so_far(lost: Double) -> NDArray[np.intp]:
    """Return for every rank the one, at most as large, with the smallest error."""
    best = np.zeros(len(lost), np.intp)
    for k in range(1, len(lost)):
        best[k] = k if k == 1 or lost[k] < lost[best[k - 1]] else best[k - 1]
    return best


def _spectrum(work: WriteSpec) -> LohaSpectrum:
    assert isinstance(work.solved, LohaSpectrum)
    return work.solved


def read_loha(tensors: Tensors) -> Loha:
    """Read ``hada_w1_a`` and the tensors that belong to it. Raises LayerError if shapes do not fit."""
    tensors.need("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    has_core = "hada_t1" in tensors or "hada_t2" in tensors
    first, second = (_read_side(tensors, name, has_core) for name in "12")
    same = first.size == second.size
    tensors.expect("hada_w2_a", same, f"its side makes {second.size}, that of hada_w1_a {first.size}")
    factor = tensors.outer_scale(tensors.shape("hada_w1_b")[0])
    kernel = tensors.shape("hada_t1")[2:] if has_core else ()
    return Loha(first, second, factor, tensors.dtype("hada_w1_a"), kernel)


def _read_side(tensors: Tensors, name: str, has_core: bool) -> Side:
    up, down = f"hada_w{name}_a", f"hada_w{name}_b"
    if has_core:
        return read_tucker_factors(tensors, up, f"hada_t{name}", down, transposed=True, scale=1.0)
    left, right = tensors.matrix(up), tensors.matrix(down)
    tensors.expect(up, left.shape[1] == right.shape[0], f"its rank is not that of {down}, {right.shape[0]}")
    return Pair(left, right)
