"""Convert layers of a LoRA to another kind: exactly the same deltas, as up and down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..forms.lora import LowRank
from ..layer import Adapter, Layer

Wanted = Callable[[Layer], bool]


def is_loha(layer: Layer) -> bool:
    """Return whether a layer is LoHa, which stores twice as much per rank, but whose ranks multiply."""
    return layer.form.kind == "LoHa"


def is_convertible(layer: Layer) -> bool:
    """Return whether a layer has another kind than LoRA, and a delta that is known without the base model."""
    from ..forms.full import Full

    return not isinstance(layer.form, (LowRank, Full)) and layer.form.converted() is not None


def with_converted_layers(adapter: Adapter, wanted: Wanted) -> Adapter:
    """Return the adapter with the `wanted` layers as LoRA, or as a difference in full if that is no larger."""
    layers = tuple(_converted(layer) if wanted(layer) else layer for layer in adapter.layers)
    return replace(adapter, layers=layers, converted=True)


def _converted(layer: Layer) -> Layer:
    form = layer.form.converted()
    if form is None:
        return layer
    parts = {role: part for role, part in layer.parts.items() if role in ("alpha", "scale")}
    return replace(layer, form=form, parts=parts)
