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
from ...engine.runtime import cpu_runtime
from ...engine.writing import execute
from ...errors import OutputError, PairingError
from ...files.atomic import is_in_use
from ...hosts.host import LoraFile
from ...plans import Plan
from ...recipe.grammar import Recipe
from ..analyses import reopened
from ..bases import analysis_for, open_required_base
from ..desk import Desk
from ..options import Options
from ..queue import Handle
from ..references import reference_info
from ..results import effect_json
from . import document as is_
from .by_images import FoundFile, NoSize, found_file
from .document import RunItem, RunOrder
from .reasons import Asked, reason

_SEARCH = 0.9
"""Share of the search in the work on a file."""


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
    def __init__(self, left: Reason, plan: Plan | None = None) -> None:
        super().__init__(left.message)
        self.left = left
        self.plan = plan


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
    except PairingError as error:
        done = _left(item, Reason("reference", desk.folders.without(str(error))), None)
    return replace(done, seconds=round(max(time.monotonic() - began, 1e-3), 3))


def _check(desk: Desk, lora: LoraFile, order: ShrinkOrder) -> None:
    """Raise where the file must be left alone: it may have changed since the run was planned."""
    try:
        facts = desk.library.facts(lora)
    except OSError as error:
        raise _NotResized(Reason("missing", f"It cannot be read any more: {error.strerror}.")) from error
    asked = Asked(order.recipe, reference_info(desk.snapshot(), order.options.reference), order.limits.again)
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
    try:
        found = _by_images(desk, order, lora, source, handle)
        part = handle if found is None else handle.part(_SEARCH, 1 - _SEARCH, handle.check)
        plan, digest = _written(desk, order, source, staged, part, found)
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


def _by_images(desk: Desk, order: ShrinkOrder, lora: LoraFile, source: LoraFile, handle: Handle) -> FoundFile | None:
    """Find the file by its images, where the run asks for that."""
    if order.limits.effect is None:
        return None
    part = handle.part(0.0, _SEARCH, handle.check)
    try:
        return found_file(desk, lora, source, order.options, order.limits.effect, part)
    except NoSize as error:
        raise _NotResized(Reason(error.kind, str(error))) from error


def _written(
    desk: Desk, order: ShrinkOrder, source: LoraFile, staged: Path, handle: Handle, found: FoundFile | None
) -> tuple[Plan, str]:
    """Write the new file under a temporary name; return its plan, and the SHA-256 of its source."""
    options, recipe = order.options, order.recipe
    handle.portion(0.0, 0.6)
    kept = desk.analyses.made(source, handle, options.convert, options.reference)
    desk.analyses.with_base(kept, [recipe], options.reference, handle)
    analysis = analysis_for(kept, recipe, options.reference, desk.host, options.convert)
    handle.portion(0.6, 0.4)
    with (
        reopened(kept) as adapter,
        open_required_base(adapter, desk.host, options.reference) as base,
        cpu_runtime(handle) as tools,
    ):
        digest = tools.pool.submit(adapter.files[0].sha256)
        style = replace(options.style, keep_name=True)
        whole = reattached(analysis, adapter, base)

        def plan_of(one: Recipe) -> ResizeJob:
            return prepare(whole, one, style, lambda _: staged)

        job = with_float8_errors(plan_of(recipe) if found is None else found.planned(plan_of), tools)
        check_limits(job.plan, order.limits)
        handle.check()
        plan = execute(job, tools, [digest.result()])
        return plan, digest.result()


def check_limits(plan: Plan, limits: RunOrder) -> None:
    """Raise where a file would gain too little, or lose too much."""
    if plan.bytes_after >= plan.bytes_before or 100 * plan.saved < limits.least_gain:
        gain = f"It would become smaller by {100 * max(0.0, plan.saved):.1f} %, less than {limits.least_gain:g} %."
        raise _NotResized(Reason("gain", gain), plan)
    if limits.floor is not None and plan.retention < limits.floor - 1e-9:
        kept = f"Its weight retention would be {plan.retention:.1%}, less than {limits.floor:.1%}."
        raise _NotResized(Reason("floor", kept), plan)


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
