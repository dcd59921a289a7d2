"""One matrix out of several stored ones: stacked, scaled, cut or widened, its halves swapped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .casts import Bits, Single, singles
from .factor import Factor

Gain = float | NDArray[np.float32]
"""What a stored matrix is multiplied by: one number, or one for each of its rows, (rows,)."""


@dataclass(frozen=True)
class Part:
    """A stored matrix (rows, columns) and its gain."""

    factor: Factor
    gain: Any = 1.0
    """See `Gain`."""


@dataclass(frozen=True)
class Assembled:
    """Parts one below the other as one float32 matrix (n, width), made when looked at.

    Columns beyond `width` are left out; where a part has fewer, zeros are added. `swapped` puts the lower half of the
    rows first.
    """

    parts: tuple[Part, ...]
    width: int
    swapped: bool = False
    kind: str = "F32"

    @property
    def bits(self) -> Bits:
        whole = np.concatenate([self._rows(part) for part in self.parts])
        return np.ascontiguousarray(np.concatenate(np.split(whole, 2)[::-1]) if self.swapped else whole)

    @property
    def shape(self) -> tuple[int, int]:
        return sum(part.factor.shape[0] for part in self.parts), self.width

    def _rows(self, part: Part) -> Single:
        values = singles(part.factor.bits, part.factor.kind)[:, : self.width]
        if not (np.ndim(part.gain) == 0 and part.gain == 1.0):
            values = values * np.reshape(np.asarray(part.gain, np.float32), (-1, 1))
        missing = self.width - values.shape[1]
        return np.pad(values, ((0, 0), (0, missing))) if missing else values
