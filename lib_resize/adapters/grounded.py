"""Layers whose change of the weight rests on the base model, as changes that stand alone.

With the base weight W known, GLoRA's ``scale (B + W A)`` is exactly a LoRA of rank 2 r, with ``[b_up, W a_up]`` as up
and ``[b_down; a_down]`` as down. What DoRA does to a weight, ``m V / ||V|| - W`` with ``V = W + delta``, is of full
rank: a difference in full.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod

import numpy as np

from ..errors import LayerError
from ..files.reader import SafeFile
from ..linalg.casts import STORAGE, Single, singles
from ..linalg.dora import Normalised
from ..linalg.factor import Factor
from ..linalg.finite import check_finite, unwarned
from ..linalg.made import Made, numbers
from .forms.form import Form
from .forms.full import Full
from .forms.glora import Glora
from .forms.lora import LowRank
from .layer import Adapter, Layer
from .suffixes import Part

WeightOf = Callable[[Layer], Callable[[], Factor] | None]
"""What reads a layer's base weight, (n, m); None where there is none."""


def rests_on_base(adapter: Adapter) -> bool:
    """Whether it has GLoRA or DoRA layers."""
    return any(layer.form.needs_base or layer.magnitude for layer in adapter.layers)


def magnitudes(file: SafeFile, key: Part) -> Single:
    """DoRA's, as `linalg.dora` reads them: PEFT's and ai-toolkit's belong to outputs whatever their shape.

    Raises LayerError for integers.
    """
    dtype = file.header.entries[key.key].dtype
    if dtype not in STORAGE:
        raise LayerError(f"{key.key} holds numbers of dtype {dtype}; floating point was expected")
    values = singles(file.bits(key.key), dtype)
    return values if key.suffix == ".dora_scale" else values.reshape(-1)


def grounded(adapter: Adapter, weight_of: WeightOf, base: str) -> Adapter:
    """The adapter with what rests on the base model worked out; layers without a base weight stay as they are.

    Numbers are made when they are looked at. `base` is what the base model is called.
    """
    layers = [_grounded(layer, adapter.files[0], weight_of) for layer in adapter.layers]
    settled = {new.stem for new, old in zip(layers, adapter.layers, strict=True) if new is not old}
    if not settled:
        return adapter
    copied = tuple(one for one in adapter.copied if not (one.stem in settled and one.why == "DoRA magnitude"))
    note = f"{adapter.name}: {len(settled)} GLoRA and DoRA layers were worked out with {base}, and fit that model alone"
    return replace(adapter, layers=tuple(layers), copied=copied, notes=(*adapter.notes, note), converted=True)


def _grounded(layer: Layer, file: SafeFile, weight_of: WeightOf) -> Layer:
    if layer.magnitude is None and not layer.form.needs_base:
        return layer
    weight = weight_of(layer)
    if weight is None:
        return layer
    form: Form | None = layer.form.converted()
    if isinstance(layer.form, Glora):
        form = layer.form.beside(Made(layer.size, lambda: numbers(weight())))
    assert form is not None
    if layer.magnitude is not None:
        form = _normalised(layer, form, weight, magnitudes(file, layer.magnitude))
    parts = {role: part for role, part in layer.parts.items() if role in ("up", "down", "alpha")}
    return replace(layer, form=form, parts=parts, magnitude=None)


def _normalised(layer: Layer, form: Form, weight: Callable[[], Factor], magnitude: Single) -> Full:
    def make() -> Single:
        base = numbers(weight())
        try:
            with unwarned():
                found = np.asarray(Normalised(base, magnitude).applied(_dense(form)) - base, np.float32)
            check_finite("what it makes of its base weight has", found)
            return found
        except LayerError as error:
            raise LayerError(f"layer {layer.stem}: {error}") from error

    n, m = layer.size
    kernel = layer.form.kernel
    return Full(Made((n, m), make), (n, m // prod(kernel), *kernel), max(form.dtypes))


def _dense(form: Form) -> Single:
    if isinstance(form, Full):
        return np.asarray(np.float32(form.scale) * numbers(form.matrix))
    assert isinstance(form, LowRank)
    return np.asarray(np.float32(form.scale) * (numbers(form.pair.up) @ numbers(form.pair.down)))
