"""One matrix made of several stored ones: stacked, scaled, cropped or padded, its halves swapped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .casts import Bits, Single, singles
from .factor import Factor

RowGain = float | NDArray[np.float32]
"""The factor of a stored matrix: one number, or one for each of its rows, (rows,)."""


@dataclass(frozen=True)
class ScaledRows:
    """A stored matrix (rows, columns) and its factor."""

    factor: Factor
    gain: Any = 1.0
    """A `RowGain`."""


@dataclass(frozen=True)
class Assembled:
    """Stored matrices stacked into one float32 matrix (n, width), computed at each access.

    Columns beyond `width` are dropped; a part with fewer columns is padded with zeros. `swapped` puts the lower half of
    the rows first.
    """

    parts: tuple[ScaledRows, ...]
    width: int
    swapped: bool = False
    kind: str = "F32"

    @property
    def bits(self) -> Bits:
        return self.rows(0, self.shape[0])

    def rows(self, start: int, stop: int) -> Single:
        """Return the rows from `start` up to `stop`, (stop - start, width), float32, without computing the others."""
        n = self.shape[0]
        if not self.swapped:
            return np.concatenate(list(self._straight(start, stop)))
        half = n // 2
        lower = self._straight(min(start, half) + half, min(stop, half) + half)
        upper = self._straight(max(start, half) - half, max(stop, half) - half)
        return np.concatenate([*lower, *upper])

    @property
    def shape(self) -> tuple[int, int]:
        return sum(part.factor.shape[0] for part in self.parts), self.width

    def _straight(self, start: int, stop: int) -> Iterator[Single]:
        """Yield the same rows of the parts in their stored order."""
        top = 0
        for part in self.parts:
            first, last = max(start - top, 0), min(stop - top, part.factor.shape[0])
            if first < last:
                yield self._cut(part, first, last)
            top += part.factor.shape[0]

    def _cut(self, part: ScaledRows, first: int, last: int) -> Single:
        values = singles(part.factor.bits[first:last], part.factor.kind)[:, : self.width]
        if np.ndim(part.gain):
            values = values * np.asarray(part.gain, np.float32)[first:last, None]
        elif part.gain != 1.0:
            values = values * np.float32(part.gain)
        missing = self.width - values.shape[1]
        return np.pad(values, ((0, 0), (0, missing))) if missing else values
