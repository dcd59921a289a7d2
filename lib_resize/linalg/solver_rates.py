"""Where (r, r) eigenproblems are cheaper: on a device or on the CPU, by rates that are measured during the work.

Consumer cards compute float64 at 1/64 of the rate of float32, and libraries solve stacks of small problems at rates
that differ by a factor of 100 between ranks and versions. So neither place is assumed to be the faster one.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping

DEVICE, CPU = "device", "cpu"

Rates = Mapping[int, tuple[float, float]]
"""Rank -> the seconds that a layer took on the device, and on the CPU."""

_FEWEST = 4
"""Layers of a group that is measured: fewer do not show a rate."""
_TRIALS = 2
"""Groups that are measured in each place; the faster one counts, because other programs disturb both."""


class SolverRates:
    """The seconds that a layer took in each place, by rank. For any number of threads.

    The first group of a rank is solved on the device and not counted, because libraries are loaded then. The next ones
    are measured, on the device and on the CPU. All others are solved where it took less.
    """

    def __init__(self, known: Rates | None = None) -> None:
        """`known` are rates of an earlier process, which are not measured again."""
        self._lock = threading.Lock()
        self._warm: set[int] = set()
        self._seconds: dict[tuple[int, str], list[float]] = {}
        for rank, seconds in (known or {}).items():
            for place, one in zip((DEVICE, CPU), seconds, strict=True):
                self._seconds[rank, place] = [one] * _TRIALS

    def measured(self) -> dict[int, tuple[float, float]]:
        """Return the rates of the ranks that are known in both places, without those that avoid the device."""
        with self._lock:
            ranks = sorted({rank for rank, _ in self._seconds if not self._lacking(rank)})
            found = {rank: (min(self._seconds[rank, DEVICE]), min(self._seconds[rank, CPU])) for rank in ranks}
        return {rank: seconds for rank, seconds in found.items() if all(map(math.isfinite, seconds))}

    def place(self, rank: int) -> str:
        """Return where the next group of a rank is to be solved."""
        with self._lock:
            lacking = self._lacking(rank)
            return lacking[0] if lacking else min((DEVICE, CPU), key=lambda place: min(self._seconds[rank, place]))

    def is_measured(self, rank: int) -> bool:
        """Return whether both rates of a rank are known, so that nothing has to wait for a clock."""
        with self._lock:
            return not self._lacking(rank)

    def add(self, rank: int, place: str, layers: int, seconds: float) -> None:
        """Add a measured group. Those beyond the trials are not needed."""
        with self._lock:
            if place == DEVICE and rank not in self._warm:
                self._warm.add(rank)
            elif layers >= _FEWEST and place in self._lacking(rank):
                self._seconds.setdefault((rank, place), []).append(seconds / layers)

    def avoid_device(self, rank: int) -> None:
        """Solve a rank on the CPU from now on: results of the device were not exact enough."""
        with self._lock:
            self._seconds[rank, DEVICE] = [float("inf")] * _TRIALS

    def _lacking(self, rank: int) -> list[str]:
        return [place for place in (DEVICE, CPU) if len(self._seconds.get((rank, place), ())) < _TRIALS]
