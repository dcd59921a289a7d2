"""Plans and surveys as text: the table at the end, the lines of -v and -vv, and the objects of the JSON report."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..plans import LayerPlan, Plan
from ..recipe.grammar import PRESETS
from ..shown import MIB, mib, shown

if TYPE_CHECKING:
    from ..engine.job import ResizeJob
    from ..engine.settings import Outcome
    from ..studies.spectra import Group
    from ..studies.survey import Survey
    from ..studies.survey_store import SurveyedFile

_MOST_OF_NAME = 260  # characters: more than any file system allows
_QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)


class Summary:
    """The table at the end of a run: one row for each result, and a sum for several files with one recipe.

    It keeps only the text of each row, so that outcomes can be freed.
    """

    def __init__(self) -> None:
        self._rows: list[list[str]] = []
        self._sources: set[str] = set()
        self._totals = Totals()

    def __bool__(self) -> bool:
        return bool(self._rows)

    @property
    def failed(self) -> bool:
        return self._totals.failed > 0

    def add(self, outcome: Outcome) -> None:
        """Add a row."""
        self._rows.append([shown(cell, _MOST_OF_NAME) for cell in _row(outcome)])
        self._totals.add(outcome)
        if outcome.plan and not outcome.skipped and outcome.declined is None and not outcome.error:
            self._sources.add(outcome.plan.source)

    def table(self) -> str:
        """Return the rows in columns."""
        rows, sums = list(self._rows), self._totals
        if 1 < sums.results == len(self._sources):
            before, after = sums.bytes_before, sums.bytes_after
            rows.append([f"{sums.results} files", mib(before), mib(after), _saved(before, after), ""])
        return aligned([["LoRA", "MiB before", "after", "saved", "weight retention"], *rows])


@dataclass
class Totals:
    """The sums of a run, in files and bytes."""

    results: int = 0
    failed: int = 0
    skipped: int = 0
    bytes_before: int = 0
    """Size of the sources of all results; a source counts once for each recipe."""
    bytes_after: int = 0

    def add(self, outcome: Outcome) -> None:
        """Add an outcome."""
        if outcome.error is not None:
            self.failed += 1
        elif outcome.skipped is not None or outcome.declined is not None or outcome.plan is None:
            self.skipped += 1
        else:
            self.results += 1
            self.bytes_before += outcome.plan.bytes_before
            self.bytes_after += outcome.plan.bytes_after

    def as_json(self) -> dict[str, int]:
        """Return the sums as JSON values."""
        return asdict(self)


def _row(outcome: Outcome) -> list[str]:
    if outcome.error is not None:
        return [Path(outcome.source).name, "", "", "failed", ""]
    if outcome.declined is not None:
        return [Path(outcome.source).name, "", "", "left alone", ""]
    if outcome.plan is None:
        return [outcome.skipped.name if outcome.skipped else outcome.source, "", "", "skipped", ""]
    plan = outcome.plan
    saved = "skipped" if outcome.skipped else _saved(plan.bytes_before, plan.bytes_after)
    return [Path(plan.output).name, mib(plan.bytes_before), mib(plan.bytes_after), saved, f"{plan.retention:.1%}"]


def _saved(before: int, after: int) -> str:
    saved = 1 - after / before
    return f"{saved:.1%}" if saved > 0.99 else f"{saved:.0%}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as text: the first column aligned left, the others right."""
    widths = [max(columns(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        gaps = [" " * (width - columns(cell)) for cell, width in zip(row, widths, strict=True)]
        cells = [row[0] + gaps[0], *(gap + cell for gap, cell in zip(gaps[1:], row[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def columns(text: str) -> int:
    """Return the width of a text in a terminal: wide East Asian characters count 2, combining accents 0."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide - sum(unicodedata.combining(letter) > 0 for letter in text)


def notes(plan: Plan) -> Iterator[str]:
    """Yield what the user should know of a plan, in lines."""
    if plan.bytes_after >= plan.bytes_before:
        yield "the new file is not smaller than the source"
    if plan.copied:
        kinds: dict[str, int] = {}
        for _, why in plan.copied:
            kinds[why] = kinds.get(why, 0) + 1
        yield "copied unchanged: " + ", ".join(f"{count} {why}" for why, count in sorted(kinds.items()))
    gone = len(plan.dropped) - len(set(plan.dropped) & set(plan.zero))
    if plan.zero:
        yield f"{len(plan.zero)} layers are zero" + ("" if set(plan.zero) - set(plan.dropped) else " and were removed")
    if gone:
        yield f"{gone} of {len(plan.layers)} layers removed"
    yield from plan.notes


def spectra_table(groups: Iterable[Group]) -> str:
    """Return one row for each group of layers: how many dimensions matter."""
    titles = ["layers", "number", "effective rank", "energy of first", "rank for 90 %", "for 99 % of energy"]
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


def survey_headers(seen: Survey) -> str:
    """Return the facts from the headers of a folder."""
    kinds = Counter(f"{e.facts.family or 'unknown family'} {e.facts.kind}" for e in seen.entries if e.facts.kind)
    ranks = Counter(e.facts.rank for e in seen.entries if e.facts.rank)
    lines = [f"{seen.name}: {len(seen.entries)} files, {_large(seen.bytes)}"]
    lines += [f"  {', '.join(f'{count} {name}' for name, count in kinds.most_common(8))}"] if kinds else []
    lines += [f"  rank {', '.join(f'{rank} ({count})' for rank, count in ranks.most_common(8))}"] if ranks else []
    return "\n".join(lines)


def survey_text(seen: Survey) -> str:
    """Return what could be freed, and which files to look at. Estimates are marked ``~``."""
    about = "~" if any(e.figures and not e.figures.exact for e in seen.entries) else ""
    rows = [[name, about + _large(seen.bytes - seen.freed(name)), about + _large(seen.freed(name))] for name in PRESETS]
    parts = [aligned([["preset", "folder size", "freed"], *rows])]
    parts += [
        part for part in (_duplicates(seen), *(_listed(seen, *row) for row in _KINDS), _most(seen, about)) if part
    ]
    return "\n\n".join(parts)


_Describe = Callable[[Any], "str | None"]

_KINDS: tuple[tuple[str, _Describe], ...] = (
    ("in float32, which float16 halves", lambda e: _large(e.bytes) if e.is_fp32 else None),
    ("already resized", lambda e: f"from {e.facts.source}" if e.facts.source else None),
    ("with layers that are zero", lambda e: _zeros(e)),
    ("that cannot be resized", lambda e: e.problem),
)
_SHOWN = 8


def _zeros(entry: SurveyedFile) -> str | None:
    if entry.figures is None or not entry.figures.zero:
        return None
    return f"{'' if entry.figures.exact else '~'}{entry.figures.zero} of {entry.facts.layers}"


def _listed(seen: Survey, title: str, describe: _Describe) -> str:
    found = [(entry, text) for entry in seen.entries if (text := describe(entry))]
    if not found:
        return ""
    lines = [f"  {entry.path.relative_to(seen.folder).as_posix()}: {text}" for entry, text in found[:_SHOWN]]
    more = [f"  and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    return "\n".join([f"{len(found)} files {title}:", *lines, *more])


def _duplicates(seen: Survey) -> str:
    if not seen.duplicates:
        return ""
    groups = [", ".join(path.relative_to(seen.folder).as_posix() for path in group) for group in seen.duplicates]
    more = [f"  and {len(groups) - _SHOWN} more"] if len(groups) > _SHOWN else []
    copies = sum(len(group) - 1 for group in seen.duplicates)
    title = f"{copies} files are exact copies of others, {_large(seen.duplicate_bytes)}:"
    return "\n".join([title, *(f"  {group}" for group in groups[:_SHOWN]), *more])


def _most(seen: Survey, about: str) -> str:
    """Return the files of which the largest part would be freed."""
    entries = sorted((e for e in seen.entries if e.is_over_provisioned), key=lambda e: e.freed("medium"), reverse=True)
    if not entries:
        return ""
    rows = [
        [
            entry.path.relative_to(seen.folder).as_posix(),
            str(entry.facts.rank),
            f"{about}{entry.figures.effective_rank:.1f}" if entry.figures else "",
            mib(entry.bytes),
            *(about + mib(entry.bytes - entry.freed(preset)) for preset in PRESETS),
        ]
        for entry in entries[: 2 * _SHOWN]
    ]
    head = ["LoRA", "rank", "effective", "MiB", *PRESETS]
    more = f"\nand {len(entries) - len(rows)} more" if len(entries) > len(rows) else ""
    return f"{len(entries)} files of which high frees more than half:\n{aligned([head, *rows])}{more}"


def _large(size: int) -> str:
    """Return a size in MiB, or in GiB from 1 GiB on."""
    return f"{size / (MIB << 10):.2f} GiB" if size >= MIB << 10 else f"{mib(size)} MiB"


def thresholds(job: ResizeJob) -> Iterator[str]:
    """Yield the lines of -v: recipe, threshold, total rank and quantiles of all scores."""
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
    """Yield the lines of -vv, one for each layer."""
    for layer in plan.layers:
        ckpt = "" if layer.error_ckpt is None else f" rle_ckpt: {layer.error_ckpt:.2%}"
        dims = f"dim: {layer.old_rank}->{layer.new_rank} rle_lora: {layer.error_lora:.2%}{ckpt} {layer.name}"
        yield " | ".join([dims, *([shares] if (shares := _shares(layer)) else [])])


def _shares(layer: LayerPlan) -> str:
    """Return what is kept of a layer, in the format of kohya's script; empty for a layer of zeros."""
    shown = [
        ("sum(S) retained", layer.sum_retained, ".1%"),
        ("fro retained", layer.fro_retained, ".1%"),
        ("max(S) ratio", layer.max_ratio, "0.1f"),
    ]
    return ", ".join(f"{word}: {value:{form}}" for word, value, form in shown if value is not None)


def as_json(outcome: Outcome, *, layers: bool = False) -> dict[str, Any]:
    """Return an outcome as `--report` writes it."""
    if outcome.error is not None:
        return {"source": outcome.source, "error": str(outcome.error)}
    if outcome.declined is not None:
        return {"source": outcome.source, "left": outcome.declined}
    if outcome.plan is None:
        return {"source": outcome.source, "output": str(outcome.skipped), "skipped": True}
    return outcome.plan.as_json(layers=layers) | ({"skipped": True} if outcome.skipped else {})


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Return a quantile, with linear interpolation."""
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
