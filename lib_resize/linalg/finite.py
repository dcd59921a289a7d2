"""Checks for NaN and infinities that name the layer, in place of numpy's warnings."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from ..errors import LayerError


def without_float_warnings() -> AbstractContextManager[Any]:
    """Return a context in which numpy does not warn about overflow. Its user checks the results."""
    return np.errstate(over="ignore", invalid="ignore", divide="ignore")


_FLOAT32 = np.finfo(np.float32)


def in_range(what: str, values: Any) -> Any:
    """Return `values` (float64, any shape) with 0 for numbers below the normal range of float32, as hosts see them.

    `what` is the subject of the error message. Raises LayerError for numbers that are not finite or above float32.
    """
    check_finite(what, values)
    sizes = np.abs(values)
    if sizes.max(initial=0.0) > _FLOAT32.max:
        raise LayerError(f"{what} is larger than any number of float32: the file is damaged or its training diverged")
    tiny = (sizes > 0.0) & (sizes < _FLOAT32.tiny)
    return np.where(tiny, 0.0, values) if tiny.any() else values


def is_in_range(values: Any) -> bool:
    """Return whether `in_range` returns these values unchanged."""
    return bool((np.isfinite(values) & ((values == 0.0) | (np.abs(values) >= _FLOAT32.tiny))).all()) and bool(
        np.abs(values).max(initial=0.0) <= _FLOAT32.max
    )


def check_finite(what: str, values: Any) -> None:
    """Raise LayerError if a number is NaN or infinite. `what` begins the message, such as "its base weight"."""
    if not np.isfinite(values).all():
        raise LayerError(f"{what} has NaN or infinite values: the file is damaged or its training diverged")
