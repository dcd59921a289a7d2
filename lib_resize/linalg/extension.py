"""Raise the rank of a pair: more rows for down, columns of zeros for up, and the same delta."""

from __future__ import annotations

import numpy as np

from ..errors import LayerError
from .casts import Single


def orthonormal_rows(down: Single, count: int, chance: np.random.Generator) -> Single:
    """Return `count` random orthonormal rows, (count, m), float32, that are orthogonal to all rows of `down` (r, m).

    Raises LayerError if r + count is more than m.
    """
    rank, columns = down.shape
    if rank + count > columns:
        raise LayerError(
            f"{rank + count} directions were requested, but its inputs have only {columns}; request a lower rank"
        )
    old = np.linalg.qr(down.astype(np.float64).T)[0]
    new = chance.standard_normal((columns, count))
    for _ in range(2):  # once leaves what cancelled; twice is enough (Parlett, The Symmetric Eigenvalue Problem, 6.9)
        new = np.linalg.qr(new - old @ (old.T @ new))[0]
    return np.ascontiguousarray(new.T, np.float32)
