"""The same LoRA with some of its layers in another form: exactly the same deltas, as up and down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..forms.full import Full
from ..forms.lora import LowRank
from ..layer import Adapter, Layer

Wanted = Callable[[Layer], bool]


def is_loha(layer: Layer) -> bool:
    """Whether one form is not always the better: LoHa stores twice as much a rank, but its ranks multiply."""
    return layer.form.kind == "LoHa"


def is_convertible(layer: Layer) -> bool:
    """Whether it is of another form than LoRA, and its delta known without the base model."""
    return not isinstance(layer.form, (LowRank, Full)) and layer.form.converted() is not None


def with_converted_layers(adapter: Adapter, wanted: Wanted) -> Adapter:
    """The adapter whose layers of that kind are LoRAs, or differences in full where those have no more numbers."""
    layers = tuple(_converted(layer) if wanted(layer) else layer for layer in adapter.layers)
    return replace(adapter, layers=layers, converted=True)


def _converted(layer: Layer) -> Layer:
    form = layer.form.converted()
    if form is None:
        return layer
    parts = {role: part for role, part in layer.parts.items() if role in ("alpha", "scale")}
    return replace(layer, form=form, parts=parts)
