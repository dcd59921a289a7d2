"""Material that only tests use: factors with exactly known singular values, sizes of files, plans of outcomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lib_resize.engine.settings import Outcome
from lib_resize.errors import UsageError
from lib_resize.files.header import TensorSpec, encode
from lib_resize.linalg.casts import Double
from lib_resize.plans import Plan


def plan_of(outcome: Outcome) -> Plan:
    assert outcome.plan is not None, outcome.error
    return outcome.plan


def file_size(specs: Sequence[TensorSpec], metadata: Mapping[str, str]) -> int:
    """Bytes of the whole file, header included."""
    return len(encode(specs, metadata)) + sum(spec.nbytes for spec in specs)


def low_rank_factors(
    shape: tuple[int, int],
    spectrum: Sequence[float] | Double,
    *,
    rank: int | None = None,
    condition: float = 1.0,
    seed: int = 0,
) -> tuple[Double, Double]:
    """Factors up (n, rank) and down (rank, m), float64, whose product has exactly the singular values `spectrum`.

    `shape` is (n, m). A `rank` above the number of singular values (also above min(n, m)) makes the factors, not
    the product, redundant. `condition` is that of the mixing matrix between them: it worsens both factors and
    leaves the product alone. Raises UsageError where such factors cannot be.
    """
    values = np.asarray(spectrum, np.float64)
    count, stored = len(values), len(values) if rank is None else rank
    if count > min(shape) or stored < count:
        raise UsageError(f"{count} singular values fit neither shape {shape} nor rank {stored}, or only one of them")
    chance = np.random.default_rng(seed)
    left, right, mixing, first = (_orthonormal(chance, n, k) for n, k in _bases(shape, count, stored))
    scales = condition ** -np.linspace(0.0, 1.0, stored)
    roots = np.sqrt(values)
    up = (left * roots) @ ((first * scales) @ mixing.T)[:count]
    down = ((mixing / scales) @ first.T)[:, :count] @ (roots[:, None] * right.T)
    return up, down


def _bases(shape: tuple[int, int], count: int, stored: int) -> tuple[tuple[int, int], ...]:
    return (shape[0], count), (shape[1], count), (stored, stored), (stored, stored)


def _orthonormal(chance: np.random.Generator, rows: int, columns: int) -> Double:
    return np.asarray(np.linalg.qr(chance.standard_normal((rows, columns)))[0])
