"""The strongest dimensions of a matrix that is known in full, such as the difference of two weights.

If the shorter side is small, the decomposition is exact (`dense`). Else it is found by subspace iteration with
Rayleigh-Ritz (Halko, Martinsson and Tropp 2011, algorithm 4.4; Gu 2015):

1. ``Q`` is an orthonormal basis of ``X G``, G random with k + p columns (oversampling p).
2. ``Q <- orth(X orth(X^T Q))`` makes the directions that are strong in X stronger in Q.
3. The singular values of ``Q^T X`` are those of X from below, and its dimensions give the approximation.

The loss is known, not estimated: Q has orthonormal columns, so ``||X - X_k||_F^2 = ||X||_F^2 - sum_i s_i^2`` for the
returned s. Step 2 is repeated until it improves that loss by less than `TOLERANCE` of itself. By Gu's theorem the loss
after q steps is at most ``1 + O((s_k+p / s_k)^(4 q + 2))`` times that of the best approximation. If the spectrum is
flat, so that this bound is weak, every choice of dimensions is nearly as good as another. The tests hold the loss to
1.005 times the best one on flat, slowly falling and steep spectra.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..errors import LayerError
from .arrays import Array, Arrays, NumpyArrays, TorchArrays
from .casts import Double, Single
from .dense import singular_values, truncated_dense
from .factor import Stored

SMALL = 256
"""A shorter side up to this is decomposed exactly, and so is one of less than twice the requested dimensions."""
OVERSAMPLING = 16
TOLERANCE = 1e-3
_STEPS = 16


@dataclass(frozen=True)
class TruncatedSvd:
    """The first k dimensions of a matrix (n, m)."""

    s: Double
    """Singular values, (k,), descending."""
    up: Single
    """``U sqrt(s)``, (n, k)."""
    down: Single
    """``sqrt(s) V^T``, (k, m)."""
    lost: float
    """Frobenius norm of the matrix without these dimensions."""


def truncated_svd(matrix: Single, count: int, arrays: Arrays) -> TruncatedSvd:
    """Return the `count` strongest dimensions of a float32 matrix (n, m), or all if it has fewer.

    Raises LayerError where the matrix holds NaN or an infinity.
    """
    whole = _square_norm(matrix, arrays)
    if not math.isfinite(whole):
        raise LayerError("holds NaN or infinite values: one of the two checkpoints is damaged")
    wanted = min(count, *matrix.shape)
    shorter = min(matrix.shape)
    if shorter <= max(SMALL, 2 * (wanted + OVERSAMPLING)):
        return _exact(matrix, wanted, whole, arrays)
    if isinstance(arrays, TorchArrays) and arrays.has_float64:
        return _on_device(matrix, wanted, whole, arrays)
    return _on_cpu(matrix, wanted, whole, arrays)


def _on_cpu(matrix: Single, wanted: int, whole: float, arrays: Arrays) -> TruncatedSvd:
    if matrix.shape[0] < matrix.shape[1]:
        turned = _iterated(matrix.T, wanted, whole, arrays)
        return TruncatedSvd(
            turned.s, np.ascontiguousarray(turned.down.T), np.ascontiguousarray(turned.up.T), turned.lost
        )
    return _iterated(matrix, wanted, whole, arrays)


def _square_norm(matrix: Single, arrays: Arrays) -> float:
    flat = matrix.reshape(-1)
    blocks = (flat[at : at + arrays.block_elements] for at in range(0, flat.size, arrays.block_elements))
    return math.fsum(float(np.dot(block, block)) for block in (block.astype(np.float64) for block in blocks))


def _exact(matrix: Single, wanted: int, whole: float, arrays: Arrays) -> TruncatedSvd:
    stored = Stored(np.ascontiguousarray(matrix), "F32")
    s = singular_values(stored, arrays)
    kept = np.arange(min(wanted, int(np.count_nonzero(s))))
    up, down = truncated_dense(stored, kept, arrays)
    tail = s[len(kept) :]
    lost = math.sqrt(float(tail @ tail)) if len(kept) else math.sqrt(whole)
    return TruncatedSvd(s[kept], up, down, lost)


def _on_device(matrix: Single, wanted: int, whole: float, arrays: TorchArrays) -> TruncatedSvd:
    from .device_svd import DeviceIteration, fits_device  # for devices alone

    if not fits_device(matrix.shape, arrays):
        return _on_cpu(matrix, wanted, whole, NumpyArrays())
    with arrays.torch.inference_mode(), arrays.full_float32():
        found, left = DeviceIteration(matrix, wanted + OVERSAMPLING, wanted, arrays), whole
        for _ in range(_STEPS):
            before, left = left, _left(whole, found.s)
            if before - left <= TOLERANCE * left:
                break
            found.step()
        return TruncatedSvd(found.s, *found.factors(), math.sqrt(_left(whole, found.s)))


def _iterated(matrix: Single, wanted: int, whole: float, arrays: Arrays) -> TruncatedSvd:
    """Decompose a matrix with n >= m by subspace iteration."""
    x = arrays.to_device(matrix)
    width = wanted + OVERSAMPLING
    start = np.random.default_rng(0).standard_normal((matrix.shape[1], width), dtype=np.float32)
    basis = _orthonormal(arrays.to_numpy(x @ arrays.to_device(start)))
    inner, left = _projected(x, basis, wanted, arrays), whole
    for _ in range(_STEPS):
        before, left = left, _left(whole, inner.s)
        if before - left <= TOLERANCE * left:
            break
        basis = _orthonormal(arrays.to_numpy(x @ arrays.to_device(_orthonormal(inner.rows.T))))
        inner = _projected(x, basis, wanted, arrays)
    root = np.sqrt(inner.s).astype(np.float32)
    up = (basis @ inner.u.astype(np.float32)) * root
    return TruncatedSvd(inner.s, np.ascontiguousarray(up), inner.vt * root[:, None], math.sqrt(_left(whole, inner.s)))


@dataclass(frozen=True)
class _Projected:
    """``Q^T X`` and its decomposition."""

    rows: Single
    """``Q^T X``, (k + p, m)."""
    s: Double
    u: Double
    """(k + p, k)."""
    vt: Single
    """(k, m)."""


def _projected(x: Array, basis: Single, wanted: int, arrays: Arrays) -> _Projected:
    rows = np.asarray(arrays.to_numpy(arrays.to_device(np.ascontiguousarray(basis.T)) @ x), np.float32)
    wide = rows.astype(np.float64)
    square, vectors = np.linalg.eigh(wide @ wide.T)
    s = np.sqrt(np.maximum(square[::-1][:wanted], 0.0))
    alive = s > 1e-7 * max(float(s[0]), 1e-300)
    s, u = s[alive], vectors[:, ::-1][:, :wanted][:, alive]
    vt = ((u / s).T @ wide).astype(np.float32)
    return _Projected(rows, s, np.asarray(u), np.asarray(vt))


def _orthonormal(columns: Single) -> Single:
    return np.asarray(np.linalg.qr(columns)[0], np.float32)


def _left(whole: float, s: Double) -> float:
    return max(whole - float(s @ s), 0.0)
