"""One file of a run: analysed, planned, written next to itself, checked, and put in the place of its original."""

from __future__ import annotations

import contextlib
import gc
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from ...archive.links import Reason
from ...archive.place import Archive
from ...archive.replacing import Replacement, staged_path
from ...archive.replacing import replace as replace_file
from ...engine.analysing import reattached
from ...engine.job import ResizeJob
from ...engine.measuring import with_float8_errors
from ...engine.planning import prepare
from ...engine.runtime import Runtime
from ...engine.settings import Refine
from ...engine.writing import execute
from ...errors import OutputError, PairingError
from ...files.atomic import is_in_use
from ...files.effect_record import EffectRecord
from ...files.header import read_header
from ...files.restamping import OUTPUT_NAME
from ...hosts.device_jobs import host_runtime
from ...hosts.host import LoraFile
from ...plans import Plan
from ...recipe.grammar import Recipe
from ...shrinking.limits import Limits, too_little
from ..analyses import reopened
from ..bases import analysis_for, open_required_base
from ..desk import Desk
from ..faults import Fault
from ..options import Options
from ..picturing.drawn import DrawnFile
from ..picturing.own_prompts import own_settings
from ..picturing.refining import refine_for, with_prompt
from ..queue import Handle
from ..references import loaded_info, reference_info
from ..results import effect_json
from . import document as is_
from .by_images import FoundFile, NoSize, found_file
from .document import RunItem, RunOrder
from .reasons import Asked, reason

_SEARCH = 0.9
"""Share of the search in the work on a file."""
_WRITING = 0.1
"""Share of writing a file that was fitted."""


@dataclass(frozen=True)
class ShrinkOrder:
    """How the files of a run are made."""

    run: str
    recipe: Recipe
    options: Options
    limits: RunOrder
    archive: Archive


class InUse(Exception):  # noqa: N818 - the file is tried again
    """Another program has the file open."""


class _NotResized(Exception):  # noqa: N818 - a decision
    def __init__(self, left: Reason, plan: Plan | None = None, effect: EffectRecord | None = None) -> None:
        super().__init__(left.message)
        self.left = left
        self.plan = plan
        self.effect = effect


def shrink(desk: Desk, order: ShrinkOrder, item: RunItem, handle: Handle) -> RunItem:
    """Return the finished item of a file.

    Raises InUse, Cancelled, control.Halted, and what reading, planning and writing raise; the file is unchanged then.
    """
    began = time.monotonic()
    lora = desk.snapshot().loras().at(item.path) or LoraFile(item.name, item.path)
    try:
        _check(desk, lora, order)
        done = _shrunk(desk, order, lora, item, handle)
    except _NotResized as refused:
        done = _left(item, refused.left, refused.plan)
        if refused.effect is not None:
            done = replace(done, effect=effect_json(refused.effect))
    except (Fault, PairingError) as error:
        if isinstance(error, Fault) and error.kind != "reference":
            raise
        done = _left(item, Reason("reference", desk.folders.without(str(error))), None)
    return replace(done, seconds=round(max(time.monotonic() - began, 1e-3), 3))


def _check(desk: Desk, lora: LoraFile, order: ShrinkOrder) -> None:
    """Raise where the file must be left alone: it may have changed since the run was planned."""
    try:
        facts = desk.library.facts(lora)
    except OSError as error:
        raise _NotResized(Reason("missing", f"It cannot be read any more: {error.strerror}.")) from error
    lists, limits = desk.snapshot(), order.limits
    model = loaded_info(lists) if limits.has_images else None
    asked = Asked(order.recipe, reference_info(lists, order.options.reference), limits.again, model)
    is_replaced = desk.archives.source(lora) is not lora
    left = reason(lora, facts, asked, is_replaced=is_replaced)
    if left is not None:
        raise _NotResized(replace(left, message=desk.folders.without(left.message)))


def _left(item: RunItem, left: Reason, plan: Plan | None) -> RunItem:
    figures = {} if plan is None else {"bytes_after": plan.bytes_after, "retention": plan.retention}
    return replace(item, state=is_.LEFT, reason=left.kind, message=left.message, **figures)  # type: ignore[arg-type]


def _shrunk(desk: Desk, order: ShrinkOrder, lora: LoraFile, item: RunItem, handle: Handle) -> RunItem:
    source = desk.archives.checked_source(lora)
    staged = staged_path(lora.path)
    found: FoundFile | None = None
    try:
        found = _by_images(desk, order, lora, handle)
        part = handle if found is None else handle.part(_SEARCH, 1 - _SEARCH, handle.check)
        drawn = None if found is None else found.drawn()
        if drawn is not None:
            plan, digest = _copied(drawn, order, source, staged, part)
        else:
            plan, digest = _written(desk, order, source, staged, part, found, _refine(desk, order, lora, source))
        notes = tuple(desk.folders.without(note) for note in plan.notes)
        facts = {"recipe": plan.recipe, "retention": plan.retention, "notes": list(notes)}
        keep = order.limits.originals == is_.ARCHIVED
        handle.wait_for_host()
        handle.check()
        entry = _replaced(
            desk, order.archive, Replacement(lora.path, staged, digest, order.run, lora.name, keep, facts)
        )
    finally:
        with contextlib.suppress(OSError):
            staged.unlink(missing_ok=True)
        if found is not None:
            found.close()
    return replace(
        item,
        state=is_.RESIZED,
        bytes=plan.bytes_before,
        bytes_after=plan.bytes_after,
        retention=plan.retention,
        notes=notes,
        entry=entry,
        effect=None if found is None else effect_json(found.record),
    )


def _by_images(desk: Desk, order: ShrinkOrder, lora: LoraFile, handle: Handle) -> FoundFile | None:
    """Find the file by its images, where the run asks for that."""
    if order.limits.effect is None:
        return None
    part = handle.part(0.0, _SEARCH, handle.check)
    try:
        return found_file(desk, lora, order.options, order.limits.effect, order.limits.fit, part)
    except NoSize as error:
        raise _NotResized(Reason(error.kind, str(error)), effect=error.record) from error


def _refine(desk: Desk, order: ShrinkOrder, lora: LoraFile, source: LoraFile) -> Refine | None:
    """Return the fit of a LoRA, with its own prompt; None where nothing is fitted, or a search did that."""
    if order.limits.fit is None or order.limits.effect is not None:
        return None
    fit, lists = order.limits.fit, desk.snapshot()
    own = own_settings(lora, fit["settings"], lists.loras())
    return refine_for(desk, lora, source, with_prompt(fit, own), lists)


def _copied(drawn: DrawnFile, order: ShrinkOrder, source: LoraFile, staged: Path, handle: Handle) -> tuple[Plan, str]:
    """Copy the file that was drawn; return its plan, and the SHA-256 of its source."""
    name = read_header(source.path).metadata.get(OUTPUT_NAME)
    plan = drawn.planned(staged, name)
    check_limits(plan, order.limits)
    handle.portion(0.0, 1.0)
    drawn.write(staged, name, handle)
    return plan, drawn.candidate.source_sha256


def _written(
    desk: Desk,
    order: ShrinkOrder,
    source: LoraFile,
    staged: Path,
    handle: Handle,
    found: FoundFile | None,
    refine: Refine | None,
) -> tuple[Plan, str]:
    """Write the new file under a temporary name; return its plan, and the SHA-256 of its source."""
    options, recipe = order.options, order.recipe
    analysed = 0.6 if refine is None else 0.2
    handle.portion(0.0, analysed)
    kept = desk.analyses.made(source, handle, options.convert, options.reference)
    desk.analyses.with_base(kept, [recipe], options.reference, handle)
    analysis = analysis_for(kept, recipe, options.reference, desk.host, options.convert)
    handle.portion(analysed, 1.0 - analysed)
    with (
        reopened(kept) as adapter,
        open_required_base(adapter, desk.host, options.reference) as base,
        host_runtime(desk.host, handle) as tools,
    ):
        digest = tools.pool.submit(adapter.files[0].sha256)
        style = replace(options.style, keep_name=True)
        whole, longest = reattached(analysis, adapter, base), None if refine is None else refine.longest

        def plan_of(one: Recipe) -> ResizeJob:
            return prepare(whole, one, style, lambda _: staged, fit=longest)

        job = plan_of(recipe) if found is None else found.planned(plan_of)
        if refine is not None:
            check_limits(job.plan, order.limits)  # before any image
            job = _fitted(job, refine, tools, analysed, handle)
        job = with_float8_errors(job, tools)
        check_limits(job.plan, order.limits)
        handle.check()
        plan = execute(job, tools, [digest.result()])
        return plan, digest.result()


def _fitted(job: ResizeJob, refine: Refine, tools: Runtime, analysed: float, handle: Handle) -> ResizeJob:
    """Return the job with fitted factors; the fit is all of the work but the analysis and the last tenth."""
    fitting = handle.part(analysed, 1.0 - analysed - _WRITING, handle.check)
    job = refine(job, replace(tools, progress=fitting))
    handle.portion(1.0 - _WRITING, _WRITING)
    return job


def check_limits(plan: Plan, order: RunOrder) -> None:
    """Raise where a file would gain too little, or lose too much."""
    left = too_little(plan, Limits(order.least_gain / 100, order.floor or 0.0))
    if left is not None:
        raise _NotResized(replace(left, message=f"The file is left alone: {left.message}."), plan)


def _replaced(desk: Desk, archive: Archive, replacement: Replacement) -> str | None:
    """Put the new file in the place of its original, while no image is made; return the id of the entry.

    Raises InUse where another program has the file open, and OutputError.
    """
    home = replacement.source
    try:
        with desk.host.lock():
            if sys.platform == "win32":  # the host itself may have the file open, which Windows does not replace
                desk.host.replaced([home])
                gc.collect()
            entry = replace_file(archive, replacement)
            desk.host.replaced([home])
    except OutputError as error:
        if is_in_use(error):
            raise InUse(str(error)) from error
        raise
    desk.analyses.forget(replacement.name)
    return entry.id if entry.original is not None else None
