"""The weights of a base model, without their data: where they are stored, and which of them a LoRA layer changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

from ..names.family import Family
from ..names.table_reader import Share


@dataclass(frozen=True)
class BaseWeight:
    """One stored tensor, or rows of one.

    `shape` is the shape of the part as it is stored: ``(out, in)``, ``(out, in, height, width)``, or ``(in, out)``
    where `transposed`. `rows` is the half-open range of the stored tensor's first dimension, or None for all of it.
    `scale` is the key of the tensor by which quantised numbers are multiplied: one number, or one for each row of the
    whole tensor.
    """

    key: str
    shape: tuple[int, ...]
    rows: tuple[int, int] | None = None
    transposed: bool = False
    scale: str | None = None

    @property
    def matrix(self) -> tuple[int, int]:
        """``(out, in)`` of the weight as a matrix, with convolutions flattened and the transpose undone."""
        first, rest = self.shape[0], prod(self.shape[1:])
        return (rest, first) if self.transposed else (first, rest)


@dataclass(frozen=True)
class Partner:
    """The weight that a LoRA layer changes: stored parts, stacked by rows.

    `swapped` means that the layer has the two halves of these rows in the other order. `width` is the number of the
    layer's columns where the weight has another number: extra columns, as inpainting models have them, are left out;
    missing ones count as zeros.
    """

    parts: tuple[BaseWeight, ...]
    swapped: bool = False
    width: int | None = None

    @property
    def key(self) -> str:
        """Key of the first tensor, for messages."""
        return self.parts[0].key

    @property
    def transposed(self) -> bool:
        """Whether the parts are stored as ``(in, out)``."""
        return self.parts[0].transposed

    @property
    def matrix(self) -> tuple[int, int]:
        """``(out, in)`` of the layer that it belongs to."""
        return sum(part.matrix[0] for part in self.parts), self.width or self.parts[0].matrix[1]


@dataclass(frozen=True)
class WeightPiece:
    """A stored tensor as a share of the whole weight that it belongs to."""

    share: Share
    swapped: bool
    weight: BaseWeight


@dataclass(frozen=True)
class BaseModel:
    """All weights of a base model that a LoRA layer could change.

    `weights` maps canonical ids of `family` to weights. `generic` maps the names that kohya's rule makes of the
    checkpoint's own names (``lora_unet_…``, ``lora_te1_…``, ``lora_te2_…``, dots replaced by underscores) to the same
    weights, so that layers outside of the families' tables find their partner, too. `pieces` maps the id of a weight
    that some layouts split to the pieces of it that this checkpoint has. `prefix` is what only this file has before the
    names of its denoiser; "" in files with a usual prefix or none.
    """

    family: Family | None
    weights: Mapping[str, BaseWeight]
    generic: Mapping[str, BaseWeight]
    pieces: Mapping[str, tuple[WeightPiece, ...]] = field(default_factory=dict)
    prefix: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether no weight was found."""
        return not (self.weights or self.generic)
