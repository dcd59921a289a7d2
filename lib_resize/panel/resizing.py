"""Resize one LoRA: plan it under the name that it will have, then write it next to its source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ..engine.analysing import reattached
from ..engine.analysis import Analysis
from ..engine.job import ResizeJob
from ..engine.measuring import with_float8_errors
from ..engine.planning import prepare
from ..engine.runtime import Runtime
from ..engine.settings import Refine
from ..engine.stamping import with_effect
from ..engine.writing import execute
from ..errors import OutputError
from ..files.effect_record import EffectRecord
from ..files.file_names import names_in_tree
from ..files.metadata import FitRecord
from ..files.reader import SafeFile
from ..files.sidecars import SidecarFacts, copy_sidecars, has_sidecars
from ..hosts.device_jobs import host_runtime
from ..hosts.host import Host, LoraFile
from ..plans import Plan
from ..recipe.grammar import Recipe
from ..shown import MIB
from .analyses import Analyses, reopened
from .bases import analysis_for, open_required_base
from .cached import CachedAnalysis
from .curve import ranks_of
from .figures import old_ranks, plan_blocks
from .lora_warnings import plan_warnings, warnings_of
from .names import NameFacts, filled, folded, new_path, output_folder
from .options import Options
from .preferences import read_preferences
from .protocol.types import Json
from .queue import Handle
from .references import NO_REFERENCE, ReferenceInfo, reference_info
from .snapshot import HostLists, Snapshot

_TRIES = 4  # until the size in a name is the size of the file that has this name


@dataclass(frozen=True)
class NewFile:
    """A file that was written, or is about to be."""

    plan: Plan
    path: Path
    sidecars: tuple[Path, ...]
    notes: tuple[str, ...]
    """Notes besides those of the plan."""
    reference: ReferenceInfo = NO_REFERENCE
    """The base model that it depends on."""


BeforeWriting = Callable[[Plan, Path], None]
"""Called with the plan and the path right before the file appears."""

Namer = Callable[[str], Path]
"""From a stem to a path with this stem, or a similar one, that is free."""


def namer(host: HostLists, lora: LoraFile, options: Options, taken: set[str]) -> Namer:
    """Return the namer for the results of a LoRA. Raises Fault where `options.folder` is no folder name."""
    folder = output_folder(lora.path, host.lora_roots(), options.folder)
    return lambda stem: new_path(folder, stem, taken)


def listed_names(host: HostLists) -> set[str]:
    """Return the names of the host's list, folded: enough for a plan."""
    loras = host.loras()
    return folded({lora.name for lora in loras} | {lora.path.stem for lora in loras} | _aliases(loras))


def all_names(host: HostLists) -> set[str]:
    """Return the names of the host's list and of all files below its roots, folded. Hosts know a LoRA by its name,
    in any folder."""
    names = listed_names(host)
    for root in host.lora_roots():
        names |= names_in_tree(root)
    return names


def _aliases(loras: Sequence[LoraFile]) -> set[str]:
    return {alias for lora in loras for alias in lora.aliases}


def planned(
    analysis: Analysis,
    recipe: Recipe,
    options: Options,
    name: Namer,
    effect: EffectRecord | None = None,
    fit: FitRecord | None = None,
) -> ResizeJob:
    """Plan a file under the name that contains its own size. Raises what `prepare` raises.

    `effect` is what the file's record says of images; the recipe chooses as without it. `fit` is the longest record of
    a fit to come.
    """
    source = analysis.adapter.paths[0]
    ending = filled(options.suffix, _guess(analysis, recipe))
    for _ in range(_TRIES):
        wished = name(source.stem + ending)
        job = prepare(analysis, recipe, options.style, partial(_always, wished), fit=fit)
        job = job if effect is None else with_effect(job, effect)
        right = filled(options.suffix, _name_facts(job))
        if right == ending:
            break
        path = name(source.stem + right)
        if len(path.name) == len(job.path.name):  # a name of the same length makes a file of the same length
            return replace(job, path=path, plan=replace(job.plan, output=str(path)))
        ending = right
    return job


def _always(path: Path, _: str) -> Path:
    return path


def _guess(analysis: Analysis, recipe: Recipe) -> NameFacts:
    """Guess with the right number of digits, mostly, so that one plan is enough."""
    bytes = (
        min(recipe.value * MIB, analysis.adapter.bytes) if recipe.selection == "size" else analysis.adapter.bytes / 4
    )
    return NameFacts(int(bytes), 0.9, 10)


def _name_facts(job: ResizeJob) -> NameFacts:
    return NameFacts(job.plan.bytes_after, job.plan.retention, max(job.choice.ranks, default=0))


def plan_json(kept: CachedAnalysis, order: ResizeOrder, host: HostLists) -> Json:
    """Return the `Plan` of the protocol.

    Raises Fault, and what planning raises.
    """
    recipe, options = order.recipe, order.options
    analysis = analysis_for(kept, recipe, options.reference, host, options.convert)
    taken = listed_names(host) | folded(order.taken)
    job = planned(analysis, recipe, options, namer(host, order.lora, options, taken))
    plan, reference = job.plan, reference_info(host, options.reference)
    return {
        "name": kept.lora.name,
        "output": job.path.stem,
        "bytes_before": plan.bytes_before,
        "bytes_after": plan.bytes_after,
        "saved": plan.saved,
        "retention": plan.retention,
        "ranks": ranks_of(job.choice.ranks),
        "ranks_before": ranks_of(old_ranks(kept)),
        "layers": len(plan.layers),
        "layers_gone": len(plan.dropped),
        "threshold": plan.threshold,
        "notes": list(plan.notes),
        "warnings": [
            *warnings_of(kept, reference, host),
            *plan_warnings(plan, read_preferences(host.settings()).floor),
        ],
        "recipe": plan.recipe,
        "blocks": plan_blocks(kept, plan),
        "reference": used_by(kept, recipe).to_json(),
    }


def used_by(kept: CachedAnalysis, recipe: Recipe) -> ReferenceInfo:
    """Return the reference that a result depends on; none where it depends on no base model."""
    return kept.reference if recipe.needs_base or kept.delta_base is not None else NO_REFERENCE


@dataclass(frozen=True)
class ResizeOrder:
    """One file that is to be written."""

    lora: LoraFile
    """It gives the new file its name and its sidecars."""
    source: LoraFile
    """What is read: the same file, or its original in the archive."""
    recipe: Recipe
    options: Options
    taken: frozenset[str] = frozenset()
    """Stems that must stay free, besides those of all files."""


def finish(
    job: ResizeJob, runtime: Runtime, digests: Sequence[Future[str]], handle: Handle, before_writing: BeforeWriting
) -> Plan:
    """Measure and write a planned file; `digests` are the SHA-256 of its sources, hex.

    Raises Cancelled, and what measuring and writing raise.
    """
    job = with_float8_errors(job, runtime)
    handle.check()
    before_writing(job.plan, job.path)
    return execute(job, runtime, [digest.result() for digest in digests])


def write(
    analyses: Analyses,
    host: Host,
    order: ResizeOrder,
    handle: Handle,
    before_writing: BeforeWriting,
    *,
    effect: EffectRecord | None = None,
    refine: Refine | None = None,
) -> NewFile:
    """Write the file, with `effect` in its record, and with the factors that `refine` makes of the planned ones.

    Raises Cancelled, and what reading, planning and writing raise; no file is left behind then.
    """
    lora, recipe, options = order.lora, order.recipe, order.options
    analysed, last = (0.6, 0.4) if refine is None else (0.2, 0.1)
    handle.portion(0.0, analysed)
    kept = analyses.made(order.source, handle, options.convert, options.reference)
    analyses.with_base(kept, [recipe], options.reference, handle)
    analysis = analysis_for(kept, recipe, options.reference, host, options.convert)
    handle.portion(1.0 - last, last)
    with (
        reopened(kept) as adapter,
        open_required_base(adapter, host, options.reference) as base,
        host_runtime(host, handle) as tools,
    ):
        digest = tools.pool.submit(adapter.files[0].sha256)
        lists = Snapshot(host)
        name = namer(lists, lora, options, all_names(lists) | folded(order.taken))
        longest = None if refine is None else refine.longest
        job = planned(reattached(analysis, adapter, base), recipe, options, name, effect, longest)
        if refine is not None:
            job = refine(job, replace(tools, progress=handle.part(analysed, 1.0 - analysed - last, handle.check)))
            handle.portion(1.0 - last, last)
        plan = finish(job, tools, [digest], handle, before_writing)
        source_sha256 = digest.result()
    copies, notes = sidecars_of(lora.path, job.path, source_sha256) if options.sidecars else ((), ())
    return NewFile(plan, job.path, copies, (*notes, *tools.placement.notes), used_by(kept, recipe))


def sidecars_of(lora: Path, target: Path, digest: str) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Copy the sidecars; return the copies, and a note where some could not be made: the LoRA itself is written."""
    if not has_sidecars(lora):
        return (), ()
    try:
        with SafeFile(target) as file:
            facts = SidecarFacts(bytes=file.header.file_bytes, sha256=file.sha256(), source_sha256=digest)
        return tuple(copy_sidecars(lora, target, facts=facts)), ()
    except OutputError as error:
        return (), (str(error),)
