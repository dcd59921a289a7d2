"""From a spectrum and a number of dimensions to the factors of a smaller rank."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Arrays
from .casts import Double, Single
from .factor import Pair, Spectrum

KeptIndices = NDArray[np.integer[Any]]
"""Indices of the dimensions that stay, ascending."""


def truncated(
    pair: Pair, spectrum: Spectrum, kept: KeptIndices, arrays: Arrays, gain: float = 1.0
) -> tuple[Single, Single]:
    """The part of the delta that lies in the dimensions `kept`, as up (n, k) and down (k, m), float32.

    For the first k dimensions it is the best approximation of rank k (Eckart and Young 1936). Both factors come
    times `gain`, so that ``up @ down`` is gain^2 times that part; sqrt(s) is in each. The arrays own their memory.
    """
    p = arrays.to_device(spectrum.p[:, kept] * np.float32(gain))
    q = arrays.to_device(spectrum.q[kept] * np.float32(gain))
    up = arrays.to_numpy(arrays.load_float32(pair.up.bits, pair.up.kind) @ p)
    down = arrays.to_numpy(q @ arrays.load_float32(pair.down.bits, pair.down.kind))
    return up, down


def norm_of_strengths(s: Double) -> float:
    """Frobenius norm of a matrix with singular values `s`."""
    return float(np.sqrt(s @ s))


def discarded_norm(s: Double, kept: KeptIndices) -> float:
    """Frobenius norm of what is lost when only the dimensions `kept` remain."""
    gone = np.ones(len(s), np.bool_)
    gone[kept] = False
    return norm_of_strengths(s[gone])


def non_increasing(s: Double) -> Double:
    """The strengths nearest to `s` from which one may choose from the strongest down: those of the least concave
    curve above the running sum of s^2 (pooling of adjacent violators; Ayer and others 1955).

    Equal to `s` where it falls already. Each pool shares its energy, so the first k hold at least what they held.
    """
    pools: list[tuple[float, int]] = []
    for square in (s * s).tolist():
        mean, count = square, 1
        while pools and pools[-1][0] < mean:
            before, length = pools.pop()
            mean, count = (before * length + mean * count) / (length + count), length + count
        pools.append((mean, count))
    return np.asarray(np.sqrt(np.repeat([mean for mean, _ in pools], [count for _, count in pools])))
