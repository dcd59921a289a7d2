"""Norms of base weights, and how strongly a base weight acts along the dimensions of a delta.

A weight is a stored matrix (rows, columns); a convolution is the matrix (out, in * height * width).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from .arrays import Array, Arrays
from .casts import Double
from .factor import Factor, Pair, Spectrum
from .row_stripes import load_whole, rows_in_cache, stripes
from .truncate import truncated

STEPS = 160
"""The most steps of Lanczos."""
TOLERANCE = 1e-4
"""Of the residual. With 1e-3, which takes a quarter fewer steps, one Gaussian matrix in a hundred gets its second
singular value, 0.1 % below: it has nearly converged before the first one shows."""
BREAKDOWN = 1e-6
"""A coupling up to this share of the largest diagonal element is a rounding error: the basis is complete."""
_FIRST_LOOK = 6
_LOOK_EVERY = 2


def frobenius_norm(weight: Factor, arrays: Arrays) -> float:
    """Return ``||W||_F`` of a weight (n, m). Blocks are summed in float32, their sums in float64."""
    return _root(_energy(stripe, arrays) for _, stripe in stripes(weight, arrays))


def _root(energies: Iterable[float]) -> float:
    return math.sqrt(sum(energies))


def _energy(w: Array, arrays: Arrays) -> float:
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # infinite sums are reported by the caller, with the name of the layer
        return sum(float(block @ block) for block in _pieces(w.reshape(-1), arrays.block_elements))


def frobenius_and_spectral_norm(weight: Factor, arrays: Arrays) -> tuple[float, float]:
    """Return ``||W||_F`` and the largest singular value of a weight (n, m), converted once.

    The second is good to about 1e-5, see `largest_singular_value`; NaN if the first is not finite.
    """
    w = load_whole(weight, arrays)
    fro = _root(_energy(stripe, arrays) for stripe in _pieces(w, rows_in_cache(w.shape[1], arrays)))
    return fro, largest_singular_value(w, arrays) if fro < math.inf else math.nan


def _pieces(x: Array, size: int) -> Iterator[Array]:
    """Yield x in pieces along its first axis."""
    for start in range(0, x.shape[0], size):
        yield x[start : start + size]


def largest_singular_value(w: Array, arrays: Arrays) -> float:
    """Return the largest singular value of w (n, m), float32, to about 1e-5.

    It is the root of the largest eigenvalue of ``w^T w`` by Lanczos (1950): three terms, then orthogonalised against
    the whole basis once more (without that float32 breaks down), from a fixed random start. It stops if the residual of
    the leading Ritz pair is at most 1e-4 of its value (Saad, Numerical Methods for Large Eigenvalue Problems, 6.3). A
    zero matrix gives 0.
    """
    n, m = w.shape
    stripes = list(_pieces(w, rows_in_cache(m, arrays)))
    steps = min(STEPS, n + 1, m)
    basis = arrays.empty(steps + 1, m)
    start = np.random.default_rng(0).standard_normal(m, dtype=np.float32)
    basis[0] = arrays.to_device(start / np.float32(np.linalg.norm(start)))
    # The scale of the weight, so that no square leaves the range of float32.
    scale = math.hypot(*(_length(stripe @ basis[0]) for stripe in stripes))
    if scale == 0.0:
        return 0.0
    diagonal: list[float] = []
    couplings: list[float] = []
    for step in range(steps):
        y = _applied(stripes, basis[step], 1.0 / scale)
        diagonal.append(float(basis[step] @ y))
        y -= diagonal[-1] * basis[step]
        if step:
            y -= couplings[-1] * basis[step - 1]
        y = _orthogonal(y, basis[: step + 1])
        coupling = _length(y)
        couplings.append(coupling)
        last = coupling <= BREAKDOWN * max(diagonal) or step + 1 == steps
        if last or (step >= _FIRST_LOOK and step % _LOOK_EVERY == 0):
            value, residual = _leading_ritz(diagonal, couplings)
            if last or residual <= TOLERANCE * value:
                return scale * math.sqrt(max(value, 0.0))
        basis[step + 1] = y * (1.0 / coupling)
    raise AssertionError("the last step returns")


def _applied(stripes: Iterable[Array], x: Array, gain: float) -> Array:
    """Return ``gain^2 W^T W x``, stripe by stripe, so that each is still in the cache when its transpose is needed."""
    y: Array = 0.0
    for stripe in stripes:
        y = y + stripe.T @ ((stripe @ x) * gain)
    return y * gain


def _length(x: Array) -> float:
    return math.sqrt(float(x @ x))


def _orthogonal(x: Array, basis: Array) -> Array:
    return x - (basis @ x) @ basis


def _leading_ritz(diagonal: list[float], couplings: list[float]) -> tuple[float, float]:
    """Return the leading eigenvalue of the tridiagonal matrix, and the residual of its Ritz pair."""
    inner = couplings[: len(diagonal) - 1]
    values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(inner, 1) + np.diag(inner, -1))
    return float(values[-1]), couplings[len(diagonal) - 1] * abs(float(vectors[-1, -1]))


def subspace_norms(
    pair: Pair, spectrum: Spectrum, weight: Factor, arrays: Arrays, *, transposed: bool = False
) -> Double:
    """Return ``|u_i^T W v_i|`` for every dimension i of a delta (n, m) of rank r, (r,), float64.

    The weight is (n, m), or (m, n) if `transposed`. Dimensions that are zero give 0.
    """
    rank = spectrum.effective_rank
    up, down = truncated(pair, spectrum, np.arange(rank), arrays)
    left, right = (np.ascontiguousarray(down.T), up) if transposed else (up, np.ascontiguousarray(down.T))
    met, through = np.zeros(rank), arrays.to_device(right)
    for start, stripe in stripes(weight, arrays):
        seen = arrays.to_numpy(stripe @ through)
        met += np.einsum("ij,ij->j", left[start : start + len(seen)], seen, dtype=np.float64)
    out = np.zeros(len(spectrum.s))
    out[:rank] = np.abs(met) / spectrum.s[:rank]
    return out
