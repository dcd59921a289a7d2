"""The subspace iteration of `truncated_svd` on a device of torch: the matrix goes there once, and the factors return.

Bases, products and QR are computed on the device in float32. Only the Gram matrix of ``Q^T X`` comes to the CPU in each
round, (k + p, k + p), which solves it in float64.
"""

from __future__ import annotations

import numpy as np

from .arrays import Array, TorchArrays
from .casts import Double, Single

_SHARE = 8  # of the device's bytes: five of them for the matrix


def fits_device(shape: tuple[int, int], arrays: TorchArrays) -> bool:
    """Return whether a float32 matrix is small enough for a device."""
    return 4 * shape[0] * shape[1] <= 5 * arrays.bytes // _SHARE


class DeviceIteration:
    """Subspace iteration of a float32 matrix (n, m), n >= m after turning it; see `truncated_svd` for the steps."""

    def __init__(self, matrix: Single, width: int, wanted: int, arrays: TorchArrays) -> None:
        """`width` is k + p columns, of which `wanted` are returned."""
        self._torch, self._wanted = arrays.torch, wanted
        whole = arrays.to_device(matrix)
        self._is_turned = matrix.shape[0] < matrix.shape[1]
        self._x = whole.T if self._is_turned else whole
        start = np.random.default_rng(0).standard_normal((self._x.shape[1], width), dtype=np.float32)
        self._basis = self._orthonormal(self._x @ arrays.to_device(start))
        self.s: Double = self._projected()
        """Singular values of ``Q^T X``, at most k, descending."""

    def step(self) -> None:
        """Turn the basis towards the directions that are strong in X."""
        self._basis = self._orthonormal(self._x @ self._orthonormal(self._rows.T))
        self.s = self._projected()

    def factors(self) -> tuple[Single, Single]:
        """Return ``U sqrt(s)`` (n, k) and ``sqrt(s) V^T`` (k, m) of the matrix before turning."""
        root = np.sqrt(self.s)
        left = self._basis @ self._on_device(self._u * root)
        right = self._on_device((self._u / root).T) @ self._rows
        up, down = (left, right) if not self._is_turned else (right.T, left.T)
        return np.ascontiguousarray(up.cpu().numpy()), np.ascontiguousarray(down.cpu().numpy())

    def _projected(self) -> Double:
        self._rows = self._basis.T @ self._x
        wide = self._rows.double()
        square, vectors = np.linalg.eigh((wide @ wide.T).cpu().numpy())
        s = np.sqrt(np.maximum(square[::-1][: self._wanted], 0.0))
        alive = s > 1e-7 * max(float(s[0]), 1e-300)
        self._u: Double = vectors[:, ::-1][:, : self._wanted][:, alive]
        return np.asarray(s[alive])

    def _on_device(self, values: Double) -> Array:
        return self._torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(self._x.device)

    def _orthonormal(self, columns: Array) -> Array:
        return self._torch.linalg.qr(columns)[0]
