"""The score of a dimension: ``log10 s_i - sum_j w_j log10 reference_j``.

It is a weighted geometric mean of the ratios between a dimension's strength and its references, as defined by the tool
that introduced these recipes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import PairingError
from ..linalg.casts import Double
from ..linalg.truncate import non_increasing
from ..shown import first_of
from .grammar import BASE_SCORES, SELF_SCORES, Recipe

Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True)
class BaseFacts:
    """The norms of the base layer; None for those that no recipe uses."""

    fro: float | None = None
    """Frobenius norm."""
    spn: float | None = None
    """Spectral norm."""
    subspace: Double | None = None
    """``|u_i^T W v_i|`` of every dimension, (r,)."""


@dataclass(frozen=True)
class LayerFacts:
    """The facts about a layer that the selection uses."""

    name: str
    s: Double
    """Strengths, (r,), float64: the first k hold the squared norm ``sum of s_j^2 over j < k``.

    Singular values, descending, for low-rank pairs; for other layers see `nested`.
    """
    parameters_per_rank: int
    """Numbers stored per rank, n + m for a low-rank pair."""
    is_conv: bool = False
    """Whether it is a convolution larger than 1x1."""
    base: BaseFacts | None = None
    """None if the layer has no partner in the base model."""
    min_kept: int = 0
    """Dimensions that are kept with any recipe, even of a layer of zeros.

    1 if other tensors of the layer are kept that would be useless without it.
    """
    residual_norm: float = 0.0
    """Frobenius norm of the part outside of all dimensions, as of a weight difference that was truncated."""
    parameters_per_squared_rank: int = 0
    """Numbers stored per square of the rank: the core of a Tucker layer."""
    nested: bool = False
    """Whether a dimension can only be kept together with all before it. `s` may increase then."""
    stored_ranks: NDArray[np.intp] | None = None
    """The rank that is written for each rank, (r + 1,), non-decreasing; None if every rank is written."""

    @cached_property
    def strengths(self) -> Double:
        """`s` for scores: non-increasing, (r,), float64."""
        return non_increasing(self.s) if self.nested else self.s

    @cached_property
    def alive(self) -> int:
        """Number of dimensions up to the last one that is not zero."""
        if not self.nested:
            return int(np.count_nonzero(self.s))
        found = np.flatnonzero(self.s)
        return int(found[-1]) + 1 if len(found) else 0

    @cached_property
    def energy(self) -> float:
        """Squared Frobenius norm of the whole layer."""
        return float(self.s @ self.s) + self.residual_norm**2

    @cached_property
    def fro(self) -> float:
        """Frobenius norm of the whole layer."""
        return math.sqrt(self.energy)

    def marginal(self, rank: int) -> int:
        """Return how many numbers the dimension after the first `rank` adds."""
        return self.parameters_per_rank + (2 * rank + 1) * self.parameters_per_squared_rank


_REFERENCES: dict[str, Callable[[LayerFacts], Double | float | None]] = {
    "spn_ckpt": lambda layer: None if layer.base is None else layer.base.spn,
    "fro_ckpt": lambda layer: None if layer.base is None else layer.base.fro,
    "subspace": lambda layer: None if layer.base is None else layer.base.subspace,
    "spn_lora": lambda layer: float(layer.strengths[0]),
    "fro_lora": lambda layer: layer.fro,
    "params": lambda layer: float(layer.parameters_per_rank),
}


def score(recipe: Recipe, layer: LayerFacts) -> Double:
    """Return the scores of a layer's dimensions, (r,), log10, float64; minus infinity for dimensions that are zero.

    If a dimension can only be kept with those before it, no score is above the one before. A layer without partner is
    scored by the recipe's other references, with their weights normalised again, if one of them compares the layer with
    itself. Else it raises PairingError (see `with_estimates`).
    """
    return scores_of(recipe, [layer])[0]


def scores_of(recipe: Recipe, layers: Sequence[LayerFacts]) -> tuple[Double, ...]:
    """Return the `score` of each layer. One array of all dimensions is much faster than one for each layer."""
    found: dict[int, Double] = {}
    for paired in (True, False):
        indices = [i for i, layer in enumerate(layers) if (layer.base is not None) == paired]
        if indices:
            together = [layers[i] for i in indices]
            weights = recipe.weights if paired else _without_base(recipe)
            if weights is None:
                raise PairingError(f"layer {together[0].name}: no partner in the base model")
            found.update(zip(indices, _scored(recipe, weights, together), strict=True))
    return tuple(found[i] for i in range(len(layers)))


def _scored(recipe: Recipe, weights: Mapping[str, float], layers: Sequence[LayerFacts]) -> Iterator[Double]:
    """Yield the scores of layers that have the same references."""
    counts = [len(layer.s) for layer in layers]
    strengths = np.concatenate([layer.strengths for layer in layers])
    with np.errstate(divide="ignore", invalid="ignore"):
        total = np.log10(strengths * recipe.rescale)
        for name, weight in weights.items():
            total -= weight * np.log10(_rescaled(name, _references(name, layers, counts), recipe))
    total = np.where(strengths > 0, total, -np.inf)
    for layer, part in zip(layers, split(total, counts), strict=True):
        yield np.minimum.accumulate(part) if layer.nested else part


def _references(name: str, layers: Sequence[LayerFacts], counts: Sequence[int]) -> Double:
    """Return a reference of every dimension of the layers, one after the other."""
    found: list[Double | float] = []
    for layer in layers:
        reference = _REFERENCES[name](layer)
        if reference is None:
            raise ValueError(f"{name} was not computed for {layer.name}")
        found.append(reference)
    return np.concatenate(found) if isinstance(found[0], np.ndarray) else np.repeat(np.array(found), counts)


def split(values: NDArray[Number], counts: Iterable[int]) -> list[NDArray[Number]]:
    """Return the first `counts[0]` values, the next `counts[1]` and so on."""
    stops = list(accumulate(counts, initial=0))
    return [values[start:stop] for start, stop in pairwise(stops)]


def _rescaled(name: str, references: Double, recipe: Recipe) -> Double:
    """Return the references after a rescale: a LoRA's own norms grow with it, the base model's do not."""
    return references * recipe.rescale if name in SELF_SCORES else references


def _without_base(recipe: Recipe) -> dict[str, float] | None:
    if not recipe.needs_base:
        return recipe.weights
    left = {name: weight for name, weight in recipe.weights.items() if name not in BASE_SCORES}
    if not SELF_SCORES & left.keys():
        return None
    total = math.fsum(left.values())
    return {name: weight / total for name, weight in left.items()}


def check_partners(recipe: Recipe, layers: Sequence[LayerFacts], base_name: str) -> list[str]:
    """Return the names of the layers without a partner, if the recipe needs the base model.

    Raises PairingError if most layers have none and the recipe has no other reference to score them by.
    """
    if not recipe.needs_base:
        return []
    missing = [layer.name for layer in layers if layer.base is None]
    if 2 * len(missing) > len(layers) and _without_base(recipe) is None:
        raise PairingError(
            f"{len(missing)} of {len(layers)} layers have no partner in {base_name}: {first_of(missing, 5)}. "
            f"The LoRA was made for another model family than this checkpoint, or the checkpoint has an unknown key "
            f"format. Give the right checkpoint, or use a recipe that needs none, such as -r medium."
        )
    return missing


def with_estimates(recipe: Recipe, layers: Sequence[LayerFacts]) -> Sequence[LayerFacts]:
    """Return the layers with estimated base norms where the recipe needs them and a layer has no partner.

    The estimate is the layer's own norm times the median ratio of both norms in the layers that have a partner, so that
    dimensions of all layers compete on one scale.
    """
    if not recipe.needs_base or _without_base(recipe) is not None:
        return layers
    paired = [(layer.base, layer) for layer in layers if layer.base is not None and layer.alive]
    fro = _median_ratio((base.fro, layer.fro) for base, layer in paired)
    spn = _median_ratio((base.spn, float(layer.strengths[0])) for base, layer in paired)
    subspace = _median_ratio((_strongest(base.subspace), float(layer.strengths[0])) for base, layer in paired)

    def estimate(layer: LayerFacts) -> BaseFacts:
        own = float(layer.strengths[0])
        return BaseFacts(fro * layer.fro, spn * own, np.full(len(layer.s), subspace * own))

    return [layer if layer.base is not None else replace(layer, base=estimate(layer)) for layer in layers]


def _median_ratio(pairs: Iterable[tuple[float | None, float]]) -> float:
    """Return the median of base over own; 1 if no pair has both."""
    known = sorted(base / own for base, own in pairs if base)
    middle = len(known) // 2  # numpy's median would import masked arrays, which take as long as a plan
    return float((known[middle] + known[~middle]) / 2) if known else 1.0


def _strongest(along: Double | None) -> float | None:
    return None if along is None else float(along.max())
