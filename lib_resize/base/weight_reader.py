"""Read the weights of a checkpoint as matrices: quantised numbers times their scale, parts joined."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..errors import DamagedFileError
from ..linalg.assemble import Assembled, RowGain, ScaledRows
from ..linalg.casts import singles
from ..linalg.factor import Factor, Stored
from .store import Store
from .weights import BaseWeight, Partner

ReadPart = Callable[[BaseWeight], Stored]
"""A function that reads the stored numbers of a weight, without its scale, as a matrix (rows, columns)."""


class WeightReader:
    """Reads the weights of a store, one at a time."""

    def __init__(self, store: Store, read_part: ReadPart | None = None) -> None:
        """The numbers come from `read_part`, by default from `store`; their scales come from `store`."""
        self._store = store
        self._read_part = read_part or self._from_store

    @property
    def path(self) -> Path:
        """The path of the checkpoint, for messages."""
        return self._store.path

    def matrix(self, weight: BaseWeight) -> Stored:
        """Read a weight as a matrix (rows, columns): as stored, or as float32 where it has a scale.

        The memory is freed when nobody refers to the matrix any more.
        """
        stored = self._read_part(weight)
        part = ScaledRows(stored, self._gain(weight))
        return stored if _has_no_gain(part) else Stored(Assembled((part,), stored.shape[1]).bits, "F32")

    def partner_matrix(self, found: Partner) -> Factor:
        """Read a partner as a matrix (rows, columns), with its parts joined and its halves in the layer's order.

        A transposed weight stays transposed.
        """
        parts = tuple(ScaledRows(self._read_part(weight), self._gain(weight)) for weight in found.parts)
        if len(parts) == 1 and _has_no_gain(parts[0]) and not found.swapped and found.width is None:
            return parts[0].factor
        return Assembled(parts, found.width or parts[0].factor.shape[1], found.swapped)

    def _from_store(self, weight: BaseWeight) -> Stored:
        return self._store.read(weight.key, weight.rows)

    def _gain(self, weight: BaseWeight) -> RowGain:
        """Return the factor of quantised numbers: one number, or one for each row of the part, (rows,)."""
        if weight.scale is None:
            return 1.0
        stored = self._store.read(weight.scale)
        gains = singles(stored.bits, stored.kind).reshape(-1)
        if gains.size == 1:
            return float(gains[0])
        first, last = weight.rows or (0, weight.shape[0])
        if gains.size < last or gains.size == 0:
            raise DamagedFileError(
                f"{self.path}: {weight.scale} holds {gains.size} numbers for the rows of {weight.key}; "
                f"one, or one for each row, was expected."
            )
        return gains[first:last]


def _has_no_gain(part: ScaledRows) -> bool:
    return np.ndim(part.gain) == 0 and bool(part.gain == 1.0)
