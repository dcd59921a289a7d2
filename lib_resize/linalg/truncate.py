"""The factors of a smaller rank, from a spectrum and the dimensions to keep."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Arrays
from .casts import Double, Single
from .factor import Pair, Spectrum

KeptIndices = NDArray[np.integer[Any]]
"""Indices of the kept dimensions, ascending, (k,)."""


def truncated(
    pair: Pair, spectrum: Spectrum, kept: KeptIndices, arrays: Arrays, gain: float = 1.0
) -> tuple[Single, Single]:
    """Return the part of the delta in the dimensions `kept`, as up (n, k) and down (k, m), float32.

    The first k dimensions give the best approximation of rank k (Eckart and Young 1936). Both factors are multiplied by
    `gain`, so that ``up @ down`` is gain^2 times that part; each contains sqrt(s). The arrays own their memory.
    """
    p = arrays.to_device(spectrum.p[:, kept] * np.float32(gain))
    q = arrays.to_device(spectrum.q[kept] * np.float32(gain))
    up = arrays.to_numpy(arrays.load_float32(pair.up.bits, pair.up.kind) @ p)
    down = arrays.to_numpy(q @ arrays.load_float32(pair.down.bits, pair.down.kind))
    return up, down


def norm_of_strengths(s: Double) -> float:
    """Return the Frobenius norm of a matrix with singular values `s`, (r,)."""
    return float(np.sqrt(s @ s))


def discarded_norm(s: Double, kept: KeptIndices) -> float:
    """Return the Frobenius norm of what is lost if only the dimensions `kept` of `s`, (r,), remain."""
    gone = np.ones(len(s), np.bool_)
    gone[kept] = False
    return norm_of_strengths(s[gone])


def non_increasing(s: Double) -> Double:
    """Return the non-increasing strengths nearest to `s`, (r,), float64.

    They follow the least concave curve above the running sum of s^2 (pooling of adjacent violators; Ayer and others
    1955), and equal `s` where it never increases. Each pool shares its energy, so the first k hold at least what they
    held.
    """
    pools: list[tuple[float, int]] = []
    for square in (s * s).tolist():
        mean, count = square, 1
        while pools and pools[-1][0] < mean:
            before, length = pools.pop()
            mean, count = (before * length + mean * count) / (length + count), length + count
        pools.append((mean, count))
    return np.asarray(np.sqrt(np.repeat([mean for mean, _ in pools], [count for _, count in pools])))
