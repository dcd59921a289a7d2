"""The two factors of a LoKr layer, ``kron(w1, w2)``, in each layout that files have.

w1 is written in the layout of the source. w2 is decomposed and truncated: a matrix in full (`FullW2`), up and down
(`PairW2`), or a Tucker decomposition (`TuckerW2`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...linalg.arrays import Arrays
from ...linalg.casts import Double, Single, doubles
from ...linalg.dense import singular_values, truncated_dense
from ...linalg.factor import Factor, Pair, Spectrum, decompose
from ...linalg.lazy import materialise
from ...linalg.truncate import KeptIndices, truncated
from ...linalg.tucker import (
    TuckerFactors,
    TuckerSpectrum,
    decompose_tucker,
    truncated_tucker,
    tucker_alignment,
    tucker_as_pair,
)
from .form import Shape, inner_product, projected_error, relative_difference
from .full import Strengths, least_rank_stored_in_full, stored_ranks_from
from .tucker import tucker_error

W2Spectrum = Spectrum | TuckerSpectrum | Strengths


def pair_product(pair: Pair) -> Double:
    """Return ``scale * up @ down`` of a pair, (n, m), float64."""
    return np.asarray(pair.scale * (doubles(pair.up.bits, pair.up.kind) @ doubles(pair.down.bits, pair.down.kind)))


@dataclass(frozen=True)
class W1:
    """The first factor, (n1, m1)."""

    factor: Factor | Pair

    @property
    def size(self) -> tuple[int, int]:
        """(n1, m1)."""
        return self.factor.size if isinstance(self.factor, Pair) else self.factor.shape

    def dense(self) -> Double:
        """Return the matrix, (n1, m1), float64."""
        if isinstance(self.factor, Pair):
            return pair_product(self.factor)
        return doubles(self.factor.bits, self.factor.kind)

    @cached_property
    def norm(self) -> float:
        """Frobenius norm; not finite where the file is damaged."""
        with np.errstate(all="ignore"):  # reported with the name of the layer by `Lokr.decompose`
            return float(np.linalg.norm(self.dense()))

    def shapes(self) -> dict[str, Shape]:
        """Return role -> shape of the tensors that hold it."""
        if isinstance(self.factor, Pair):
            return {"lokr_w1_a": self.factor.up.shape, "lokr_w1_b": self.factor.down.shape}
        return {"lokr_w1": self.factor.shape}

    def values(self, gain: float) -> dict[str, Single]:
        """Return role -> values of `gain` times the matrix."""
        if isinstance(self.factor, Pair):
            return {
                "lokr_w1_a": materialise(self.factor.up) * np.float32(gain),
                "lokr_w1_b": materialise(self.factor.down),
            }
        return {"lokr_w1": materialise(self.factor) * np.float32(gain)}


class W2(ABC):
    """The second factor, (n2, m2), with the kernel flattened into its columns."""

    nested: bool = False
    """Whether only the first k dimensions can be kept together, and not any k of them."""

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """(n2, m2)."""

    @property
    @abstractmethod
    def rank(self) -> int:
        """Number of dimensions."""

    @property
    def parameters_per_rank(self) -> int:
        """Numbers stored per rank."""
        return sum(self.size)

    @property
    def parameters_per_squared_rank(self) -> int:
        """Numbers stored per square of the rank."""
        return 0

    def is_stored_in_full(self, rank: int) -> bool:
        """Return whether it is written in full at this rank, because factors would be no smaller."""
        return False

    def stored_ranks(self) -> NDArray[np.intp] | None:
        """Return the rank that is written for each rank, (rank + 1,); None where every rank is written."""
        return None

    @abstractmethod
    def dense(self) -> Double:
        """Return the matrix, (n2, m2), float64."""

    def as_pair(self) -> Pair | None:
        """Return the same matrix as a pair, without loss; None for one in full."""
        return None

    @abstractmethod
    def decompose(self, arrays: Arrays) -> W2Spectrum:
        """Decompose it. Raises LayerError for NaN and infinities."""

    @abstractmethod
    def shapes(self, rank: int, kernel: Shape) -> dict[str, Shape]:
        """Return role -> shape of the tensors that hold `rank` dimensions."""

    @abstractmethod
    def values(self, spectrum: Any, kept: KeptIndices, arrays: Arrays, strength: float) -> dict[str, Single]:
        """Return role -> values of `strength` times the dimensions `kept`."""

    def error(
        self, found: W2, factor: float, spectrum: Any, kept: KeptIndices, arrays: Arrays, strength: float
    ) -> float:
        """Return how far `factor` times `found`, read back from a file, is from `strength` times the kept dimensions.

        Relative, in the Frobenius norm.
        """
        if isinstance(found, FullW2):
            return relative_difference(factor * found.dense(), strength * self.dense())
        mine = found.as_pair()
        assert mine is not None
        kept_strengths = spectrum.s[kept] * strength
        square = factor**2 * inner_product(mine, mine)
        shared = factor * strength * self.shared(mine)
        return projected_error(square, shared, float(kept_strengths @ kept_strengths))

    @abstractmethod
    def shared(self, pair: Pair) -> float:
        """Return the inner product with the matrix of a pair, float64."""


@dataclass(frozen=True)
class FullW2(W2):
    """A matrix in full. It is written as factors where these are smaller."""

    matrix: Factor

    @property
    def size(self) -> tuple[int, int]:
        return self.matrix.shape

    @property
    def rank(self) -> int:
        return min(self.matrix.shape)

    def is_stored_in_full(self, rank: int) -> bool:
        return rank >= least_rank_stored_in_full(self.size)

    def stored_ranks(self) -> NDArray[np.intp]:
        return stored_ranks_from(self.rank, least_rank_stored_in_full(self.size))

    def dense(self) -> Double:
        return doubles(self.matrix.bits, self.matrix.kind)

    def decompose(self, arrays: Arrays) -> Strengths:
        return Strengths(singular_values(self.matrix, arrays))

    def shapes(self, rank: int, kernel: Shape) -> dict[str, Shape]:
        n, m = self.size
        if self.is_stored_in_full(rank):
            return {"lokr_w2": (n, m // prod(kernel), *kernel)}
        return {"lokr_w2_a": (n, rank), "lokr_w2_b": (rank, m)}

    def values(self, spectrum: Strengths, kept: KeptIndices, arrays: Arrays, strength: float) -> dict[str, Single]:
        if self.is_stored_in_full(len(kept)):
            return {"lokr_w2": np.float32(strength) * materialise(self.matrix)}
        up, down = truncated_dense(self.matrix, kept, arrays, abs(strength) ** 0.5)
        return {"lokr_w2_a": up * np.float32(np.copysign(1.0, strength)), "lokr_w2_b": down}

    def shared(self, pair: Pair) -> float:
        up, down = (doubles(one.bits, one.kind) for one in (pair.up, pair.down))
        return pair.scale * float(np.sum((up.T @ self.dense()) * down))

    def all_dimensions(self, spectrum: Strengths, arrays: Arrays) -> tuple[Single, Single]:
        """Return all dimensions as up (n2, r) and down (r, m2), float32."""
        return truncated_dense(self.matrix, np.arange(self.rank), arrays)


@dataclass(frozen=True)
class PairW2(W2):
    """Up and down."""

    pair: Pair

    @property
    def size(self) -> tuple[int, int]:
        return self.pair.size

    @property
    def rank(self) -> int:
        return self.pair.rank

    def dense(self) -> Double:
        return pair_product(self.pair)

    def as_pair(self) -> Pair:
        return self.pair

    def decompose(self, arrays: Arrays) -> Spectrum:
        return decompose([self.pair], arrays)[0]

    def shapes(self, rank: int, kernel: Shape) -> dict[str, Shape]:
        n, m = self.size
        return {"lokr_w2_a": (n, rank), "lokr_w2_b": (rank, m)}

    def values(self, spectrum: Spectrum, kept: KeptIndices, arrays: Arrays, strength: float) -> dict[str, Single]:
        up, down = truncated(self.pair, spectrum, kept, arrays, abs(strength) ** 0.5)
        return {"lokr_w2_a": up * np.float32(np.copysign(1.0, strength)), "lokr_w2_b": down}

    def shared(self, pair: Pair) -> float:
        return inner_product(pair, self.pair)

    def all_dimensions(self, spectrum: Spectrum, arrays: Arrays) -> tuple[Single, Single]:
        """Return all dimensions as up (n2, r) and down (r, m2), float32."""
        return truncated(self.pair, spectrum, np.arange(self.rank), arrays)


@dataclass(frozen=True)
class TuckerW2(W2):
    """A Tucker decomposition."""

    factors: TuckerFactors

    nested = True

    @property
    def size(self) -> tuple[int, int]:
        return self.factors.size

    @property
    def rank(self) -> int:
        return self.factors.rank

    @property
    def parameters_per_rank(self) -> int:
        return self.factors.up.shape[0] + self.factors.down.shape[1]

    @property
    def parameters_per_squared_rank(self) -> int:
        return self.factors.taps

    def dense(self) -> Double:
        return pair_product(self.as_pair())

    def as_pair(self) -> Pair:
        return tucker_as_pair(self.factors)

    def decompose(self, arrays: Arrays) -> TuckerSpectrum:
        return decompose_tucker(self.factors, arrays)

    def shapes(self, rank: int, kernel: Shape) -> dict[str, Shape]:
        n, m = self.factors.up.shape[0], self.factors.down.shape[1]
        return {"lokr_t2": (rank, rank, *kernel), "lokr_w2_a": (rank, n), "lokr_w2_b": (rank, m)}

    def values(self, spectrum: TuckerSpectrum, kept: KeptIndices, arrays: Arrays, strength: float) -> dict[str, Single]:
        up, mid, down = truncated_tucker(self.factors, spectrum, len(kept), arrays, strength)
        return {"lokr_t2": mid, "lokr_w2_a": up.T, "lokr_w2_b": down}

    def error(
        self, found: W2, factor: float, spectrum: TuckerSpectrum, kept: KeptIndices, arrays: Arrays, strength: float
    ) -> float:
        assert isinstance(found, TuckerW2)
        core = replace(found.factors, scale=factor)
        return tucker_error(core, self.factors, spectrum, len(kept), arrays, strength)

    def shared(self, pair: Pair) -> float:
        return inner_product(pair, self.as_pair())

    def alignment(self, spectrum: TuckerSpectrum, weight: Double) -> Double:
        """Return ``|<D_j, W>| / ||D_j||_F`` of every dimension j for a weight W (n2, m2), (rank,), float64."""
        return tucker_alignment(self.factors, spectrum, weight)
