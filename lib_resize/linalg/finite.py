"""Infinities and NaN are told of by layer and reason, not by numpy's warnings."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from ..errors import LayerError


def unwarned() -> AbstractContextManager[Any]:
    """numpy is silent where numbers leave the range of floats; whoever uses this looks at what comes out."""
    return np.errstate(over="ignore", invalid="ignore", divide="ignore")


def check_finite(what: str, values: Any) -> None:
    """Raises LayerError; `what` begins its sentence."""
    if not np.isfinite(values).all():
        raise LayerError(f"{what} NaN or infinite values: the file is damaged or its training diverged")
