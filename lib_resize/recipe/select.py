"""The selection of the dimensions to keep, over all layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ResizeError
from ..linalg.casts import Double
from ..linalg.truncate import KeptIndices
from ..shown import MIB
from .grammar import SCORED_SELECTIONS, Recipe, format_number
from .scores import LayerFacts, scores_of, split


@dataclass(frozen=True)
class Choice:
    """The dimensions to keep of every layer."""

    kept: tuple[KeptIndices, ...]
    """Indices of the kept dimensions, one array a layer, ascending; empty if the layer is removed."""
    threshold: float | None
    """The log10 score of the weakest freely chosen dimension; None for selections layer by layer."""
    scores: tuple[Double, ...]
    """The scores that decided; empty for selections layer by layer."""
    filled: tuple[int, ...] = ()
    """Rank of every layer if the recipe fills it up; else empty."""

    @property
    def ranks(self) -> list[int]:
        """Rank of every layer in the file; 0 for removed layers."""
        return list(self.filled) or [len(kept) for kept in self.kept]


SizeOf = Callable[[Choice], int]

_MORE = "Give that size or more."
_MORE_OR_NO_LEAST = "Give that size or more, or remove min_rank=."
"""Returns the exact file size in bytes for a choice."""


@dataclass(frozen=True)
class SelectionInput:
    """The input of a selection besides the recipe."""

    layers: Sequence[LayerFacts]
    together: Sequence[tuple[int, ...]] = ()
    """Groups of layers, by index, that a host applies only if all are present: if one is kept, all keep a rank."""
    size_of: SizeOf | None = None
    """Required for `size=`."""


def choose(recipe: Recipe, inputs: SelectionInput) -> Choice:
    """Return the dimensions that a recipe keeps.

    Raises ResizeError if nothing would be kept or `size=` is too small, PairingError if a score needs a base layer that
    is missing.
    """
    if recipe.selection in SCORED_SELECTIONS:
        choice = Ranking(recipe, inputs).choose()
    else:
        choice = _layer_by_layer(recipe, inputs)
    if not any(choice.ranks):
        raise ResizeError(
            f"recipe {recipe}: no dimension would be kept. Even the strongest scores are below the limit; "
            f"lower thr=, or use a preset such as medium."
        )
    return choice


def weight_retention(layers: Sequence[LayerFacts], kept: Sequence[KeptIndices]) -> float:
    """Return the Frobenius norm of what is kept over that of all, 0 to 1; 1 for a LoRA of zeros."""
    whole = sum(layer.energy for layer in layers)
    part = sum(float(layer.s[k] @ layer.s[k]) for layer, k in zip(layers, kept, strict=True))
    return float(np.sqrt(min(part / whole, 1.0))) if whole > 0 else 1.0


def _limits(recipe: Recipe, layer: LayerFacts) -> tuple[int, int]:
    """Return the smallest and largest number of dimensions that a layer may keep."""
    cap = recipe.rank_limit(layer.is_conv)
    most = max(layer.alive if cap is None else min(layer.alive, cap), layer.min_kept)
    return max(min(recipe.min_rank, most), layer.min_kept), most


def _completed(
    inputs: SelectionInput, kept: list[KeptIndices], order: Sequence[KeptIndices]
) -> tuple[KeptIndices, ...]:
    """Return the choice with one dimension for each layer that is needed by a group of layers."""
    for group in inputs.together:
        if any(len(kept[i]) for i in group):
            for i in group:
                if not len(kept[i]):
                    kept[i] = order[i][:1]
    return tuple(_written(layer, part) for layer, part in zip(inputs.layers, kept, strict=True))


def _written(layer: LayerFacts, kept: KeptIndices) -> KeptIndices:
    """Return what is written for a choice: some ranks are no better or no smaller than another."""
    if layer.stored_ranks is None or layer.stored_ranks[len(kept)] == len(kept):
        return kept
    return np.arange(layer.stored_ranks[len(kept)])


# Selections layer by layer


def _layer_by_layer(recipe: Recipe, inputs: SelectionInput) -> Choice:
    kept: list[KeptIndices] = []
    for layer in inputs.layers:
        fewest, most = _limits(recipe, layer)
        wanted = _RANKS[recipe.selection](layer, recipe)
        kept.append(np.arange(min(max(wanted, fewest), most)))
    order = [np.arange(len(layer.s)) for layer in inputs.layers]
    if recipe.fill == "extend":
        kept = [_whole(layer, recipe) for layer in inputs.layers]
    filled = tuple(_uniform(layer, recipe) for layer in inputs.layers) if recipe.fill else ()
    return Choice(kept=_completed(inputs, kept, order), threshold=None, scores=(), filled=filled)


def _whole(layer: LayerFacts, recipe: Recipe) -> KeptIndices:
    """Return all stored dimensions, also those that are zero."""
    wanted = _uniform(layer, recipe)
    if len(layer.s) > wanted:
        raise ResizeError(
            f"layer {layer.name} has rank {len(layer.s)} already, above {wanted}: request that rank or more."
        )
    return np.arange(len(layer.s))


def _uniform(layer: LayerFacts, recipe: Recipe) -> int:
    cap = recipe.rank_limit(layer.is_conv)
    if layer.is_conv and recipe.max_conv_rank:
        return recipe.max_conv_rank
    return int(recipe.value) if cap is None else min(int(recipe.value), cap)


def _by_ratio(layer: LayerFacts, recipe: Recipe) -> int:
    """Return how many singular values are larger than the largest divided by the ratio; at least one."""
    strengths = layer.strengths
    return max(1, int(np.count_nonzero(strengths > strengths[0] / recipe.value)))


def _by_frobenius(layer: LayerFacts, recipe: Recipe) -> int:
    return _fewest(layer.s * layer.s, recipe.value**2, layer.energy)


def _by_sum(layer: LayerFacts, recipe: Recipe) -> int:
    return _fewest(layer.strengths, recipe.value, float(layer.strengths.sum()))


def _fewest(amounts: Double, share: float, whole: float) -> int:
    """Return the smallest number of leading amounts whose sum is at least this share of the whole, or all."""
    running = np.cumsum(amounts)
    wanted = min(share * whole * (1 - 1e-14), float(running[-1]))
    return int(np.searchsorted(running, wanted, side="left")) + 1


_RANKS: dict[str, Callable[[LayerFacts, Recipe], int]] = {
    "rank": _uniform,
    "sv_ratio": _by_ratio,
    "sv_fro": _by_frobenius,
    "sv_cumulative": _by_sum,
}


# Selections over all layers


class Ranking:
    """All dimensions of all layers in one order, best score first; ties by layer, then by strength."""

    def __init__(self, recipe: Recipe, inputs: SelectionInput) -> None:
        self.recipe = recipe
        self.inputs = inputs
        self.scores = scores_of(recipe, inputs.layers)
        counts = self._counts = [len(scores) for scores in self.scores]
        flat = np.concatenate([*self.scores, np.zeros(0)])
        owner = np.repeat(np.arange(len(counts)), counts)
        start = np.cumsum([0, *counts])[owner]
        order = np.lexsort((-flat, owner))  # stable, layer by layer
        place, index, flat = np.arange(len(flat)) - start, order - start, flat[order]
        self.best_first = split(index, counts)
        limits = np.array([_limits(recipe, layer) for layer in inputs.layers], np.intp).reshape(-1, 2)
        forced = place < limits[owner, 0]
        self._forced = order[forced]
        self.forced: list[KeptIndices] = [
            best[:fewest] for best, fewest in zip(self.best_first, limits[:, 0], strict=True)
        ]
        free = np.flatnonzero(~forced & (place < limits[owner, 1]))
        free = free[np.argsort(-flat[free], kind="stable")]
        self.layer, self.index, self.flat = owner[free], index[free], flat[free]
        self._free = order[free]

    def choose(self) -> Choice:
        count = {"thr": self._by_threshold, "retain": self._by_retention, "size": self._by_size}
        return self.first(count[self.recipe.selection]())

    def first(self, count: int) -> Choice:
        """Return the forced dimensions and the first `count` of the others."""
        stays = np.zeros(sum(self._counts), np.bool_)
        stays[self._forced] = True
        stays[self._free[:count]] = True
        kept: list[KeptIndices] = [np.flatnonzero(part) for part in split(stays, self._counts)]
        return Choice(
            kept=_completed(self.inputs, kept, self.best_first),
            threshold=self._threshold(count),
            scores=self.scores,
        )

    def _threshold(self, count: int) -> float | None:
        if self.recipe.selection == "thr":
            return self.recipe.value
        return float(self.flat[count - 1]) if count else None

    def _by_threshold(self) -> int:
        return int(np.count_nonzero(self.flat >= self.recipe.value))

    def _by_retention(self) -> int:
        layers = self.inputs.layers
        whole = sum(layer.energy for layer in layers)
        held = sum(float(layer.s[k] @ layer.s[k]) for layer, k in zip(layers, self.forced, strict=True))
        squares = np.concatenate([layer.s * layer.s for layer in layers])
        starts = np.cumsum([0] + [len(layer.s) for layer in layers])
        running = held + np.cumsum(squares[starts[self.layer] + self.index])
        wanted = self.recipe.value**2 * whole * (1 - 1e-14)
        if held >= wanted:
            return 0
        return min(int(np.searchsorted(running, wanted, side="left")) + 1, len(running))

    def _by_size(self) -> int:
        if self.inputs.size_of is None:
            raise ValueError("size= needs `size_of`")
        budget = self.recipe.value * MIB
        fewest = 0 if any(len(forced) for forced in self.forced) else min(1, len(self.flat))
        smallest = self.inputs.size_of(self.first(fewest))
        if smallest > budget:
            raise ResizeError(
                f"size={format_number(self.recipe.value, 6)}: the smallest file that this recipe allows has "
                f"{smallest / MIB:.3f} MiB. {_MORE_OR_NO_LEAST if self.recipe.min_rank else _MORE}"
            )
        return self._largest_within(budget, fewest, smallest)

    def _largest_within(self, budget: float, fewest: int, smallest: int) -> int:
        """Return the largest count whose file fits; the size grows with the count. Secant steps inside of a bracket."""
        size_of = self.inputs.size_of
        assert size_of is not None
        pairs = zip(self.layer.tolist(), self.index.tolist(), strict=True)
        marginal = [self.inputs.layers[layer].marginal(index) for layer, index in pairs]
        cost = np.concatenate([[0], np.cumsum(marginal)])
        low, high = fewest, len(self.flat)
        low_size, high_size = smallest, size_of(self.first(high))
        if high_size <= budget:
            return high
        while high - low > 1:
            per_parameter = (high_size - low_size) / (cost[high] - cost[low])
            guess = int(np.searchsorted(cost, cost[low] + (budget - low_size) / per_parameter, side="right")) - 1
            middle = min(max(guess, low + 1), high - 1)
            size = size_of(self.first(middle))
            if size <= budget:
                low, low_size = middle, size
            else:
                high, high_size = middle, size
        return low
