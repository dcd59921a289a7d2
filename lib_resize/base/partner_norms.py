"""The norms of a checkpoint's weights: measured once, then kept on the disk."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ..errors import LayerError
from ..linalg.arrays import Arrays, TorchArrays
from ..linalg.norms import frobenius_and_spectral_norm, frobenius_norm
from ..progress import Progress
from . import norm_cache
from .memory_budget import MemoryBudget
from .norm_cache import NormPair, NormTable
from .store import Store
from .weight_reader import WeightReader
from .weights import BaseWeight, Partner

_BUDGET = MemoryBudget(256 << 20)
"""For whole float32 matrices, of all workers together."""


def raised(error: Exception) -> None:
    """Raise an error: what `NormTask.failed` does where nothing else is said."""
    raise error


@dataclass(frozen=True)
class NormTask:
    """What to measure, and with what."""

    spectral: bool
    """Whether spectral norms are measured, too."""
    arrays: Arrays
    """Those of a device measure the weights that fit it, the CPU the others."""
    pool: ThreadPoolExecutor
    progress: Progress
    failed: Callable[[Exception], None] = raised
    """Called with an error of a device. If it returns, the CPU measures what is left."""


MeasureNorms = Callable[[list[Partner], NormTask], Iterable[NormPair]]
"""A function that measures the norms of each weight, in the order of the list."""


class PartnerNorms:
    """The norms of the weights of one checkpoint."""

    def __init__(
        self, store: Store, measure: MeasureNorms, *, persistent: bool = True, known: NormTable | None = None
    ) -> None:
        """`persistent`: whether norms are kept on the disk between runs, under the fingerprint of the store.

        `known` are norms that need not be measured.
        """
        self._store = store
        self._measure = measure
        self._persistent = persistent
        self._fingerprint: str | None = None
        self._known: NormTable = dict(known or {})
        self.requested = False
        """Whether norms were requested so far."""
        self.measured = False
        """Whether any of them had to be measured, because the cache did not have it."""

    def of(self, partners: Iterable[Partner], task: NormTask) -> dict[Partner, NormPair]:
        """Return the Frobenius norm of each weight, and its spectral norm if the task includes it.

        Raises ``LayerError`` where a weight holds NaN or infinite values.
        """
        wanted = list(partners)
        self.requested = True
        self._load()
        lacking = {norm_key(one): one for one in wanted if self._lacks(one, task.spectral)}
        if lacking:
            self.measured = True
            self._add(sorted(lacking.values(), key=self._position), task)
        return {one: self._known[norm_key(one)] for one in wanted}

    def _load(self) -> None:
        if self._persistent and self._fingerprint is None:
            self._fingerprint = self._store.fingerprint()
            self._known = norm_cache.load(self._fingerprint)

    def _lacks(self, one: Partner, spectral: bool) -> bool:
        known = self._known.get(norm_key(one))
        return known is None or (spectral and known[1] is None)

    def _add(self, missing: list[Partner], task: NormTask) -> None:
        for one, norms in zip(missing, self._measure(missing, task), strict=True):
            self._known[norm_key(one)] = norms
        if self._fingerprint is not None:
            norm_cache.save(self._fingerprint, self._known)

    def _position(self, one: Partner) -> tuple[int, int]:
        return self._store.position(one.key), (one.parts[0].rows or (0, 0))[0]


def norms_from_device(reader: WeightReader, missing: Sequence[Partner], task: NormTask) -> Mapping[int, NormPair]:
    """Return the norms that the task's device measured, by place in the list; none without a device.

    Raises ``LayerError`` where a weight holds NaN or infinite values.
    """
    if not isinstance(task.arrays, TorchArrays):
        return {}
    from .device_norms import measured_on_device  # for devices alone

    return measured_on_device(reader, missing, task.arrays, task)


def norms_of(reader: WeightReader, one: Partner, *, spectral: bool, arrays: Arrays) -> NormPair:
    """Measure the norms of one weight; for the spectral norm it is held in memory as a whole.

    Raises ``LayerError`` where the weight holds NaN or infinite values.
    """
    if not spectral:
        return checked(frobenius_norm(reader.partner_matrix(one), arrays), reader, one), None
    with _BUDGET.of(4 * math.prod(one.matrix)):
        fro, spn = frobenius_and_spectral_norm(reader.partner_matrix(one), arrays)
    return checked(fro, reader, one), spn


def checked(fro: float, reader: WeightReader, one: Partner) -> float:
    """Return the Frobenius norm of a weight. Raises ``LayerError`` where it is not finite."""
    if not fro < float("inf"):
        raise LayerError(f"{reader.path}: {one.key} holds NaN or infinite values; the checkpoint is damaged.")
    return fro


def norm_key(one: Partner) -> str:
    """Return the name under which the norms of a weight are stored."""
    joined = "+".join(_part_key(part) for part in one.parts)
    columns = one.parts[0].matrix[1]
    return f"{joined}[:{one.width}]" if one.width is not None and one.width < columns else joined


def _part_key(weight: BaseWeight) -> str:
    return weight.key if weight.rows is None else f"{weight.key}[{weight.rows[0]}:{weight.rows[1]}]"
