"""Singular value decomposition of a matrix that is stored in full, from the Gram matrix of its shorter side.

``X X^T = U diag(s^2) U^T`` in float64. Squaring loses singular values below about 1e-8 of the largest; they count as
zero. The singular vectors would be as large as the matrix, so they are not kept: those needed are computed again.
"""

from __future__ import annotations

import numpy as np

from ..errors import LayerError
from .arrays import Arrays
from .casts import Double, Single
from .factor import ZERO_TOLERANCE, Factor, gram_of_columns, gram_of_rows
from .truncate import KeptIndices


def singular_values(matrix: Factor, arrays: Arrays) -> Double:
    """Return all singular values of a matrix (n, m), descending, (min(n, m),), float64.

    Raises LayerError where the matrix holds NaN or an infinity.
    """
    return _roots(np.asarray(np.linalg.eigvalsh(_gram(matrix, arrays)), np.float64)[::-1])


def truncated_dense(matrix: Factor, kept: KeptIndices, arrays: Arrays, gain: float = 1.0) -> tuple[Single, Single]:
    """Return the part of a matrix (n, m) in the dimensions `kept`, as up (n, k) and down (k, m), float32.

    Each is multiplied by `gain` and contains sqrt(s). Raises LayerError where the matrix holds NaN or an infinity.
    """
    square, vectors = np.linalg.eigh(_gram(matrix, arrays))
    root = np.sqrt(_roots(square[::-1])[kept])
    inverse = np.divide(1.0, root, out=np.zeros_like(root), where=root > 0)
    basis = vectors[:, ::-1][:, kept]
    whole = arrays.load_float32(matrix.bits, matrix.kind)
    own = (basis * root * gain).astype(np.float32)
    onto = arrays.to_device((basis * inverse * gain).astype(np.float32))
    if _is_wide(matrix):
        return own, arrays.to_numpy(onto.T @ whole)
    return arrays.to_numpy(whole @ onto), np.ascontiguousarray(own.T)


def _is_wide(matrix: Factor) -> bool:
    return matrix.shape[0] <= matrix.shape[1]


def _gram(matrix: Factor, arrays: Arrays) -> Double:
    gram = gram_of_rows(matrix, arrays) if _is_wide(matrix) else gram_of_columns(matrix, arrays)
    if not np.isfinite(np.diagonal(gram)).all():
        raise LayerError("holds NaN or infinite values: the file is damaged or its training diverged")
    return gram


def _roots(square: Double) -> Double:
    s = np.sqrt(np.maximum(square, 0.0))
    return np.where(s > ZERO_TOLERANCE * s[0], s, 0.0)
