"""Weights of the base model, for layers whose delta depends on them or is normalised with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from ..adapters.layer import Adapter, Layer
from ..base.checkpoint import Checkpoint
from ..base.weights import Partner
from ..errors import UnsupportedError
from ..linalg.factor import Factor
from ..linalg.lazy import Transposed

if TYPE_CHECKING:
    from ..adapters.merge.onto_base import MergeBase, MergeBaseWeight

Weights = Mapping[int, Callable[[], Factor]]


def weights_of(adapter: Adapter, checkpoint: Checkpoint | None) -> Weights:
    """Return the base weights of layers whose delta depends on them or is normalised with them, by layer index.

    Raises UnsupportedError where a delta needs a base weight that is missing.
    """
    found: dict[int, Callable[[], Factor]] = {}
    for i, layer in enumerate(adapter.layers):
        if layer.form.needs_base or (layer.magnitude is not None and checkpoint is not None):
            weight = checkpoint and weight_of(checkpoint, layer)
            if weight:
                found[i] = weight
            elif layer.form.needs_base:
                raise UnsupportedError(_baseless(adapter, layer, checkpoint))
    return found


def weight_of(checkpoint: Checkpoint, layer: Layer) -> Callable[[], Factor] | None:
    """Return a function that reads a layer's base weight, (n, m); None where the model has none."""
    weight = partner_of(checkpoint, layer)
    return partial(_as_out_by_in, checkpoint, weight) if weight else None


def ground_of(checkpoint: Checkpoint) -> MergeBase:
    """Return a base model for merges of kinds that depend on it."""
    from ..adapters.merge.onto_base import MergeBase  # a single file is not merged

    place_of = partial(_place, checkpoint)
    return MergeBase(checkpoint.path.name, checkpoint.family, partial(weight_of, checkpoint), place_of)


def _place(checkpoint: Checkpoint, canonical: str | None, stem: str) -> MergeBaseWeight | None:
    from ..adapters.merge.onto_base import MergeBaseWeight
    from ..adapters.merge.rotations import WeightInfo

    found = checkpoint.named(canonical, stem)
    if found is None or 0 in found.matrix:
        return None
    kernel = () if found.transposed else found.parts[0].shape[2:]
    outside = WeightInfo(found.matrix, kernel, checkpoint.has_bias(found))
    return MergeBaseWeight(outside, partial(_as_out_by_in, checkpoint, found))


def _as_out_by_in(checkpoint: Checkpoint, weight: Partner) -> Factor:
    matrix = checkpoint.whole(weight)
    return Transposed(matrix) if weight.transposed else matrix


def _baseless(adapter: Adapter, layer: Layer, checkpoint: Checkpoint | None) -> str:
    found = (
        f"{adapter.paths[0]}: layer {layer.stem} is {layer.form.kind}, whose delta depends on the base model's weights"
    )
    if checkpoint is None:
        return f"{found}. Name the checkpoint that it was trained on first, or after --base."
    return f"{found}, and {checkpoint.path.name} has no such layer. Give the right checkpoint."


def needs_base(adapter: Adapter) -> bool:
    """Return whether a layer's delta depends on the base model's weights (GLoRA)."""
    return any(layer.form.needs_base for layer in adapter.layers)


def partner_of(checkpoint: Checkpoint, layer: Layer) -> Partner | None:
    """Return the base model's weight that a layer changes; None where it has none."""
    return checkpoint.partner(layer.canonical, layer.stem, layer.size)
