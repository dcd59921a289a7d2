"""Three-way factorisations: ``delta[x, y, t] = scale * sum_ab up[x, a] mid[a, b, t] down[b, y]``.

x and y run over outputs and inputs, t over the taps of a kernel. The higher-order singular value decomposition (De
Lathauwer, De Moor and Vandewalle 2000) of the small core, with both factors made orthonormal first, orders the
dimensions of the two outer modes by their energy. Keeping the first k of both is the truncated HOSVD. Truncations are
nested orthogonal projections, so the energy that the k-th dimension adds is exactly that of the core's k-th shell,
``sum of core[a, b, t]^2 over max(a, b) = k``. It may increase with k.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..errors import LayerError
from .arrays import Arrays
from .casts import Double, Single, doubles
from .factor import Factor, Pair, gram_of_columns, gram_of_rows
from .lazy import LazyMatrix, materialise

_EMPTY = 1e-14  # of the largest eigenvalue of a Gram matrix of unit columns: nothing but rounding


@dataclass(frozen=True)
class TuckerFactors:
    """A delta (n, m * taps) in three factors."""

    up: Factor
    """(n, a)."""
    mid: Factor
    """(a, b * taps), with b as the slower index."""
    down: Factor
    """(b, m)."""
    scale: float = 1.0

    @property
    def rank(self) -> int:
        """The larger of the two outer ranks."""
        return max(self.up.shape[1], self.down.shape[0])

    @property
    def taps(self) -> int:
        return self.mid.shape[1] // self.down.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """(n, m * taps): the delta as a matrix."""
        return self.up.shape[0], self.down.shape[1] * self.taps


@dataclass(frozen=True)
class TuckerSpectrum:
    """The truncated HOSVD of `TuckerFactors` of rank r, in factor space."""

    s: Double
    """(r,): root of the energy that each dimension adds to those before it, scale included."""
    left: Double
    """(a, r): ``up @ left[:, :k]`` has orthonormal columns."""
    core: Double
    """(r, r, taps), scale included."""
    right: Double
    """(r, b): ``right[:k] @ down`` has orthonormal rows."""

    @property
    def nbytes(self) -> int:
        return self.s.nbytes + self.left.nbytes + self.core.nbytes + self.right.nbytes


def decompose_tucker(core: TuckerFactors, arrays: Arrays) -> TuckerSpectrum:
    """Decompose a delta by HOSVD (see the module docstring).

    Raises LayerError where a factor holds NaN or an infinity.
    """
    up, root_up = _orthonormal(gram_of_columns(core.up, arrays), "up")
    down, root_down = _orthonormal(gram_of_rows(core.down, arrays), "down")
    middle = doubles(core.mid.bits, core.mid.kind).reshape(core.up.shape[1], core.down.shape[0], core.taps)
    if not np.isfinite(middle).all():
        raise LayerError("mid holds NaN or infinite values: the file is damaged or its training diverged")
    if not np.isfinite(core.scale):
        raise LayerError(f"its scale is {core.scale}: alpha is damaged")
    inner = core.scale * np.einsum("pa,abt,qb->pqt", root_up, middle, root_down, optimize=True)
    u, v = _leading(inner), _leading(np.swapaxes(inner, 0, 1))
    turned = np.einsum("pa,pqt,qb->abt", u, inner, v, optimize=True)
    r = core.rank
    whole = np.zeros((r, r, core.taps))
    whole[: turned.shape[0], : turned.shape[1]] = turned
    shell = np.maximum.outer(np.arange(r), np.arange(r)).reshape(-1)
    energy = np.bincount(shell, (whole * whole).sum(axis=2).reshape(-1), minlength=r)
    return TuckerSpectrum(np.sqrt(energy), _wide(up @ u, r), whole, _wide(down @ v, r).T.copy())


def truncated_tucker(
    core: TuckerFactors, spectrum: TuckerSpectrum, rank: int, arrays: Arrays, gain: float = 1.0
) -> tuple[Single, Single, Single]:
    """Return the first k = `rank` dimensions of both modes: up (n, k), mid (k, k, taps), down (k, m), float32.

    Their product is ``gain`` times that part of the delta; each of the three holds a third of its strength.
    """
    middle = gain * spectrum.core[:rank, :rank]
    strength = float(np.linalg.norm(middle))
    third = strength ** (1 / 3) if strength > 0 else 1.0
    left = arrays.to_device((spectrum.left[:, :rank] * third).astype(np.float32))
    right = arrays.to_device((spectrum.right[:rank] * third).astype(np.float32))
    up = arrays.to_numpy(arrays.load_float32(core.up.bits, core.up.kind) @ left)
    down = arrays.to_numpy(right @ arrays.load_float32(core.down.bits, core.down.kind))
    return up, (middle / third**2).astype(np.float32), down


def tucker_as_pair(core: TuckerFactors) -> Pair:
    """Return the same delta as up (n, a) and down (a, m * taps): the core multiplied into down, without loss."""
    rank, inner = core.up.shape[1], core.down.shape[0]

    def make() -> Single:
        middle = materialise(core.mid).reshape(rank, inner, core.taps)
        return np.asarray(np.einsum("abt,by->ayt", middle, materialise(core.down), optimize=True)).reshape(rank, -1)

    return Pair(core.up, LazyMatrix((rank, core.size[1]), make), core.scale)


def tucker_product(up: Single, mid: Single, down: Single) -> Single:
    """Return the delta (n, m * taps) of up (n, a), mid (a, b, taps) and down (b, m), float32."""
    inner = np.einsum("abt,by->ayt", mid, down, optimize=True)
    return np.asarray(up @ inner.reshape(len(inner), -1))


def tucker_alignment(core: TuckerFactors, spectrum: TuckerSpectrum, weight: Single | Double) -> Double:
    """Return ``|<step_k, W>| / ||step_k||_F`` for the part of the delta that each dimension k adds, (r,), float64.

    The weight W is (n, m * taps).
    """
    up, down = doubles(core.up.bits, core.up.kind), doubles(core.down.bits, core.down.kind)
    inner = ((up @ spectrum.left).T @ weight).reshape(core.rank, -1, core.taps)
    seen = np.einsum("ayt,by->abt", inner, spectrum.right @ down, optimize=True)
    shell = np.maximum.outer(np.arange(core.rank), np.arange(core.rank)).reshape(-1)
    met = np.bincount(shell, (seen * spectrum.core).sum(axis=2).reshape(-1), minlength=core.rank)
    return np.abs(np.divide(met, spectrum.s, out=np.zeros(core.rank), where=spectrum.s > 0))


def _orthonormal(gram: Double, name: str) -> tuple[Double, Double]:
    """Return T (r, k) and R (k, r) with ``X = (X T) R``, X T orthonormal, from ``gram = X^T X``."""
    length = np.sqrt(np.diagonal(gram))
    if not np.isfinite(length).all():
        raise LayerError(f"{name} holds NaN or infinite values: the file is damaged or its training diverged")
    d = np.where(length > 0, length, 1.0)
    value, vector = np.linalg.eigh(gram / d[:, None] / d[None, :])
    alive = value > _EMPTY * max(float(value[-1]), 0.0)
    root = np.sqrt(value[alive])
    return vector[:, alive] / root / d[:, None], (vector[:, alive] * root * d[:, None]).T


def _leading(tensor: Double) -> Double:
    """Return the left singular vectors of the first mode's unfolding, strongest first."""
    flat = tensor.reshape(len(tensor), math.prod(tensor.shape[1:]))
    return np.asarray(np.linalg.eigh(flat @ flat.T)[1][:, ::-1])


def _wide(matrix: Double, columns: int) -> Double:
    return np.pad(matrix, ((0, 0), (0, columns - matrix.shape[1])))
