"""The score of a dimension: ``log10 s_i - sum_j w_j log10 reference_j``.

A weighted geometric mean of the ratios between a dimension's strength and its references, as the tool defines
it that coined these recipes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import PairingError
from ..linalg.casts import Double
from ..linalg.truncate import frobenius
from .grammar import BASE_SCORES, SELF_SCORES, Recipe


@dataclass(frozen=True)
class BaseFacts:
    """What is known of the base layer; None where no recipe asked for it."""

    fro: float | None = None
    """Frobenius norm."""
    spn: float | None = None
    """Spectral norm."""
    subspace: Double | None = None
    """``|u_i^T W v_i|`` of every dimension, (r,)."""


@dataclass(frozen=True)
class LayerFacts:
    """What the choice knows of a layer."""

    name: str
    s: Double
    """Singular values, (r,), descending."""
    parameters: int
    """Numbers stored per rank, n + m."""
    is_conv: bool = False
    """A convolution larger than 1x1."""
    base: BaseFacts | None = None
    """None where the layer has no partner in the base model."""
    least: int = 0
    """Dimensions that must stay whatever the recipe says, even of a layer that is zero: 1 where other tensors of the
    layer stay, which would be orphans without it."""


_REFERENCES: dict[str, Callable[[LayerFacts], Double | float | None]] = {
    "spn_ckpt": lambda layer: None if layer.base is None else layer.base.spn,
    "fro_ckpt": lambda layer: None if layer.base is None else layer.base.fro,
    "subspace": lambda layer: None if layer.base is None else layer.base.subspace,
    "spn_lora": lambda layer: float(layer.s[0]),
    "fro_lora": lambda layer: frobenius(layer.s),
    "params": lambda layer: float(layer.parameters),
}


def score(recipe: Recipe, layer: LayerFacts) -> Double:
    """Scores of a layer's dimensions, (r,), log10; minus infinity for dimensions that are zero.

    A layer without partner is scored by the recipe's other references, their weights normalised anew, where one
    of them compares the layer with itself; else PairingError (see `check_partners`, which names all such layers).
    """
    weights = recipe.weights if layer.base is not None else _without_base(recipe)
    if weights is None:
        raise PairingError(f"layer {layer.name}: no partner in the base model")
    with np.errstate(divide="ignore", invalid="ignore"):
        total = np.log10(layer.s * recipe.rescale)
        for name, weight in weights.items():
            reference = _REFERENCES[name](layer)
            if reference is None:
                raise ValueError(f"{name} was not computed for {layer.name}")
            total -= weight * np.log10(_rescaled(name, reference, recipe))
    return np.asarray(np.where(layer.s > 0, total, -np.inf))


def _rescaled(name: str, reference: Double | float, recipe: Recipe) -> Double | float:
    """A LoRA's own norms grow with it; the base model's do not."""
    return reference * recipe.rescale if name in SELF_SCORES else reference


def _without_base(recipe: Recipe) -> dict[str, float] | None:
    if not recipe.needs_base:
        return recipe.weights
    left = {name: weight for name, weight in recipe.weights.items() if name not in BASE_SCORES}
    if not SELF_SCORES & left.keys():
        return None
    total = math.fsum(left.values())
    return {name: weight / total for name, weight in left.items()}


def check_partners(recipe: Recipe, layers: list[LayerFacts], base_name: str) -> list[str]:
    """Names of the layers that have no partner although the recipe asks for the base model.

    Raises PairingError where the recipe has no reference to score them by.
    """
    if not recipe.needs_base:
        return []
    missing = [layer.name for layer in layers if layer.base is None]
    if missing and _without_base(recipe) is None:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        cause = (
            "The LoRA was made for another model family than this checkpoint"
            if len(missing) > len(layers) // 2
            else "The checkpoint lacks these layers, or names them in a way we do not know"
        )
        raise PairingError(
            f"{len(missing)} of {len(layers)} layers have no partner in {base_name}: {shown}. {cause}. "
            f"Give the right checkpoint, or take a recipe that needs none, such as -r medium."
        )
    return missing
