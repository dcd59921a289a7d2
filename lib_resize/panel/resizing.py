"""One LoRA resized for the panel: planned under the name that it will have, then written beside its source."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..adapters.layer import Adapter
from ..engine.analysing import reattached
from ..engine.analysis import Analysis
from ..engine.job import ResizeJob
from ..engine.measuring import with_float8_errors
from ..engine.planning import prepare
from ..engine.runtime import cpu_runtime
from ..engine.writing import execute
from ..errors import OutputError
from ..files.file_names import names_in_tree
from ..files.reader import SafeFile
from ..files.sidecars import SidecarFacts, copy_sidecars, has_sidecars
from ..hosts.host import Host, LoraFile
from ..plans import Plan
from ..recipe.grammar import Recipe
from .analyses import (
    Analyses,
    CachedAnalysis,
    analysis_for,
    grounded,
    old_ranks,
    plan_blocks,
    plan_warnings,
    ranks_of,
    reopened,
    warnings_of,
)
from .names import MIB, NameFacts, filled, folded, new_path, output_folder
from .options import Options
from .preferences import read_preferences
from .queue import Handle
from .references import NO_REFERENCE, ReferenceInfo, described

_TRIES = 4  # until a name tells the size of the file that bears it


@dataclass(frozen=True)
class Written:
    """One result, as it came out."""

    plan: Plan
    path: Path
    sidecars: tuple[Path, ...]
    notes: tuple[str, ...]
    """What did not go as wished, beside the plan's."""
    reference: ReferenceInfo = NO_REFERENCE
    """Which base model its numbers rest on."""


Announce = Callable[[Plan, Path], None]
"""Called with what is about to be written, and where."""

Namer = Callable[[str], Path]
"""From the wished stem to a path that nobody has."""


def namer(host: Host, lora: LoraFile, options: Options, taken: set[str]) -> Namer:
    """Raises Fault for a folder that is none."""
    folder = output_folder(lora.path, host.lora_roots(), options.folder)
    return lambda stem: new_path(folder, stem, taken)


def listed_names(host: Host) -> set[str]:
    """Folded names of the host's list: enough for a plan."""
    loras = host.loras()
    return folded({lora.name for lora in loras} | {lora.path.stem for lora in loras} | _aliases(loras))


def all_names(host: Host) -> set[str]:
    """Folded names of the host's list and of all files below its roots, for hosts know a LoRA by that alone."""
    names = listed_names(host)
    for root in host.lora_roots():
        names |= names_in_tree(root)
    return names


def _aliases(loras: Sequence[LoraFile]) -> set[str]:
    return {lora.alias for lora in loras if lora.alias}


def planned(analysis: Analysis, recipe: Recipe, options: Options, name: Namer) -> ResizeJob:
    """The job under the name that tells its own size. Raises what `jobs.prepare` raises."""
    source = analysis.adapter.paths[0]
    ending = filled(options.suffix, _guess(analysis, recipe))
    for _ in range(_TRIES):
        wished = name(source.stem + ending)
        job = prepare(analysis, recipe, options.style, partial(_always, wished))
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
    """Right in its number of digits, mostly, so that one look is enough."""
    bytes = (
        min(recipe.value * MIB, analysis.adapter.bytes) if recipe.selection == "size" else analysis.adapter.bytes / 4
    )
    return NameFacts(int(bytes), 0.9, 10)


def _name_facts(job: ResizeJob) -> NameFacts:
    return NameFacts(job.plan.bytes_after, job.plan.retention, max(job.choice.ranks, default=0))


def plan_answer(
    kept: CachedAnalysis, recipe: Recipe, options: Options, host: Host, taken: Collection[str] = ()
) -> dict[str, Any]:
    """What `plan` answers; `taken` are names that a restore will need again. Raises Fault, and what planning raises."""
    analysis = analysis_for(kept, recipe, options.reference, host, options.convert)
    job = planned(analysis, recipe, options, namer(host, kept.lora, options, listed_names(host) | folded(taken)))
    plan, reference = job.plan, described(host, options.reference)
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
        "warnings": [*warnings_of(kept, reference), *plan_warnings(plan, read_preferences(host.settings()).floor)],
        "recipe": plan.recipe,
        "blocks": plan_blocks(kept, plan),
        "reference": used_by(kept, recipe).as_json(),
    }


def used_by(kept: CachedAnalysis, recipe: Recipe) -> ReferenceInfo:
    """The reference that a result rests on; none for a recipe that compares with no base model."""
    return kept.reference if recipe.needs_base or kept.ground is not None else NO_REFERENCE


@dataclass(frozen=True)
class Order:
    """One file that is to be made."""

    lora: LoraFile
    recipe: Recipe
    options: Options
    taken: frozenset[str] = frozenset()
    """Stems that must stay free, beside those of all files."""


def write(analyses: Analyses, host: Host, order: Order, handle: Handle, announce: Announce) -> Written:
    """Makes the file; `announce` is called right before it appears.

    Raises Cancelled and whatever goes wrong; then nothing was left behind.
    """
    lora, recipe, options = order.lora, order.recipe, order.options
    handle.portion(0.0, 0.6)
    kept = analyses.made(lora, handle, options.convert, options.reference)
    analyses.with_base(kept, [recipe], options.reference, handle)
    analysis = analysis_for(kept, recipe, options.reference, host, options.convert)
    handle.portion(0.6, 0.4)
    with reopened(kept) as adapter, grounded(adapter, host, options.reference) as ground, cpu_runtime(handle) as tools:
        digest = tools.pool.submit(adapter.files[0].sha256)
        name = namer(host, lora, options, all_names(host) | folded(order.taken))
        job = planned(reattached(analysis, adapter, ground), recipe, options, name)
        job = with_float8_errors(job, tools)
        handle.check()
        announce(job.plan, job.path)
        plan = execute(job, tools, [digest.result()])
        source_sha256 = digest.result()
    copies, notes = _sidecars(adapter, job.path, source_sha256) if options.sidecars else ((), ())
    return Written(plan, job.path, copies, notes, used_by(kept, recipe))


def _sidecars(adapter: Adapter, target: Path, digest: str) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """The copies, and what to say where some could not be made: the LoRA itself is whole by now."""
    lora = adapter.paths[0]
    if not has_sidecars(lora):
        return (), ()
    try:
        with SafeFile(target) as file:
            facts = SidecarFacts(bytes=file.header.file_bytes, sha256=file.sha256(), source_sha256=digest)
        return tuple(copy_sidecars(lora, target, facts=facts)), ()
    except OutputError as error:
        return (), (str(error),)
