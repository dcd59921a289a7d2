"""Ways to a lower rank that are coarser than the exact decomposition, and the error of each.

A delta ``W = scale * B @ A`` of rank r becomes one of rank k < r. Each way returns two small matrices P (r, k) and
Q (k, r), so that the new factors are ``B @ P`` and ``Q @ A``, scale included. They are returned as a `Spectrum`, whose
P and Q the exact decomposition fills too.

* Random projection: ``P = R^T``, ``Q = R`` with a random R (k, r) whose entries have mean 0 and variance 1/k, so that
  ``E[R^T R] = 1``: right on average. One draw is far off: ``E ||B (R^T R - 1) A||_F^2`` is
  ``(||B||_F^2 ||A||_F^2 + ||B A||_F^2) / k``, for small k more than the whole delta. Dense: normal entries (Johnson and
  Lindenstrauss 1984). Sparse: sqrt(3/k) times +1, 0, -1 with probabilities 1/6, 2/3, 1/6 (Achlioptas 2003), whose first
  four moments are those of the dense ones.
* Randomised decomposition: the strongest directions are found by multiplying a few random ones by W and W^T (Halko,
  Martinsson and Tropp 2011, algorithms 4.4 and 5.1), with one more half step: with U_k found, the result is
  ``U_k U_k^T W``, the best that these directions allow. W is never formed.
"""

from __future__ import annotations

import zlib

import numpy as np

from .arrays import Arrays
from .casts import Double, Single, singles
from .factor import Pair, Spectrum, gram_of_columns, gram_of_rows

_ROUNDING = 1e-6  # of the largest singular value: float32 knows nothing below


def layer_generator(seed: int, name: str) -> np.random.Generator:
    """Return a random generator for one layer, so that its numbers do not depend on the other layers."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def dense_projection(rank: int, old_rank: int, chance: np.random.Generator) -> Single:
    """Return R (rank, old_rank), float32, with normal entries of variance 1 / rank (Johnson and Lindenstrauss 1984)."""
    values = chance.standard_normal((rank, old_rank), dtype=np.float32)
    return np.asarray(values / np.sqrt(np.float32(rank)))


def sparse_projection(rank: int, old_rank: int, chance: np.random.Generator) -> Single:
    """Return R (rank, old_rank), float32: two thirds zeros, the others +-sqrt(3 / rank) (Achlioptas 2003)."""
    signs = chance.choice(np.array([-1, 0, 0, 0, 0, 1], np.float32), (rank, old_rank))
    return np.asarray(signs * np.sqrt(np.float32(3.0 / rank)))


def projected_spectrum(pair: Pair, r: Single) -> Spectrum:
    """Return ``scale * B @ R^T @ R @ A`` for a projection R (k, r) as a spectrum.

    Its `s` is all ones: nothing was decomposed.
    """
    root = np.float32(np.sqrt(abs(pair.scale)))
    return Spectrum(s=np.ones(len(r)), p=np.ascontiguousarray(r.T) * root, q=r * np.copysign(root, pair.scale))


def randomised_svd(pair: Pair, rank: int, niter: int, oversample: int, chance: np.random.Generator) -> Spectrum:
    """Return nearly the best approximation of rank k, by `niter` power iterations on ``rank + oversample`` directions.

    P is (r, k) and Q (k, r), float32, computed on the CPU. Exact to rounding if ``rank + oversample`` reaches the rank
    of the delta. Halko, Martinsson and Tropp 2011, algorithms 4.4 and 5.1.
    """
    b, a = singles(pair.up.bits, pair.up.kind), singles(pair.down.bits, pair.down.kind)
    width = min(rank + oversample, *a.shape, *b.shape)
    z = _basis(a.T @ (b.T @ chance.standard_normal((len(b), width), dtype=np.float32)))
    for _ in range(niter):
        z = _basis(a.T @ (b.T @ _basis(b @ (a @ z))))
    core = a @ z
    u, s, vt = np.linalg.svd(b @ core, full_matrices=False)
    u, s, vt = u[:, :rank], s[:rank].astype(np.float64), vt[:rank]
    s = np.where(s > _ROUNDING * s[0], s, 0.0)
    with np.errstate(divide="ignore"):
        inverse_root = np.where(s > 0, 1.0 / np.sqrt(s), 0.0).astype(np.float32)
    root = np.float32(np.sqrt(abs(pair.scale)))
    return Spectrum(
        s=s * abs(pair.scale),
        p=core @ (vt.T * inverse_root) * root,
        q=(inverse_root[:, None] * u.T) @ b * np.copysign(root, pair.scale),
    )


def _basis(columns: Single) -> Single:
    return np.asarray(np.linalg.qr(columns)[0])


def approximation_error(pair: Pair, made: Spectrum, arrays: Arrays) -> float:
    """Return ``||W - B P Q A||_F`` for the P and Q of `made`, from Gram matrices in float64.

    Good to 1e-7 of ||B|| ||A||.
    """
    return _norm(pair, pair.scale * np.eye(pair.rank) - made.p.astype(np.float64) @ made.q, arrays)


def _norm(pair: Pair, x: Double, arrays: Arrays) -> float:
    """Return ``||B X A||_F`` for X (r, r)."""
    square = np.sum((gram_of_columns(pair.up, arrays) @ x) * (x @ gram_of_rows(pair.down, arrays)))
    return float(np.sqrt(max(square, 0.0)))
