"""The numbers of a new file's layers, computed from the decomposition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..adapters.forms.form import WriteSpec
from ..adapters.write.layout import FillRows, NewLayer, layer_tensors, zero_rows
from ..adapters.write.style import FLOAT8
from ..errors import LayerError
from ..linalg.arrays import Arrays
from ..linalg.casts import Bits, Single, singles
from ..linalg.factor import Factor
from ..linalg.finite import without_float_warnings
from ..recipe.grammar import Recipe
from .selection import Selection


def storage_arrays(selection: Selection, group: Sequence[NewLayer], arrays: Arrays) -> dict[str, Bits]:
    """Return the stored tensors of some new layers, by key. Raises LayerError where a number does not fit."""
    rows = _new_rows(selection.recipe) if selection.recipe.fill == "extend" else zero_rows
    with without_float_warnings():
        return layer_tensors([(new, write_spec(selection, new, arrays)) for new in group], rows)


def write_spec(selection: Selection, new: NewLayer, arrays: Arrays, gain: float | None = None) -> WriteSpec:
    """Return what a layer is written from; `gain` replaces the one that its alpha needs."""
    return WriteSpec(
        solved=selection.decomposition(new.index),
        kept=selection.kept(new.index),
        arrays=arrays,
        gain=(new.gain if gain is None else gain) * math.sqrt(selection.recipe.rescale),
        base=base_weight(selection, new) if new.layer.form.needs_base else None,
        regauged=is_float8(new) and selection.is_regauged(new.index),
    )


def whole(spec: WriteSpec, rank: int) -> WriteSpec:
    """Return the same with all dimensions of the source."""
    return replace(spec, kept=np.arange(rank))


def base_weight(selection: Selection, new: NewLayer) -> Factor:
    """Return the base model's weight of a layer, (n, m)."""
    return selection.analysis.weights[new.index]()


def is_float8(new: NewLayer) -> bool:
    """Return whether a layer is written in fp8."""
    return any(spec.dtype == FLOAT8 for spec in new.tensors.values())


def rounded_values(selection: Selection, new: NewLayer, arrays: Arrays) -> dict[str, Single]:
    """Return a layer's numbers by role, rounded to the file's dtype, at scale 1 and without `rescale`."""
    bits = storage_arrays(selection, [new], arrays)
    gain = new.gain * math.sqrt(selection.recipe.rescale)
    share = gain if len(new.tensors) == 2 else gain**2
    values = {role: singles(bits[spec.name], spec.dtype) for role, spec in new.tensors.items()}
    return {role: values[role].reshape(spec.shape[0], -1) / np.float32(share) for role, spec in new.tensors.items()}


def _new_rows(recipe: Recipe) -> FillRows:
    from ..linalg.extension import orthonormal_rows  # for this fill alone
    from ..linalg.random_projection import layer_generator

    def rows(new: NewLayer, down: Single, count: int) -> Single:
        try:
            return orthonormal_rows(down, count, layer_generator(recipe.seed, new.layer.stem))
        except LayerError as error:
            raise LayerError(f"layer {new.layer.stem}: {error}.") from error

    return rows
