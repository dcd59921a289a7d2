"""The rates of `linalg.solver_rates`, kept on the disk next to the norms, so that no process measures them again."""

from __future__ import annotations

import contextlib
import json
import math
import os
from functools import cache
from pathlib import Path

import numpy as np

from ..base.norm_cache import cache_folder
from ..linalg.solver_rates import SolverRates


@cache
def rates_of(device: str, workers: int) -> SolverRates:
    """Return the rates of a device, by the name of its hardware and its library, and of so many workers."""
    return SolverRates(_saved().get(_key(device, workers)))


def keep_rates(device: str, workers: int) -> None:
    """Write the rates that this process has measured to the disk. A failed write is ignored."""
    key, saved = _key(device, workers), _saved()
    measured = {**saved.get(key, {}), **rates_of(device, workers).measured()}
    if measured == saved.get(key, {}):
        return
    path = _path()
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(json.dumps({**saved, key: measured}), "utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _path() -> Path:
    return cache_folder() / "solver-rates.json"


def _key(device: str, workers: int) -> str:
    return f"{device}, numpy {np.__version__}, {workers} workers"


def _saved() -> dict[str, dict[int, tuple[float, float]]]:
    """Read all rates; none where the file is missing or damaged."""
    try:
        document = json.loads(_path().read_text("utf-8"))
        return {key: {int(rank): _checked(*pair) for rank, pair in rates.items()} for key, rates in document.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _checked(device: float, cpu: float) -> tuple[float, float]:
    """Return a pair of rates that was read. Raises ValueError where it is none."""
    for seconds in (device, cpu):
        if not (isinstance(seconds, (int, float)) and math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"not a time: {seconds!r}")
    return float(device), float(cpu)
