"""Infinities and NaN are told of by layer and reason, not by numpy's warnings."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from ..errors import LayerError


def without_float_warnings() -> AbstractContextManager[Any]:
    """numpy is silent where numbers leave the range of floats; whoever uses this looks at what comes out."""
    return np.errstate(over="ignore", invalid="ignore", divide="ignore")


_FLOAT32 = np.finfo(np.float32)


def in_range(what: str, values: Any) -> Any:
    """The values (float64) as a host sees them: zero where they are below every normal number of float32.

    Raises LayerError where they are not finite, or larger than float32 can hold; `what` begins its sentence.
    """
    check_finite(f"{what} has", values)
    sizes = np.abs(values)
    if sizes.max(initial=0.0) > _FLOAT32.max:
        raise LayerError(f"{what} is larger than any number of float32: the file is damaged or its training diverged")
    tiny = (sizes > 0.0) & (sizes < _FLOAT32.tiny)
    return np.where(tiny, 0.0, values) if tiny.any() else values


def check_finite(what: str, values: Any) -> None:
    """Raises LayerError; `what` begins its sentence."""
    if not np.isfinite(values).all():
        raise LayerError(f"{what} NaN or infinite values: the file is damaged or its training diverged")
