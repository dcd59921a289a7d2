"""DoRA: hosts apply the weight ``m V / ||V||`` with ``V = W + delta``.

One length and one magnitude belong to each output (a row of the matrix) or each input (a column). Liu and others 2024,
"DoRA: Weight-Decomposed Low-Rank Adaptation".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import LayerError
from .casts import Double, Single
from .finite import check_finite


@dataclass(frozen=True)
class DoraWeight:
    """A base weight and the magnitudes that a DoRA layer gives it."""

    weight: Single
    """W, (n, in * taps)."""
    magnitude: Single
    """m: (n) or (n, 1, ...) for outputs, (1, in, ...) for inputs."""

    @property
    def is_by_input(self) -> bool:
        return self.magnitude.ndim > 1 and self.magnitude.shape[0] == 1 and self.magnitude.size > 1

    def _check(self) -> None:
        n, m = self.weight.shape
        fits = m % self.magnitude.size == 0 if self.is_by_input else self.magnitude.size == n
        if not fits:
            raise LayerError(
                f"it has DoRA magnitudes {self.magnitude.shape} for a weight of {n} outputs; the file is damaged"
            )
        check_finite("its magnitude", self.magnitude)
        check_finite("its base weight", self.weight)

    def effective_weight(self, delta: Single) -> Double:
        """Return ``m V / ||V||`` for a delta (n, in * taps), in the same shape, float64.

        Raises LayerError where the number of magnitudes does not fit the weight, or numbers are not finite.
        """
        self._check()
        v = self.weight.astype(np.float64) + delta
        inputs = self.magnitude.size if self.is_by_input else v.shape[1]
        cube = v.reshape(len(v), inputs, -1)
        axes = (0, 2) if self.is_by_input else (1, 2)
        length = np.sqrt((cube * cube).sum(axis=axes, keepdims=True))
        magnitude = self.magnitude.astype(np.float64).reshape(length.shape)
        return np.asarray(np.divide(cube * magnitude, length, out=np.zeros_like(cube), where=length > 0)).reshape(
            v.shape
        )

    def errors(self, whole: Single, kept: Single) -> tuple[float, float]:
        """Return how much of the change of the weight is lost if only the part `kept` of the delta `whole` remains.

        Both deltas are (n, in * taps). The first number is relative to the change, the second to W, in the Frobenius
        norm.
        """
        applied = self.effective_weight(whole)
        lost, weight = float(np.linalg.norm(self.effective_weight(kept) - applied)), self.weight.astype(np.float64)
        change, base = float(np.linalg.norm(applied - weight)), float(np.linalg.norm(weight))
        return (lost / change if change > 0 else 1.0), (lost / base if base > 0 else 0.0)
