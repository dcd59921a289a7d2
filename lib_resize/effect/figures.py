"""The share of a LoRA's effect that a resized file keeps, from distances between images of the same seeds.

With z the image of the original, z' that of the resized file and z0 that without the LoRA, all of one seed:

    kept = 1 - mean |z' - z|^2 / mean |z0 - z|^2

The ratio is of means over the seeds, not a mean of ratios: one image that hardly shows the LoRA would dominate that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

NOISE_FACTOR = 3.0
"""The effect must exceed the host's own noise by this factor, or there is no figure."""


@dataclass(frozen=True)
class Distances:
    """The squared distances of one seed from the image of the original."""

    seed: int
    resized: float
    without: float


@dataclass(frozen=True)
class EffectFigure:
    """What a comparison found."""

    kept: float | None
    """1 for equal images, 0 for those as far from the original as without the LoRA, negative for those farther away.
    None where the images hardly show the LoRA."""
    worst: float | None
    """The same of the image that is farthest from the original, with the mean effect as the denominator."""
    effect: float
    """The mean squared distance without the LoRA."""
    noise: float
    """The squared distance of two images of the original with one seed."""
    basis: str
    """What was compared: ``latents`` or ``pixels``."""
    seeds: tuple[int, ...]


def squared_difference(one: Any, other: Any) -> float:
    """Return the mean of the squared differences of two arrays. Raises ValueError where their shapes differ."""
    first, second = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if first.shape != second.shape:
        raise ValueError(f"two images have different shapes: {first.shape} and {second.shape}")
    return float(np.mean(np.square(first - second)))


def effect_figure(distances: Sequence[Distances], noise: float, basis: str) -> EffectFigure:
    """Return the figure of one or more seeds. Raises ValueError for no seeds."""
    if not distances:
        raise ValueError("a figure needs the images of at least one seed")
    effect = sum(one.without for one in distances) / len(distances)
    seeds = tuple(one.seed for one in distances)
    if not shows(effect, noise):
        return EffectFigure(None, None, effect, noise, basis, seeds)
    resized = [one.resized for one in distances]
    kept = 1.0 - sum(resized) / len(resized) / effect
    return EffectFigure(kept, 1.0 - max(resized) / effect, effect, noise, basis, seeds)


def shows(effect: float, noise: float) -> bool:
    """Return whether images show the LoRA well enough for a figure."""
    return effect > 0.0 and effect > NOISE_FACTOR * noise
