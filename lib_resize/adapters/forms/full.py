"""A weight difference in full (LyCORIS full, ai-toolkit): written as a LoRA, or in full if that is no larger."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...linalg.arrays import Arrays
from ...linalg.casts import Double, Single, doubles, singles
from ...linalg.dense import singular_values, truncated_dense
from ...linalg.factor import Factor
from .form import (
    Decomposition,
    Form,
    Shape,
    Tensors,
    TensorSlot,
    WriteSpec,
    kept_energy,
    projected_error,
    relative_difference,
)


@dataclass(frozen=True)
class Strengths:
    """Singular values only; vectors are computed again when they are needed."""

    s: Double

    @property
    def nbytes(self) -> int:
        return self.s.nbytes


@dataclass(frozen=True)
class Full(Form):
    """``scale * matrix``, stored in full."""

    matrix: Factor
    """(n, m)."""
    shape: Shape
    """As stored, (n, m) or (n, in, height, width)."""
    stored: str
    factor: float = 1.0

    kind = "weight difference"
    has_own_alpha = False

    @property
    def size(self) -> tuple[int, int]:
        return self.matrix.shape

    @property
    def rank(self) -> int:
        return min(self.size)

    @property
    def kernel(self) -> Shape:
        return self.shape[2:]

    @property
    def scale(self) -> float:
        return self.factor

    @property
    def dtypes(self) -> frozenset[str]:
        return frozenset({self.stored})

    def stored_ranks(self, solved: Decomposition) -> NDArray[np.intp]:
        return stored_ranks_from(self.rank, least_rank_stored_in_full(self.size))

    def decompose(self, arrays: Arrays, base: Factor | None = None) -> Strengths:
        return Strengths(abs(self.factor) * singular_values(self.matrix, arrays))

    def slots(self, rank: int) -> tuple[TensorSlot, ...]:
        if rank >= least_rank_stored_in_full(self.size):
            return (TensorSlot("diff", self.shape, self.stored),)
        ones = tuple(1 for _ in self.kernel)
        down = (rank, *self.shape[1:])
        return TensorSlot("up", (self.shape[0], rank, *ones), self.stored), TensorSlot("down", down, self.stored)

    def values(self, work: WriteSpec) -> dict[str, Single]:
        if len(work.kept) >= least_rank_stored_in_full(self.size):
            whole = singles(self.matrix.bits, self.matrix.kind)
            return {"diff": whole * np.float32(self.factor * work.gain**2)}
        up, down = truncated_dense(self.matrix, work.kept, work.arrays, work.gain * abs(self.factor) ** 0.5)
        return {"up": up * np.float32(np.copysign(1.0, self.factor)), "down": down}

    def error(self, found: Any, work: WriteSpec) -> float:
        strength = work.gain**2 * self.factor
        mine = doubles(self.matrix.bits, self.matrix.kind)
        if isinstance(found, Full):
            return relative_difference(doubles(found.matrix.bits, found.matrix.kind) * found.factor, strength * mine)
        up, down = (doubles(factor.bits, factor.kind) for factor in (found.pair.up, found.pair.down))
        square = found.pair.scale**2 * float(np.sum((up.T @ up) * (down @ down.T)))
        shared = found.pair.scale * strength * float(np.sum((up.T @ mine) * down))
        return projected_error(square, shared, kept_energy(work))

    def full(self, values: dict[str, Single]) -> Single:
        return values["diff"] if "diff" in values else np.asarray(values["up"] @ values["down"])

    def times(self, weight: float) -> Full:
        return replace(self, factor=self.factor * weight)

    def converted(self) -> Full:
        return self

    def base_alignment(self, solved: Any, weight: Factor, arrays: Arrays, *, transposed: bool) -> Double:
        up, down = truncated_dense(self.matrix, np.arange(self.rank), arrays)
        w = singles(weight.bits, weight.kind)
        met = np.einsum("ij,ij->j", up, (w.T if transposed else w) @ down.T, dtype=np.float64)
        strengths = (up.astype(np.float64) ** 2).sum(axis=0)
        return np.asarray(np.abs(np.divide(met, strengths, out=np.zeros(self.rank), where=strengths > 0)))


def least_rank_stored_in_full(size: tuple[int, int]) -> int:
    """Return the rank from which a pair stores as many numbers as the matrix (n, m) itself."""
    n, m = size
    return -(-n * m // (n + m))


def stored_ranks_from(rank: int, least: int) -> NDArray[np.intp]:
    """Return the rank that is written for each rank, (rank + 1,): all of it from `least` on."""
    ranks = np.arange(rank + 1)
    return np.where(ranks >= least, rank, ranks)


def read_full(tensors: Tensors) -> Full:
    """Read ``diff``."""
    shape = tensors.shape("diff")
    tensors.expect("diff", len(shape) >= 2, "a matrix or a kernel was expected")
    return Full(tensors.matrix("diff"), shape, tensors.dtype("diff"))
