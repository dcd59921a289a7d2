"""Exact singular value decomposition of ``scale * B @ A`` from the thin factors, never from the full matrix.

Method, for a pair B (n, r), A (r, m), all (r, r) work in float64:

1. Gram matrices ``G_B = B^T B`` and ``G_A = A A^T``.
2. ``G_A = C C^T`` by Cholesky, whose error does not depend on the lengths of the rows of A (Higham, Accuracy and
   Stability of Numerical Algorithms, 10.1). If A is rank-deficient, by eigenvectors, with all rows scaled to unit
   length first. Thresholds are relative to factors scaled in the same way, which leaves ``B @ A`` unchanged.
3. ``H = C^T G_B C = W diag(s^2) W^T``: one symmetric eigenproblem gives the singular values.
4. ``B @ P`` is ``U sqrt(s)`` with ``P = C W s^-1/2`` and ``Q @ A`` is ``sqrt(s) V^T`` with
   ``Q = s^-3/2 W^T C^T G_B``. No factor is inverted, so rank deficiency does no harm.

The relative error of s_i is about 1e-16 (t / s_i)^2, with ``t = sqrt(||G_A|| ||G_B||)``, which is near s_1 unless
the two factors cancel each other. If that is not enough, because a singular value that is not zero is below 1e-6 t or
t is far above s_1, the layer is decomposed again by QR of both factors and an SVD of the (r, r) core (Golub and Van
Loan, Matrix Computations, 5.4 and 8.6).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import LayerError
from .arrays import Array, Arrays
from .casts import Bits, Double, Single, doubles, singles

ZERO_TOLERANCE = 1e-7
"""A singular value below this share of the largest is a rounding error and counts as zero."""
DOUBTFUL = 1e-6
"""A singular value below this share of t may have an error of 1e-4."""
CANCELLING = 100.0
"""t over s_1, above which the factors cancel each other."""
WEAK = 1e-6
"""A pivot of Cholesky below this share of the largest, rows scaled to unit length, is not safe."""


class Factor(Protocol):
    """One stored matrix. Its bits may be computed at each access, so read them once."""

    @property
    def bits(self) -> Bits:
        """Storage array (rows, columns), C-contiguous; see `casts`."""
        ...

    @property
    def kind(self) -> str:
        """safetensors dtype of the numbers: F16, BF16, F32, F64, F8_E4M3, F8_E5M2."""
        ...

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        ...


@dataclass(frozen=True)
class Stored:
    """A matrix whose bits are in memory."""

    bits: Bits
    kind: str

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.bits.shape
        return int(rows), int(columns)


@dataclass(frozen=True)
class Joined:
    """Matrices side by side (axis 1) or stacked (axis 0), each times its gain; computed at each access."""

    parts: tuple[Factor, ...]
    gains: tuple[float, ...]
    axis: int
    kind: str = "F32"

    @property
    def bits(self) -> Bits:
        values = [
            singles(part.bits, part.kind) * np.float32(gain) for part, gain in zip(self.parts, self.gains, strict=True)
        ]
        return np.ascontiguousarray(np.concatenate(values, axis=self.axis))

    @property
    def shape(self) -> tuple[int, int]:
        along = sum(part.shape[self.axis] for part in self.parts)
        across = self.parts[0].shape[1 - self.axis]
        return (along, across) if self.axis == 0 else (across, along)


@dataclass(frozen=True)
class LeadingSlice:
    """The first rows (axis 0) or columns (axis 1) of a matrix; cut at each access."""

    part: Factor
    count: int
    axis: int

    @property
    def bits(self) -> Bits:
        bits = self.part.bits
        return np.ascontiguousarray(bits[: self.count] if self.axis == 0 else bits[:, : self.count])

    @property
    def kind(self) -> str:
        return self.part.kind

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.part.shape
        return (self.count, columns) if self.axis == 0 else (rows, self.count)


@dataclass(frozen=True)
class Pair:
    """The delta ``scale * up @ down`` of a layer."""

    up: Factor
    """B, (n, r)."""
    down: Factor
    """A, (r, m)."""
    scale: float = 1.0

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """(n, m): rows of up, columns of down."""
        return self.up.shape[0], self.down.shape[1]


@dataclass(frozen=True)
class Spectrum:
    """The singular value decomposition of a pair of rank r, in factor space."""

    s: Double
    """Singular values of the delta, scale included, (r,), descending. Dimensions that carry nothing are exactly 0."""
    p: Single
    """(r, r): ``up @ p[:, :k]`` is ``U sqrt(s)`` of the first k dimensions, (n, k)."""
    q: Single
    """(r, r): ``q[:k] @ down`` is ``sqrt(s) V^T`` of the first k dimensions, (k, m)."""
    owner: NDArray[np.integer[Any]] | None = None
    """(r,): the piece of a fused layer that each dimension belongs to, if it was decomposed by piece; see `blocks`."""

    @property
    def nbytes(self) -> int:
        return self.s.nbytes + self.p.nbytes + self.q.nbytes

    @property
    def effective_rank(self) -> int:
        """Number of dimensions that are not zero."""
        return int(np.count_nonzero(self.s))


def decompose(pairs: Sequence[Pair], arrays: Arrays) -> list[Spectrum]:
    """Decompose pairs of one common rank r. Many small ones together are cheaper than one by one.

    The module docstring gives the method. Raises LayerError where a factor holds NaN or an infinity, or the ranks of up
    and down differ; ValueError for pairs of different ranks.
    """
    _check_ranks(pairs)
    if pairs[0].rank == 0:
        raise LayerError("the rank is 0: a layer without dimensions; the file is damaged")
    gram_up = np.stack([gram_of_columns(pair.up, arrays) for pair in pairs])
    gram_down = np.stack([gram_of_rows(pair.down, arrays) for pair in pairs])
    return decompose_grams(pairs, gram_up, gram_down)


def decompose_grams(pairs: Sequence[Pair], gram_up: Double, gram_down: Double) -> list[Spectrum]:
    """Decompose pairs of one rank r whose Gram matrices are known, (pairs, r, r) each. Raises as `decompose`."""
    _check_finite(pairs, gram_up, gram_down)
    s, p, q, exact = _solve(gram_up, gram_down)
    solved: Iterator[tuple[Double, Double, Double]] = (
        (s[i], p[i], q[i]) if exact[i] else _solve_by_qr(pair) for i, pair in enumerate(pairs)
    )
    return [_spectrum(*solution, pair.scale) for solution, pair in zip(solved, pairs, strict=True)]


def gram_of_columns(factor: Factor, arrays: Arrays) -> Double:
    """Return ``X^T X`` of X (rows, r) in float64, (r, r)."""
    return _gram(factor, arrays, 0)


def gram_of_rows(factor: Factor, arrays: Arrays) -> Double:
    """Return ``X X^T`` of X (r, columns) in float64, (r, r)."""
    return _gram(factor, arrays, 1)


def _gram(factor: Factor, arrays: Arrays, axis: int) -> Double:
    """Return the products of all columns of X (axis 0) or of all rows (axis 1), summed along that axis.

    Powers of two are left out of the numbers and multiplied to the sum, which changes no digit of it.
    """
    bits = factor.bits
    loaded = (arrays.load_scaled(block, factor.kind) for block in _blocks(bits, arrays, axis))
    gram, unit = _summed(loaded, axis)
    gram *= unit * unit
    if unit == 1.0 or np.diagonal(gram).max(initial=0.0) < _LARGEST_SQUARE:
        return gram
    exact = ((arrays.load_float64(block, factor.kind), 1.0) for block in _blocks(bits, arrays, axis))
    return _summed(exact, axis)[0]


_LARGEST_SQUARE = 2.0**32
"""A sum of squares below it has no number of 2^16 or more: none was an infinity or a NaN before `load_scaled`."""


def _blocks(bits: Bits, arrays: Arrays, axis: int) -> Iterator[Bits]:
    step = max(64, arrays.block_elements // max(bits.shape[1 - axis], 1))
    for start in range(0, bits.shape[axis], step):
        yield bits[start : start + step] if axis == 0 else bits[:, start : start + step]


def _summed(blocks: Iterator[tuple[Array, float]], axis: int) -> tuple[Double, float]:
    """Return the sum of the products of each block, and the unit of its numbers, which all blocks share."""
    block, unit = next(blocks)
    total = block.T @ block if axis == 0 else block @ block.T
    for block, _ in blocks:
        total += block.T @ block if axis == 0 else block @ block.T
    return (total if isinstance(total, np.ndarray) else np.asarray(total.cpu().numpy())), unit


def _solve(gram_up: Double, gram_down: Double) -> tuple[Double, Double, Double, NDArray[np.bool_]]:
    """Decompose a stack of unscaled deltas from their Gram matrices (layers, r, r).

    Returns s (layers, r), P and Q (layers, r, r), and whether each is exact enough (layers,).
    """
    square_length = np.diagonal(gram_down, axis1=1, axis2=2)
    d2 = np.where(square_length > 0, square_length, 1.0)
    c = _root(gram_down, d2)
    gc = gram_up @ c
    square, w = np.linalg.eigh(np.swapaxes(c, 1, 2) @ gc)
    s = np.sqrt(np.maximum(square[:, ::-1], 0.0))
    t = np.sqrt(_scaled_norm(gram_up, d2) * _scaled_norm(gram_down, 1.0 / d2))[:, None]
    s = np.where(s > ZERO_TOLERANCE * t, s, 0.0)
    doubtful = np.any((s > 0) & (s < DOUBTFUL * t), axis=1) | (t[:, 0] > CANCELLING * s[:, 0])
    inverse_root = np.divide(1.0, np.sqrt(s), out=np.zeros_like(s), where=s > 0)
    p = (c @ w)[:, :, ::-1]
    p *= inverse_root[:, None, :]
    q = (np.swapaxes(w, 1, 2) @ np.swapaxes(gc, 1, 2))[:, ::-1]
    q *= (inverse_root**3)[:, :, None]
    return s, p, q, ~doubtful | (t[:, 0] == 0)


def _scaled_norm(gram: Double, d2: Double) -> Double:
    """Return the Frobenius norms of ``D G D``, (layers,), for G (layers, r, r) and D's squared diagonals `d2`."""
    return np.asarray(np.sqrt(np.sum(((gram * gram) @ d2[:, :, None])[:, :, 0] * d2, axis=1)))


def _root(gram: Double, d2: Double) -> Double:
    """Return C with ``C C^T = gram``: by Cholesky, or by eigenvectors where Cholesky is not safe.

    Cholesky does not depend on the scaling of rows. The test for weak rows and the eigenvectors do, so they use rows of
    unit length.
    """
    try:
        c = np.asarray(np.linalg.cholesky(gram), np.float64)
    except np.linalg.LinAlgError:
        if len(gram) == 1:
            return _root_by_eigenvectors(gram, d2)
        return np.concatenate([_root(*one) for one in zip(gram[:, None], d2[:, None], strict=True)])
    diagonal = np.diagonal(c, axis1=1, axis2=2) / np.sqrt(d2)
    weak = diagonal.min(axis=1) < WEAK * diagonal.max(axis=1)
    if weak.any():
        c[weak] = _root_by_eigenvectors(gram[weak], d2[weak])
    return c


def _root_by_eigenvectors(gram: Double, d2: Double) -> Double:
    d = np.sqrt(d2)
    value, vector = np.linalg.eigh(gram / d[:, :, None] / d[:, None, :])
    return np.asarray(d[:, :, None] * vector * np.sqrt(np.maximum(value, 0.0))[:, None, :])


def _spectrum(s: Double, p: Double, q: Double, scale: float) -> Spectrum:
    root = np.sqrt(abs(scale))
    return Spectrum(s=s * abs(scale), p=_single_product(p, root), q=_single_product(q, np.copysign(root, scale)))


def _single_product(values: Double, gain: float) -> Single:
    """Return ``values * gain`` in float32, rounded once, in a new array."""
    return np.multiply(values, gain, out=np.empty(values.shape, np.float32), casting="same_kind")


def _solve_by_qr(pair: Pair) -> tuple[Double, Double, Double]:
    """Return s, P and Q from QR of both factors in float64: slower, good to 1e-12 of the largest singular value."""
    r_up = np.asarray(np.linalg.qr(doubles(pair.up.bits, pair.up.kind), mode="r"))
    r_down = np.asarray(np.linalg.qr(doubles(pair.down.bits, pair.down.kind).T, mode="r"))
    u, s, vt = np.linalg.svd(r_up @ r_down.T)
    u, s, vt = u[:, : pair.rank], s[: pair.rank], vt[: pair.rank]
    s = np.where(s > 1e-12 * s[0], s, 0.0)
    root = np.sqrt(s)
    p = np.linalg.pinv(r_up, rcond=1e-13) @ (u[:, : len(s)] * root)
    q = (root[:, None] * vt[: len(s)]) @ np.linalg.pinv(r_down.T, rcond=1e-13)
    return _padded(s, p, q, pair.rank)


def _padded(s: Double, p: Double, q: Double, rank: int) -> tuple[Double, Double, Double]:
    """Pad with zeros: factors of a rank above min(n, m) have fewer singular values than dimensions."""
    missing = rank - len(s)
    if missing <= 0:
        return s, p, q
    return np.pad(s, (0, missing)), np.pad(p, ((0, 0), (0, missing))), np.pad(q, ((0, missing), (0, 0)))


def _check_ranks(pairs: Sequence[Pair]) -> None:
    for pair in pairs:
        up, down = pair.up.shape, pair.down.shape
        if up[1] != down[0]:
            raise LayerError(f"up is {up} and down is {down}: the ranks do not agree; the file is damaged")
        if down[0] != pairs[0].rank:
            raise ValueError("pairs of one call must share their rank")


def _check_finite(pairs: Sequence[Pair], gram_up: Double, gram_down: Double) -> None:
    for pair, up, down in zip(pairs, gram_up, gram_down, strict=True):
        for name, gram in (("up", up), ("down", down)):
            if not np.isfinite(np.diagonal(gram)).all():
                raise LayerError(f"{name} holds NaN or infinite values: the file is damaged or its training diverged")
        if not np.isfinite(pair.scale):
            raise LayerError(f"its scale is {pair.scale}: alpha is damaged")
