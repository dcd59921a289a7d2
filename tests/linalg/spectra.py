"""Pairs with known singular values, and the exact answers in float64."""

from __future__ import annotations

import numpy as np

from lib_resize.linalg.casts import round_to
from lib_resize.linalg.factor import Pair, Stored


def orthonormal(rows: int, columns: int, rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((rows, columns)))[0]


def mixing(rank: int, condition: float, rng: np.random.Generator) -> np.ndarray:
    """An invertible matrix of the given condition number."""
    left, right = orthonormal(rank, rank, rng), orthonormal(rank, rank, rng)
    found: np.ndarray = (left * np.geomspace(1, 1 / condition, rank)) @ right.T
    return found


def known(n: int, m: int, s: np.ndarray, condition: float = 3.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """up (n, r) and down (r, m), float64, whose product has exactly the singular values `s`."""
    rng = np.random.default_rng(seed)
    mix = mixing(len(s), condition, rng)
    up = orthonormal(n, len(s), rng) * s @ mix
    return up, np.linalg.inv(mix) @ orthonormal(m, len(s), rng).T


def pair_of(up: np.ndarray, down: np.ndarray, kind: str = "F64", scale: float = 1.0) -> Pair:
    def factor(values: np.ndarray) -> Stored:
        bits = values.astype(np.float64) if kind == "F64" else round_to(values.astype(np.float32), kind)
        return Stored(np.ascontiguousarray(bits), kind)

    return Pair(factor(up), factor(down), scale)


def exact(pair: Pair) -> np.ndarray:
    """The delta of a pair in float64."""
    from lib_resize.linalg.casts import doubles

    return pair.scale * doubles(pair.up.bits, pair.up.kind) @ doubles(pair.down.bits, pair.down.kind)


def exact_truncation(pair: Pair, rank: int) -> np.ndarray:
    u, s, vt = np.linalg.svd(exact(pair), full_matrices=False)
    found: np.ndarray = (u[:, :rank] * s[:rank]) @ vt[:rank]
    return found
