"""The rates of `linalg.solver_rates`, kept on the disk next to the norms, so that no process measures them again."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from ..files.user_cache import read_document, write_document
from ..linalg.solver_rates import SolverRates

_NAME = "solver-rates.json"


@cache
def rates_of(device: str, workers: int) -> SolverRates:
    """Return the rates of a device, by the name of its hardware and its library, and of so many workers."""
    return SolverRates(_saved().get(_key(device, workers)))


def keep_rates(device: str, workers: int) -> None:
    """Write the rates that this process has measured to the disk, if they are new. A failed write is ignored."""
    measured = rates_of(device, workers).measured()
    key, saved = _key(device, workers), _saved() if measured else {}
    if measured.items() <= saved.get(key, {}).items():
        return
    write_document(_NAME, {**saved, key: {**saved.get(key, {}), **measured}})


def _key(device: str, workers: int) -> str:
    return f"{device}, numpy {np.__version__}, {workers} workers"


def _saved() -> dict[str, dict[int, tuple[float, float]]]:
    """Read all rates; none where the file is missing or damaged."""
    document = read_document(_NAME)
    try:
        return {key: {int(rank): _checked(*pair) for rank, pair in rates.items()} for key, rates in document.items()}
    except (ValueError, TypeError, AttributeError):
        return {}


def _checked(device: float, cpu: float) -> tuple[float, float]:
    """Return a pair of rates that was read. Raises ValueError where it is none."""
    for seconds in (device, cpu):
        if not (isinstance(seconds, (int, float)) and math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"not a time: {seconds!r}")
    return float(device), float(cpu)
