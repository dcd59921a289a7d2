"""The analysis of one LoRA as plain numbers: the spectrum of each layer, and what recipes and other selections keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..adapters.write.style import Style
from ..base.checkpoint import Checkpoint
from ..engine.analysis import Analysis
from ..engine.planning import prepare
from ..recipe.grammar import Recipe, parse_recipe
from .inspection import analysed, mean_effective_rank
from .spectra import ALL_BASE_SCORES, LayerSpectrum, curves, effective_rank, layer_spectra


@dataclass(frozen=True)
class LayerAnalysis:
    """The spectrum of one layer."""

    name: str
    """Name of the layer in the file."""
    block: str
    """Block of the model, such as ``IN04`` or ``TE1``; OTHER for a layer of no known family."""
    type: str
    """Type of the layer, such as ``cross K``, ``feed forward`` or ``convolution``."""
    rank: int
    """Rank of the layer in the file."""
    singular_values: tuple[float, ...]
    """Singular values of the layer's delta, at most `rank`, in descending order."""
    effective_rank: float
    """exp of the entropy of s / sum(s) (Roy and Vetterli 2007); 0 for a layer of zeros."""
    bytes: int
    """Size of its factors in the file, in bytes."""


@dataclass(frozen=True)
class RecipeSize:
    """The size and the retention of the file that a recipe makes."""

    recipe: str
    """The recipe in full."""
    bytes: int
    """Exact size of the new file in bytes, header included."""
    retention: float
    """Weight retention, 0 to 1: Frobenius norm of what is kept, over that of the whole LoRA."""


@dataclass(frozen=True)
class LoraAnalysis:
    """The layers of a LoRA, and the files that recipes make from it."""

    source: Path
    bytes: int
    """Size of the source file in bytes."""
    family: str | None
    """Family of the base model; None if it is not known."""
    effective_rank: float
    """Mean over layers that are not zero."""
    layers: tuple[LayerAnalysis, ...]
    """All layers, in the order of the file."""
    recipes: tuple[RecipeSize, ...]
    """One for each recipe that was asked for, in that order."""
    curves: Mapping[str, tuple[tuple[int, float], ...]]
    """Way of selecting dimensions -> points (bytes of a float16 file, weight retention), in ascending order."""

    def as_json(self) -> dict[str, Any]:
        """Return the analysis as JSON values."""
        return asdict(self) | {"source": str(self.source)}


def analyse_file(
    path: Path, recipes: Sequence[Recipe], style: Style, base: Checkpoint | None = None, threads: int | None = None
) -> LoraAnalysis:
    """Analyse a file. With a base model, there are also curves of the scores that compare with it.

    Raises FileError, UnsupportedError and LayerError as a resize would, and ResizeError for an impossible recipe.
    """
    asked = [*recipes, *([parse_recipe(ALL_BASE_SCORES)] if base else [])]
    with analysed(path, base, asked, threads) as analysis:
        adapter = analysis.adapter
        return LoraAnalysis(
            source=path,
            bytes=adapter.bytes,
            family=adapter.family.name if adapter.family else None,
            effective_rank=mean_effective_rank(analysis),
            layers=_layers(analysis),
            recipes=tuple(_size(analysis, recipe, style) for recipe in recipes),
            curves={curve.name: curve.points for curve in curves(analysis)},
        )


def _layers(analysis: Analysis) -> tuple[LayerAnalysis, ...]:
    pairs = zip(layer_spectra(analysis), analysis.adapter.layers, strict=True)
    return tuple(_layer(spectrum, layer.rank) for spectrum, layer in pairs)


def _layer(spectrum: LayerSpectrum, rank: int) -> LayerAnalysis:
    return LayerAnalysis(
        name=spectrum.name,
        block=spectrum.block,
        type=spectrum.type,
        rank=rank,
        singular_values=tuple(map(float, spectrum.s)),
        effective_rank=effective_rank(spectrum.s),
        bytes=spectrum.bytes,
    )


def _size(analysis: Analysis, recipe: Recipe, style: Style) -> RecipeSize:
    plan = prepare(analysis, recipe, style, lambda stem: Path(f"{stem}.safetensors")).plan
    return RecipeSize(plan.recipe, plan.bytes_after, plan.retention)
