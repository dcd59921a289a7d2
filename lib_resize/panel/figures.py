"""The figures that the page shows of an analysed LoRA: its table of sizes, its presets and its blocks."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..adapters.forms.lora import LowRank
from ..adapters.write.style import Style
from ..engine.analysis import Analysis
from ..engine.job import ResizeJob
from ..engine.planning import prepare, size_of_choice
from ..errors import ResizeError
from ..files.file_names import SUFFIX
from ..plans import Plan
from ..progress import Progress
from ..recipe.grammar import PRESETS, Recipe, parse_recipe
from ..recipe.select import Choice, Ranking, SelectionInput
from .cached import CachedAnalysis
from .curve import SizeCurve, ranks_of, value_count
from .lora_warnings import FLAT, flat_warning
from .protocol.objects import DEFAULT_SCORES
from .protocol.types import Json

_POINTS = 200
_KEEP_ALL = parse_recipe(f"{DEFAULT_SCORES},retain=1")
_ANCHORS = 9  # points of the table whose files are sized exactly; the header grows evenly between them
_ANCHORS_OF_PAIRS = 5  # in files of plain pairs, which have the same tensors at every rank


def block_order(label: str) -> tuple[int, str]:
    """Return a sort key: text encoders first, then the denoiser from its input to its output."""
    order = ("TE", "TIME", "LABEL", "IN", "MID", "OUT")
    return next((place for place, start in enumerate(order) if label.startswith(start)), len(order)), label


def by_block(kept: CachedAnalysis, ranks: Sequence[int]) -> dict[str, float]:
    """Return the mean rank of each block, in the order of the model."""
    sums: dict[str, list[int]] = {}
    for label, rank in zip(kept.blocks, ranks, strict=True):
        sums.setdefault(label, []).append(rank)
    return {label: round(sum(sums[label]) / len(sums[label]), 2) for label in sorted(sums, key=block_order)}


def plan_blocks(kept: CachedAnalysis, plan: Plan) -> Json:
    old, new = by_block(kept, old_ranks(kept)), by_block(kept, [layer.new_rank for layer in plan.layers])
    return {label: {"layers": kept.blocks.count(label), "old": old[label], "kept": new[label]} for label in old}


def old_ranks(kept: CachedAnalysis) -> list[int]:
    return [layer.rank for layer in kept.analysis.adapter.layers]


def analysis_json(kept: CachedAnalysis, progress: Progress) -> Json:
    """Return the `Analysed file` of the protocol, made once."""
    if kept.shown is None:
        kept.shown = _Figures(kept, progress).to_json()
    return kept.shown


def preset_job(kept: CachedAnalysis, recipe: Recipe, style: Style | None = None) -> ResizeJob:
    """Return the plan of a recipe, under a name of usual length."""
    return prepare(kept.analysis, recipe, style or Style(), lambda _: _usual_path(kept))


def _usual_path(kept: CachedAnalysis) -> Path:
    return Path(f"{kept.lora.path.stem}_00mb{SUFFIX}")


class _Figures:
    """The table, the presets and the blocks of one LoRA."""

    def __init__(self, kept: CachedAnalysis, progress: Progress) -> None:
        self._kept = kept
        self._progress = progress
        self._style = Style()
        self._layers = kept.analysis.adapter.layers

    def to_json(self) -> Json:
        kept = self._kept
        self._progress.start("sizes", len(PRESETS) + self._anchors(kept.analysis))
        jobs = {name: self._job(parse_recipe(name)) for name in PRESETS}
        flat = self._flat_warning(jobs["high"])
        return {
            "name": kept.lora.name,
            "bytes": kept.analysis.adapter.bytes,
            "layers": len(self._layers),
            "zero": len(kept.analysis.zero),
            "ranks": ranks_of(old_ranks(kept)),
            "table": self._table(jobs["medium"]),
            "blocks": self._blocks(jobs),
            "flat": flat is not None,
            "warnings": [] if flat is None else [flat],
            "presets": {name: self._preset(job) for name, job in jobs.items()},
            "device": "cpu",
        }

    def _job(self, recipe: Recipe) -> ResizeJob | None:
        try:
            return preset_job(self._kept, recipe, self._style)
        except ResizeError:
            return None
        finally:
            self._progress.step()

    def _preset(self, job: ResizeJob | None) -> Json | None:
        if job is None:
            return None
        plan = job.plan
        return {
            "bytes": plan.bytes_after,
            "saved": plan.saved,
            "retention": plan.retention,
            "ranks": ranks_of(job.choice.ranks),
            "layers_gone": len(plan.dropped),
            "recipe": plan.recipe,
        }

    def _blocks(self, jobs: Mapping[str, ResizeJob | None]) -> Json:
        old = by_block(self._kept, old_ranks(self._kept))
        new = {name: by_block(self._kept, job.choice.ranks) for name, job in jobs.items() if job is not None}
        return {
            label: {
                "layers": self._kept.blocks.count(label),
                "old": rank,
                "kept": {name: blocks[label] for name, blocks in new.items()},
            }
            for label, rank in old.items()
        }

    def _flat_warning(self, high: ResizeJob | None) -> Json | None:
        if high is None:
            return None
        layers = high.analysis.adapter.layers
        whole = sum(value_count(layer.form, layer.rank) for layer in self._layers)
        left = sum(value_count(layer.form, rank) for rank, layer in zip(high.choice.ranks, layers, strict=True))
        saved = 1 - left / whole
        return flat_warning(saved) if saved < FLAT else None

    def _table(self, medium: ResizeJob | None) -> list[Json]:
        """Return the points of the slider; of the layer kinds that medium writes, where it may convert."""
        analysis = medium.analysis if medium is not None else self._kept.analysis
        ranking = Ranking(_KEEP_ALL, SelectionInput(analysis.layers, analysis.adapter.together))
        curve = SizeCurve(analysis, ranking, self._style)
        counts = curve.counts(_POINTS)
        anchors = sorted({counts[round(place)] for place in np.linspace(0, len(counts) - 1, self._anchors(analysis))})
        heads = [self._head(analysis, curve, ranking.first(count), count) for count in anchors]
        known = [(anchor, head) for anchor, head in zip(anchors, heads, strict=True) if head is not None]
        if not known:
            return []
        grown = np.interp(counts, [count for count, _ in known], [head for _, head in known])
        return [curve.point(count, head) for count, head in zip(counts, grown, strict=True)]

    def _anchors(self, analysis: Analysis) -> int:
        pairs = all(isinstance(layer.form, LowRank) for layer in analysis.adapter.layers)
        return _ANCHORS_OF_PAIRS if pairs else _ANCHORS

    def _head(self, analysis: Analysis, curve: SizeCurve, choice: Choice, count: int) -> int | None:
        """Return the bytes of a point's file besides those of its factors; None where nothing would be kept."""
        self._progress.step()
        recipe = replace(_KEEP_ALL, value=curve.retention(count))
        with contextlib.suppress(ResizeError):
            whole = size_of_choice(analysis, recipe, self._style, choice, _usual_path(self._kept))
            return whole - curve.data(choice.ranks) if any(choice.ranks) else None
        return None
