"""Plans as text: the table at the end, the lines of -v and -vv, and the JSON report."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .plan import LayerPlan, Plan

if TYPE_CHECKING:
    from .batch import Outcome
    from .jobs import Job
    from .spectra import Group

_MIB = 1 << 20
_QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)


def mib(size: int) -> str:
    """A size in MiB with three digits or more: 45.3, 217.9, 1204."""
    value = size / _MIB
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(outcomes: Iterable[Outcome]) -> str:
    """One row an output, and a sum where there are several of one recipe."""
    rows = [_row(outcome) for outcome in outcomes]
    done = [outcome.plan for outcome in outcomes if outcome.plan and not outcome.skipped and not outcome.error]
    if len(done) > 1 and len({plan.source for plan in done}) == len(done):
        before = sum(plan.bytes_before for plan in done)
        after = sum(plan.bytes_after for plan in done)
        rows.append([f"{len(done)} files", mib(before), mib(after), _saved(before, after), ""])
    return aligned([["LoRA", "MiB before", "after", "saved", "weight retention"], *rows])


def _row(outcome: Outcome) -> list[str]:
    if outcome.error is not None:
        return [Path(outcome.source).name, "", "", "failed", ""]
    if outcome.plan is None:
        return [outcome.skipped.name if outcome.skipped else outcome.source, "", "", "skipped", ""]
    plan = outcome.plan
    saved = "skipped" if outcome.skipped else _saved(plan.bytes_before, plan.bytes_after)
    return [Path(plan.output).name, mib(plan.bytes_before), mib(plan.bytes_after), saved, f"{plan.retention:.1%}"]


def _saved(before: int, after: int) -> str:
    saved = 1 - after / before
    return f"{saved:.1%}" if saved > 0.99 else f"{saved:.0%}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns of text: the first to the left, numbers to the right."""
    widths = [max(columns(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        gaps = [" " * (width - columns(cell)) for cell, width in zip(row, widths, strict=True)]
        cells = [row[0] + gaps[0], *(gap + cell for gap, cell in zip(gaps[1:], row[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def columns(text: str) -> int:
    """How many columns of a terminal a text takes: East Asian wide characters two, accents that combine none."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide - sum(unicodedata.combining(letter) > 0 for letter in text)


def notes(plan: Plan) -> Iterator[str]:
    """What the user should know of a plan, in lines."""
    if plan.bytes_after >= plan.bytes_before:
        yield "the new file is not smaller than the source"
    if plan.copied:
        kinds: dict[str, int] = {}
        for _, why in plan.copied:
            kinds[why] = kinds.get(why, 0) + 1
        yield "copied unchanged: " + ", ".join(f"{count} {why}" for why, count in sorted(kinds.items()))
    gone = len(plan.dropped) - len(set(plan.dropped) & set(plan.zero))
    if plan.zero:
        yield f"{len(plan.zero)} layers are zero" + ("" if set(plan.zero) - set(plan.dropped) else " and left out")
    if gone:
        yield f"{gone} of {len(plan.layers)} layers fall away"
    yield from plan.notes


def spectra_table(groups: Iterable[Group]) -> str:
    """One row a group of layers: how many dimensions do the work."""
    titles = ["layers of", "number", "effective rank", "first holds", "rank for 90 %", "for 99 % of energy"]
    rows = [
        [
            group.name,
            str(group.layers),
            f"{group.effective_rank:.1f}",
            f"{group.top_energy:.1%}",
            f"{group.rank_90:.1f}",
            f"{group.rank_99:.1f}",
        ]
        for group in groups
    ]
    return aligned([titles, *rows])


def thresholds(job: Job) -> Iterator[str]:
    """The lines of -v: recipe, threshold, sizes, total rank and quantiles of all scores."""
    plan = job.plan
    ranks = [layer.new_rank for layer in plan.layers]
    yield (
        f"{Path(plan.output).name}: recipe {plan.recipe}, "
        + ("no threshold" if plan.threshold is None else f"threshold {plan.threshold:.3f}")
        + f", total rank {sum(layer.old_rank for layer in plan.layers)} -> {sum(ranks)}"
        + f" ({min((r for r in ranks if r), default=0)} to {max(ranks, default=0)} per layer)"
    )
    if plan.layer_retention is not None:
        mean, deviation = plan.layer_retention
        yield f"Average Frobenius norm retention: {mean:.2%} | std: {deviation:0.3f}"
    scores = sorted(float(score) for layer in job.choice.scores for score in layer if math.isfinite(score))
    if scores:
        yield "Score quantiles: " + " ".join(f"{q:.2f}:{_quantile(scores, q):.3f}" for q in _QUANTILES)


def layer_lines(plan: Plan) -> Iterator[str]:
    """The lines of -vv, one a layer."""
    for layer in plan.layers:
        ckpt = "" if layer.error_ckpt is None else f" rle_ckpt: {layer.error_ckpt:.2%}"
        dims = f"dim: {layer.old_rank}->{layer.new_rank} rle_lora: {layer.error_lora:.2%}{ckpt} {layer.name}"
        yield " | ".join([dims, *([shares] if (shares := _shares(layer)) else [])])


def _shares(layer: LayerPlan) -> str:
    """What stays of a layer, in the words and digits of kohya's script; empty for a layer of zeros."""
    shown = [
        ("sum(S) retained", layer.sum_retained, ".1%"),
        ("fro retained", layer.fro_retained, ".1%"),
        ("max(S) ratio", layer.max_ratio, "0.1f"),
    ]
    return ", ".join(f"{word}: {value:{form}}" for word, value, form in shown if value is not None)


def as_json(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """The list that --report writes: an object for each output, or for each failure."""
    return [_object(outcome) for outcome in outcomes]


def _object(outcome: Outcome) -> dict[str, Any]:
    if outcome.error is not None:
        return {"source": outcome.source, "error": str(outcome.error)}
    if outcome.plan is None:
        return {"source": outcome.source, "output": str(outcome.skipped), "skipped": True}
    return outcome.plan.as_json() | ({"skipped": True} if outcome.skipped else {})


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Linear interpolation between neighbours."""
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
