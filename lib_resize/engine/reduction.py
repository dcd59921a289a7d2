"""The factors of ``rank=`` recipes that do not use the exact decomposition, and what they lose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..adapters.forms.form import Decomposition
from ..adapters.forms.lora import LowRank
from ..errors import LayerError
from ..linalg.arrays import NumpyArrays
from ..linalg.casts import Double
from ..linalg.factor import Pair, Spectrum
from ..linalg.truncate import KeptIndices, discarded_norm
from ..recipe.grammar import Recipe
from ..recipe.select import Choice
from .analysis import Analysis


@dataclass(frozen=True)
class Reduction:
    """Other factors than those of the exact decomposition; one entry a layer."""

    spectra: tuple[Decomposition, ...]
    """What the new factors are made from."""
    lost: tuple[float, ...]
    """Frobenius norm of the delta minus the new one, before rounding and without `rescale`."""


def reduction(analysis: Analysis, recipe: Recipe, choice: Choice) -> Reduction | None:
    """Return the factors of a recipe's method; None for the exact decomposition.

    Raises LayerError for kinds other than LoRA, which have no such factors.
    """
    if recipe.method != "svd" or recipe.fill:
        _check_kinds(analysis, recipe)
    if recipe.is_exact:
        return None
    found = [_layer(analysis, recipe, index, kept) for index, kept in enumerate(choice.kept)]
    return Reduction(tuple(spectrum for spectrum, _ in found), tuple(loss for _, loss in found))


def _check_kinds(analysis: Analysis, recipe: Recipe) -> None:
    other = next((layer for layer in analysis.adapter.layers if not isinstance(layer.form, LowRank)), None)
    if other is not None:
        raise LayerError(
            f"layer {other.stem} is {other.form.kind}: {recipe.method_items[0]} works for LoRA layers only. "
            f"Add --convert lora, or use rank= without it."
        )


def _layer(analysis: Analysis, recipe: Recipe, index: int, kept: KeptIndices) -> tuple[Decomposition, float]:
    form, s = analysis.adapter.layers[index].form, analysis.layers[index].s
    assert isinstance(form, LowRank)
    pair = form.pair
    if recipe.fill == "extend":
        return _as_stored(pair, s), 0.0
    if len(kept) >= np.count_nonzero(s) or not len(kept):  # all of it, or nothing: no way loses less
        return analysis.spectra[index], discarded_norm(s, kept)
    from ..linalg.random_projection import approximation_error  # most recipes are exact

    made = drawn(pair, len(kept), recipe, analysis.layers[index].name)
    return made, approximation_error(pair, made, NumpyArrays())


def drawn(pair: Pair, rank: int, recipe: Recipe, name: str) -> Spectrum:
    """Return the factors of this rank that the recipe's random method makes of the layer `name`."""
    from ..linalg import random_projection as ways

    chance = ways.layer_generator(recipe.seed, name)
    if recipe.method == "rsvd":
        return ways.randomised_svd(pair, rank, recipe.niter, recipe.oversample, chance)
    projection = {"projection": ways.dense_projection, "sparse": ways.sparse_projection}[recipe.method]
    return ways.projected_spectrum(pair, projection(rank, pair.rank, chance))


def _as_stored(pair: Pair, s: Double) -> Spectrum:
    """Return P and Q that keep the factors unchanged, with the scale split between them."""
    one = np.eye(pair.rank, dtype=np.float32) * np.float32(np.sqrt(abs(pair.scale)))
    return Spectrum(s, one, np.copysign(one, pair.scale) if pair.scale < 0 else one)
