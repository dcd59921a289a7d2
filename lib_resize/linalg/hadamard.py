"""Elementwise products of two low-rank matrices that are both truncated to one rank.

Each truncation is the best of its rank, but the product of both is not. Its error is no formula of the singular values
of the factors, so it is measured at every rank, over stripes of rows that fit into the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .casts import Double, Single

_STRIPE = 1 << 17  # numbers of a stripe


@dataclass(frozen=True)
class NestedTruncations:
    """A matrix (n, m) and its truncations: ``up[:, :k] @ down(k)`` is the truncation to rank k."""

    up: Single
    """(n, r)."""
    down: Callable[[int], Single]
    """k -> (k, m)."""


def product_errors(first: NestedTruncations, second: NestedTruncations, rank: int) -> Double:
    """Return ``||P o Q - P_k o Q_k||_F`` for k = 0 to `rank`, (rank + 1,), float64; the last is 0."""
    n, m = len(first.up), first.down(1).shape[1]
    step = max(1, _STRIPE // m)
    square = np.zeros(rank + 1)
    for start in range(0, n, step):
        rows = slice(start, start + step)
        whole = _stripe(first, second, rows, rank)
        square[0] += _energy(whole)
        for k in range(1, rank):
            square[k] += _energy(whole - _stripe(first, second, rows, k))
    return np.sqrt(square)


def step_alignment(
    first: NestedTruncations, second: NestedTruncations, ranks: Sequence[int], rows_of: Callable[[slice], Single]
) -> Double:
    """Return ``|<S_j, W>| / ||S_j||_F`` for what each of the ascending `ranks` adds to the product, (ranks,), float64.

    `rows_of` returns rows of W, (rows, m). A step that adds nothing gives 0.
    """
    n, m = len(first.up), first.down(1).shape[1]
    step = max(1, _STRIPE // m)
    met, square = np.zeros(len(ranks)), np.zeros(len(ranks))
    for start in range(0, n, step):
        rows = slice(start, start + step)
        w, before = rows_of(rows), np.float32(0.0) * first.up[rows, :1]
        for j, k in enumerate(ranks):
            now = _stripe(first, second, rows, k)
            met[j] += float(np.vdot(now - before, w))
            square[j] += _energy(now - before)
            before = now
    return np.abs(np.divide(met, np.sqrt(square), out=np.zeros(len(ranks)), where=square > 0))


def _stripe(first: NestedTruncations, second: NestedTruncations, rows: slice, k: int) -> Single:
    return np.asarray((first.up[rows, :k] @ first.down(k)) * (second.up[rows, :k] @ second.down(k)))


def _energy(values: Single) -> float:
    """Return the squared Frobenius norm, in float32 within a stripe: good to about 1e-6.

    Stripes are added in float64.
    """
    flat = values.reshape(-1)
    return float(flat @ flat)
