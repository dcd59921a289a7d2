"""Norms of base weights, and how a base weight acts along the dimensions of a delta.

A weight is a stored matrix (rows, columns); a convolution is taken as (out, in * height * width).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from .arrays import Array, Arrays
from .casts import Double
from .factor import Factor, Pair, Spectrum
from .truncate import truncated

_STEPS = 160
_TOLERANCE = 1e-3  # of the residual; the error of the norm itself is of second order in it
_FIRST_LOOK = 8
_LOOK_EVERY = 4


def frobenius_norm(weight: Factor, arrays: Arrays) -> float:
    """``||W||_F``, blocks summed in float32 and their sums in float64."""
    return math.sqrt(sum(float(block @ block) for block in _flat_blocks(weight, arrays)))


def _flat_blocks(weight: Factor, arrays: Arrays) -> Iterator[Array]:
    flat = weight.bits.reshape(-1)
    for start in range(0, flat.size, arrays.block_elements):
        yield arrays.single(flat[start : start + arrays.block_elements], weight.kind)


def spectral_norm(weight: Factor, arrays: Arrays) -> float:
    """The largest singular value of a weight, to about 1e-5; see `largest_singular_value`."""
    return largest_singular_value(arrays.single(weight.bits, weight.kind), arrays)


def largest_singular_value(w: Array, arrays: Arrays) -> float:
    """Largest singular value of w (n, m), float32, by Golub-Kahan-Lanczos bidiagonalisation.

    Golub and Kahan 1965, with full reorthogonalisation of both sides (without it float32 breaks down), from a
    fixed random start. It stops when the residual of the leading Ritz triplet is at most 1e-3 of the value
    (Saad, Numerical Methods for Large Eigenvalue Problems, 3.2 and 6.3). A zero matrix gives 0.
    """
    n, m = w.shape
    steps = min(_STEPS, n + 1, m + 1)
    left, right = arrays.empty(steps, n), arrays.empty(steps + 1, m)
    start = np.random.default_rng(0).standard_normal(m, dtype=np.float32)
    right[0] = arrays.bring(start / np.float32(np.linalg.norm(start)))
    alphas: list[float] = []
    betas: list[float] = []
    value = 0.0
    for step in range(steps):
        u = w @ right[step]
        if step:
            u = _orthogonal(u - betas[-1] * left[step - 1], left[:step])
        alpha = _length(u)
        if alpha <= 1e-6 * max(alphas, default=0.0) or alpha == 0.0:
            break  # the left space is exhausted
        left[step] = u * (1.0 / alpha)
        alphas.append(alpha)
        v = _orthogonal(w.T @ left[step] - alpha * right[step], right[: step + 1])
        beta = _length(v)
        betas.append(beta)
        last = beta <= 1e-6 * max(alphas) or step + 1 == steps
        if last or (step >= _FIRST_LOOK and step % _LOOK_EVERY == 0):
            value, residual = _leading_ritz(alphas, betas)
            if last or residual <= _TOLERANCE * value:
                return value
        right[step + 1] = v * (1.0 / beta)
    return _leading_ritz(alphas, betas)[0] if alphas else 0.0


def _orthogonal(x: Array, basis: Array) -> Array:
    return x - (basis @ x) @ basis


def _length(x: Array) -> float:
    return math.sqrt(float(x @ x))


def _leading_ritz(alphas: list[float], betas: list[float]) -> tuple[float, float]:
    """Leading singular value of the bidiagonal matrix with its last coupling, and the residual of its Ritz triplet
    without: with it the value is exact where the left space is exhausted."""
    k = len(alphas)
    bidiagonal = np.zeros((k, k + 1))
    bidiagonal[np.arange(k), np.arange(k)] = alphas
    bidiagonal[np.arange(k), np.arange(1, k + 1)] = betas
    u, s, _ = np.linalg.svd(bidiagonal, full_matrices=False)
    return float(s[0]), betas[-1] * abs(float(u[-1, 0]))


def subspace_norms(
    pair: Pair, spectrum: Spectrum, weight: Factor, arrays: Arrays, *, transposed: bool = False
) -> Double:
    """``|u_i^T W v_i|`` for every dimension i of a delta, (r,), float64.

    The weight is (n, m), or (m, n) where `transposed`. Dimensions that are zero give 0.
    """
    rank = spectrum.effective_rank
    up, down = truncated(pair, spectrum, np.arange(rank), arrays)
    w = arrays.single(weight.bits, weight.kind)
    along = arrays.host((w.T if transposed else w) @ arrays.bring(np.ascontiguousarray(down.T)))
    out = np.zeros(len(spectrum.s))
    out[:rank] = np.abs(np.einsum("ij,ij->j", up, along, dtype=np.float64)) / spectrum.s[:rank]
    return out
