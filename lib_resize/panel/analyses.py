"""LoRAs that were decomposed: kept in memory, so that plans are made of them without new linear algebra.

A kept analysis holds spectra and names but no part of the file, which stays free to be moved; to write, the file is
opened again and put back in its place.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..adapters.forms.form import Form
from ..adapters.forms.lora import LowRank
from ..adapters.layer import Adapter
from ..adapters.read.adapter import read_adapter
from ..adapters.write.float8 import float8_source
from ..adapters.write.style import Style
from ..base.checkpoint import Checkpoint
from ..base.checkpoint_keys import looks_like_checkpoint
from ..engine.analysing import analyse, needs_conversion, reattached, with_base_norms, with_conversion, without_tensors
from ..engine.analysis import Analysis
from ..engine.base_weights import needs_base
from ..engine.job import ResizeJob
from ..engine.planning import prepare
from ..engine.runtime import cpu_runtime
from ..errors import FileError, PairingError, ResizeError, UnsupportedError
from ..files.file_names import SUFFIX
from ..files.header import DTYPE_BYTES
from ..files.metadata import has_resize_record
from ..files.reader import SafeFile
from ..hosts.host import Host, LoraFile, plain_title
from ..hosts.live import open_reference
from ..names.families import block
from ..plans import Plan
from ..progress import Progress
from ..recipe.grammar import BASE_SCORES, PRESETS, Recipe, parse_recipe
from ..recipe.scores import LayerFacts
from ..recipe.select import Ranking, SelectionInput
from ..studies.catalogue import Stamp, stamp_of
from .faults import Fault
from .options import DEFAULT_SCORES, LOADED
from .references import NO_REFERENCE, ReferenceInfo, described, told

FLOOR = 0.88
"""Weight retention below which a plan warns."""
FLAT = 0.10
"""Share of the numbers that High must save, or the spectrum is flat."""
MOST_BYTES = 1 << 30
_OVERHEAD = 4096  # names and numbers beside the arrays, a layer
_POINTS = 200
_ANCHORS = 9  # points of the table whose files are sized exactly; the header grows evenly between them

Answer = dict[str, Any]
Warning_ = dict[str, Any]
BaseKey = tuple[str, str | None]
"""A base model: kind of choice and title."""


@dataclass
class CachedAnalysis:
    """One analysed LoRA."""

    lora: LoraFile
    stamp: Stamp
    analysis: Analysis
    """Without base, and without the numbers of its factors."""
    blocks: tuple[str, ...]
    """Block of every layer."""
    based: Analysis | None = None
    """The same with what recipes asked of the base so far."""
    base_key: BaseKey | None = None
    """Which base that was."""
    ground: BaseKey | None = None
    """Which base its own delta rests on; None for kinds that are known without."""
    asked: frozenset[str] = frozenset()
    """Scores that `based` can answer."""
    reference: ReferenceInfo = NO_REFERENCE
    shown: Answer | None = None
    """The table and all that the page shows, once made."""

    @property
    def bytes(self) -> int:
        """Memory that it takes, nearly."""
        held = (self.analysis, *self.analysis.others.values())
        return sum(one.nbytes + _OVERHEAD for analysis in held for one in analysis.spectra)

    @property
    def family(self) -> str | None:
        family = self.analysis.adapter.family
        return family.name if family else None


class Analyses:
    """The analysed LoRAs of a host, the latest used last; the oldest go when memory is short."""

    def __init__(self, host: Host, most_bytes: int = MOST_BYTES) -> None:
        self._host = host
        self._most = most_bytes
        self._kept: OrderedDict[str, CachedAnalysis] = OrderedDict()
        self._lock = threading.RLock()

    def get(self, lora: LoraFile) -> CachedAnalysis | None:
        """The analysis of a file as it is now; None where there is none."""
        with self._lock:
            kept = self._kept.get(lora.name)
            if kept is None:
                return None
            try:
                current = kept.lora.path == lora.path and kept.stamp == stamp_of(lora.path)
            except OSError:
                current = False
            if not current:
                del self._kept[lora.name]
                return None
            self._kept.move_to_end(lora.name)
            return kept

    def made(self, lora: LoraFile, progress: Progress, convert: str = "auto", choice: str = LOADED) -> CachedAnalysis:
        """The analysis of a file, made if need be, in all forms that `convert` asks for; `choice` is the reference,
        for kinds that rest on one. Raises what reading and decomposing raise, PairingError where it is missing."""
        kept = self.get(lora)
        if kept is None or rests_on_another(kept, choice, self._host):
            kept = _decomposed(lora, progress, convert, self._host, choice)
        elif needs_conversion(kept.analysis, convert):
            with cpu_runtime(progress) as tools, reopened(kept) as whole, grounded(whole, self._host, choice) as ground:
                seated = reattached(kept.analysis, whole, ground)
                kept.analysis = without_tensors(with_conversion(seated, convert, ground, (), tools))
            kept.based, kept.asked = None, frozenset()
        else:
            return kept
        with self._lock:
            self._kept[lora.name] = kept
            self._make_room(kept)
        return kept

    def with_base(
        self, kept: CachedAnalysis, recipes: Sequence[Recipe], choice: str, progress: Progress
    ) -> CachedAnalysis:
        """Measures what recipes need of the reference, unless that was done. Raises PairingError where it cannot."""
        if not needs_measuring(kept, recipes, choice, self._host):
            if kept.based is not None and any(recipe.needs_base for recipe in recipes):
                kept.reference = kept.reference.remembered()
            return kept
        asked = frozenset(name for recipe in recipes for name in recipe.weights) | (
            kept.asked if kept.base_key == base_key(choice, described(self._host, choice)) else frozenset()
        )
        opened = open_reference(self._host, choice)
        try:
            if opened.checkpoint is None:
                raise PairingError(no_reference(recipes[0], opened.note))
            _check_families(kept.analysis.adapter, told(opened))
            with cpu_runtime(progress) as tools, reopened(kept) as whole:
                wanted = [replace(recipes[0], weights=dict.fromkeys(asked, 1.0))]
                seated = reattached(kept.analysis, whole, opened.checkpoint)
                based = with_base_norms(seated, opened.checkpoint, wanted, tools)
            reference = told(opened)
        finally:
            opened.close()
        with self._lock:
            kept.based = without_tensors(based)
            kept.base_key, kept.asked, kept.reference = base_key(choice, reference), asked, reference
        return kept

    def _make_room(self, newest: CachedAnalysis) -> None:
        total = sum(kept.bytes for kept in self._kept.values())
        for name in list(self._kept):
            if total <= self._most or self._kept[name] is newest:
                break
            total -= self._kept.pop(name).bytes


# Making one ----------------------------------------------------------------------------------------------------


def _decomposed(lora: LoraFile, progress: Progress, convert: str, host: Host, choice: str) -> CachedAnalysis:
    stamp = _stamped(lora)
    with _read(lora.path) as adapter, grounded(adapter, host, choice) as ground, cpu_runtime(progress) as tools:
        analysis = without_tensors(analyse(adapter, ground, (), tools, convert=convert))
        blocks = tuple(block(layer.canonical) if layer.canonical else "OTHER" for layer in adapter.layers)
    if ground is None:
        return CachedAnalysis(lora, stamp, analysis, blocks)
    reference = described(host, choice)
    return CachedAnalysis(lora, stamp, analysis, blocks, ground=base_key(choice, reference), reference=reference)


def _stamped(lora: LoraFile) -> Stamp:
    try:
        return stamp_of(lora.path)
    except OSError as error:
        raise FileError(f"{lora.path}: {error.strerror}. Refresh the list.") from error


@contextlib.contextmanager
def _read(path: Path) -> Iterator[Adapter]:
    with SafeFile(path) as file:
        if looks_like_checkpoint(file.header.entries):
            raise UnsupportedError(f"{path}: this is a base model, not a LoRA.")
        yield read_adapter(file)


@contextlib.contextmanager
def reopened(kept: CachedAnalysis) -> Iterator[Adapter]:
    """The file of a kept analysis with all its numbers. Raises FileError where it is another one by now."""
    with _read(kept.lora.path) as adapter:
        stems = [layer.stem for layer in adapter.layers]
        if _stamped(kept.lora) != kept.stamp or stems != [layer.stem for layer in kept.analysis.adapter.layers]:
            raise FileError(f"{kept.lora.path}: changed since it was analysed. Try again.")
        yield adapter


# The base ------------------------------------------------------------------------------------------------------


def base_key(choice: str, reference: ReferenceInfo) -> BaseKey:
    return plain_title(choice), reference.title and plain_title(reference.title)


@contextlib.contextmanager
def grounded(adapter: Adapter, host: Host, choice: str) -> Iterator[Checkpoint | None]:
    """The base model that the deltas rest on, opened; None for kinds that are known without. Raises PairingError where
    there is none, or one of another family."""
    if not needs_base(adapter):
        yield None
        return
    opened = open_reference(host, choice)
    try:
        if opened.checkpoint is None:
            raise PairingError(_groundless(adapter, opened.note))
        _check_families(adapter, told(opened))
        yield opened.checkpoint
    finally:
        opened.close()


def _groundless(adapter: Adapter, why: str) -> str:
    kind = next(layer.form.kind for layer in adapter.layers if layer.form.needs_base)
    return (
        f"{adapter.name} is {kind}, whose delta depends on the base model that it was trained on. "
        f"{why or 'None was chosen.'} Pick it as the reference."
    )


def rests_on_another(kept: CachedAnalysis, choice: str, host: Host) -> bool:
    """Whether its delta was worked out with another base model than the one that is chosen now."""
    return kept.ground is not None and kept.ground != base_key(choice, described(host, choice))


def needs_measuring(kept: CachedAnalysis, recipes: Sequence[Recipe], choice: str, host: Host) -> bool:
    """Whether recipes ask something of the base that this analysis does not know yet."""
    wanted = frozenset(name for recipe in recipes for name in recipe.weights) & BASE_SCORES
    if not wanted:
        return False
    known = kept.asked if kept.base_key == base_key(choice, described(host, choice)) else frozenset[str]()
    return not wanted <= known


def no_reference(recipe: Recipe, why: str) -> str:
    """The sentence for a recipe that needs a base model where there is none."""
    return f"recipe {recipe} compares with a base model. {why or 'None was chosen.'} Pick one, or take a preset."


def _check_families(adapter: Adapter, reference: ReferenceInfo) -> None:
    family = adapter.family.name if adapter.family else None
    if family is not None and reference.family is not None and family != reference.family:
        raise PairingError(
            f"{adapter.name} is made for {family}, {reference.title} is {reference.family}. "
            f"Take a recipe that needs no base model, such as a preset, or pick another reference."
        )


def analysis_for(kept: CachedAnalysis, recipe: Recipe, choice: str, host: Host, convert: str = "auto") -> Analysis:
    """The facts that a recipe rests on. Raises Fault where they must be measured first, PairingError where that is
    hopeless."""
    if needs_conversion(kept.analysis, convert):
        raise Fault("not_analysed", f"{kept.lora.name} was not analysed as LoRA yet. Analyse it first.")
    if kept.ground is not None:
        _check_ground(kept, choice, host)
    if not recipe.needs_base:
        return kept.analysis
    reference = described(host, choice)
    if reference.kind == "none":
        raise PairingError(no_reference(recipe, reference.note))
    _check_families(kept.analysis.adapter, reference)
    if needs_measuring(kept, [recipe], choice, host) or kept.based is None:
        raise Fault("not_analysed", f"{kept.lora.name} was not compared with {reference.title} yet. Analyse it first.")
    return kept.based


def _check_ground(kept: CachedAnalysis, choice: str, host: Host) -> None:
    reference = described(host, choice)
    if reference.kind == "none":
        raise PairingError(_groundless(kept.analysis.adapter, reference.note))
    if rests_on_another(kept, choice, host):
        raise Fault("not_analysed", f"{kept.lora.name} was not analysed with {reference.title} yet. Analyse it first.")


# What the page is shown ----------------------------------------------------------------------------------------


def ranks_of(ranks: Sequence[int]) -> list[int]:
    """Smallest, median and largest of layers that stay."""
    staying = sorted(rank for rank in ranks if rank)
    return [staying[0], staying[len(staying) // 2], staying[-1]] if staying else [0, 0, 0]


def block_order(label: str) -> tuple[int, str]:
    """Text encoders first, then the denoiser from its input to its output."""
    order = ("TE", "TIME", "LABEL", "IN", "MID", "OUT")
    return next((place for place, start in enumerate(order) if label.startswith(start)), len(order)), label


def by_block(kept: CachedAnalysis, ranks: Sequence[int]) -> dict[str, float]:
    """Mean rank of each block's layers, in the model's order."""
    sums: dict[str, list[int]] = {}
    for label, rank in zip(kept.blocks, ranks, strict=True):
        sums.setdefault(label, []).append(rank)
    return {label: round(sum(sums[label]) / len(sums[label]), 2) for label in sorted(sums, key=block_order)}


def plan_blocks(kept: CachedAnalysis, plan: Plan) -> Answer:
    old, new = by_block(kept, old_ranks(kept)), by_block(kept, [layer.new_rank for layer in plan.layers])
    return {label: {"layers": kept.blocks.count(label), "old": old[label], "kept": new[label]} for label in old}


def old_ranks(kept: CachedAnalysis) -> list[int]:
    return [layer.rank for layer in kept.analysis.adapter.layers]


def shown(kept: CachedAnalysis, progress: Progress) -> Answer:
    """All that the page shows of an analysed LoRA, made once; see `Analysed` in docs/panel-protocol.md."""
    if kept.shown is None:
        kept.shown = _Showing(kept, progress).answer()
    return kept.shown


def warnings_of(kept: CachedAnalysis, reference: ReferenceInfo) -> list[Warning_]:
    """What is said of a LoRA before any recipe."""
    adapter, found = kept.analysis.adapter, []
    if all(layer.form.dtypes == {"F32"} for layer in adapter.layers):
        found.append(_warning("fp32", "fp32 file: half of it is free."))
    programs = float8_source(adapter.layers, adapter.family)
    if programs:
        found.append(_warning("fp8", "float8 file: {programs} cannot load it.", {"programs": ", ".join(programs)}))
    if adapter.family is None:
        found.append(_warning("unknown_family", "Unknown model family: its own norms are used."))
    elif reference.family is not None and reference.family != adapter.family.name:
        families = {"family": adapter.family.name, "loaded": reference.family}
        found.append(_warning("other_family", "{family} LoRA, {loaded} loaded: will use its own norms.", families))
    if has_resize_record(adapter.metadata):
        found.append(_warning("resized", "Resized already: what was lost then stays lost. Better take the original."))
    return found


def plan_warnings(plan: Plan, floor: float = FLOOR) -> list[Warning_]:
    """What is said of a plan."""
    found = []
    if plan.bytes_after >= plan.bytes_before:
        found.append(_warning("not_smaller", "The new file would not be smaller than this one."))
    if plan.retention < floor:
        shares = {"retention": f"{100 * plan.retention:.1f} %", "floor": f"{100 * floor:.0f} %"}
        template = "Weight retention {retention} is under {floor}: expect visible change."
        found.append(_warning("low_retention", template, shares))
    return found


def _warning(kind: str, template: str, values: Mapping[str, str] | None = None) -> Warning_:
    """`text` is for those who read English; `template` and `values` are for those who translate."""
    return {"kind": kind, "text": template.format(**values or {}), "template": template, "values": dict(values or {})}


def preset_job(
    kept: CachedAnalysis, recipe: Recipe, style: Style | None = None, analysis: Analysis | None = None
) -> ResizeJob:
    """The plan of a recipe under a name of usual length."""
    return prepare(
        analysis or kept.analysis, recipe, style or Style(), lambda _: Path(f"{kept.lora.path.stem}_00mb{SUFFIX}")
    )


class _Showing:
    """Makes the table, the presets and the blocks of one LoRA."""

    def __init__(self, kept: CachedAnalysis, progress: Progress) -> None:
        self._kept = kept
        self._progress = progress
        self._style = Style()
        self._layers = kept.analysis.adapter.layers

    def answer(self) -> Answer:
        self._progress.start("sizes", len(PRESETS) + _ANCHORS)
        jobs = {name: self._job(parse_recipe(name)) for name in PRESETS}
        kept = self._kept
        flat = self._is_flat(jobs["high"])
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

    def _job(self, recipe: Recipe, analysis: Analysis | None = None) -> ResizeJob | None:
        try:
            return preset_job(self._kept, recipe, self._style, analysis)
        except ResizeError:
            return None
        finally:
            self._progress.step()

    def _preset(self, job: ResizeJob | None) -> Answer | None:
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

    def _blocks(self, jobs: Mapping[str, ResizeJob | None]) -> Answer:
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

    def _is_flat(self, high: ResizeJob | None) -> Warning_ | None:
        if high is None:
            return None
        layers = high.analysis.adapter.layers
        whole = sum(_numbers(layer.form, layer.rank) for layer in self._layers)
        left = sum(_numbers(layer.form, rank) for rank, layer in zip(high.choice.ranks, layers, strict=True))
        saved = 1 - left / whole
        if saved >= FLAT:
            return None
        template = "Its spectrum is flat: High would save {saved}. Perhaps it was extracted from a checkpoint."
        return _warning("flat", template, {"saved": f"{max(0.0, 100 * saved):.0f} %"})

    def _table(self, medium: ResizeJob | None) -> list[Answer]:
        """Of the form that the middle preset takes, where there are two."""
        analysis = medium.analysis if medium is not None else self._kept.analysis
        recipe = parse_recipe(f"{DEFAULT_SCORES},retain=1")
        curve = _Curve(analysis, Ranking(recipe, SelectionInput(analysis.layers)), self._style)
        counts = curve.counts(_POINTS)
        anchors = sorted({counts[round(i * (len(counts) - 1) / (_ANCHORS - 1))] for i in range(_ANCHORS)})
        heads = [self._head(analysis, curve, count) for count in anchors]
        known = [(anchor, head) for anchor, head in zip(anchors, heads, strict=True) if head is not None]
        if not known:
            return []
        grown = np.interp(counts, [count for count, _ in known], [head for _, head in known])
        return [curve.point(count, head) for count, head in zip(counts, grown, strict=True)]

    def _head(self, analysis: Analysis, curve: _Curve, count: int) -> int | None:
        """Bytes of a point's file beside the numbers of its factors."""
        recipe = replace(parse_recipe(f"{DEFAULT_SCORES},retain=1"), value=curve.retention(count))
        job = self._job(recipe, replace(analysis, others={}))
        return None if job is None else job.plan.bytes_after - curve.data(job.choice.ranks)


class _Curve:
    """The order in which a recipe lets dimensions go, and what is left at each count of them."""

    def __init__(self, analysis: Analysis, ranking: Ranking, style: Style) -> None:
        layers, adapter = analysis.layers, analysis.adapter
        self._ranking = ranking
        self._together = adapter.together
        sizes = [_sizes(layer.form, facts, style) for layer, facts in zip(adapter.layers, layers, strict=True)]
        self._sizes = np.concatenate(sizes)
        self._places = np.cumsum([0] + [len(part) for part in sizes[:-1]])
        self._forced = np.array([len(forced) for forced in ranking.forced], np.int64)
        squares = [facts.s * facts.s for facts in layers]
        held = sum(float(part[index].sum()) for part, index in zip(squares, ranking.forced, strict=True))
        whole = sum(float(part.sum()) for part in squares)
        starts = np.cumsum([0] + [len(part) for part in squares])
        flat = np.concatenate(squares)
        running = held + np.concatenate([[0.0], np.cumsum(flat[starts[ranking.layer] + ranking.index])])
        self._retention = np.sqrt(np.minimum(running / whole, 1.0)) if whole > 0 else np.ones(len(running))
        marginal = np.concatenate([np.diff(part) for part in sizes])
        self._size = np.concatenate([[0], np.cumsum(marginal[starts[ranking.layer] + ranking.index])])

    def counts(self, points: int) -> list[int]:
        """Numbers of free dimensions, rising: half of them even in bytes, half even in retention."""
        last = len(self._ranking.layer)
        half = points // 2
        by_size = np.searchsorted(self._size, np.linspace(self._size[0], self._size[-1], half))
        by_share = np.searchsorted(self._retention, np.linspace(self._retention[0], self._retention[-1], half))
        return sorted({int(min(count, last)) for count in (0, last, *by_size, *by_share)})

    def retention(self, count: int) -> float:
        """As a recipe's text holds it, so that it brings this point again."""
        return max(1e-6, float(np.floor(self._retention[count] * 1e6) / 1e6))

    def ranks(self, count: int) -> list[int]:
        new = self._forced + np.bincount(self._ranking.layer[:count], minlength=len(self._forced))
        for group in self._together:
            if any(new[i] for i in group):
                for i in group:
                    new[i] = max(new[i], 1)
        return [int(rank) for rank in new]

    def data(self, ranks: Sequence[int]) -> int:
        """Bytes of the factors' numbers."""
        return int(self._sizes[self._places + np.array(ranks, np.int64)].sum())

    def point(self, count: int, head: float) -> Answer:
        ranks = self.ranks(count)
        threshold = float(self._ranking.flat[count - 1]) if count else None
        return {
            "retention": self.retention(count),
            "bytes": round(self.data(ranks) + head),
            "ranks": ranks_of(ranks),
            "layers_gone": ranks.count(0),
            "threshold": None if threshold is None else round(threshold, 4),
        }


def _sizes(form: Form, facts: LayerFacts, style: Style) -> NDArray[np.int64]:
    """Bytes of a layer's numbers at every rank, (r + 1,)."""
    if isinstance(form, LowRank):  # most files hold nothing else, and a file of a thousand layers must not wait
        return np.arange(form.rank + 1, dtype=np.int64) * _bytes(form, 1, style)
    standing = np.arange(form.rank + 1) if facts.stored_ranks is None else facts.stored_ranks
    return np.array([_bytes(form, int(rank), style) for rank in standing], np.int64)


def _bytes(form: Form, rank: int, style: Style) -> int:
    slots = form.slots(rank) if rank else ()
    return sum(DTYPE_BYTES[style.dtype or slot.dtype] * prod(slot.shape) for slot in slots)


def _numbers(form: Form, rank: int) -> int:
    return sum(prod(slot.shape) for slot in form.slots(rank)) if rank else 0
