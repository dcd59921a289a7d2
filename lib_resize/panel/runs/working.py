"""The work on a run: one job of the queue, file by file; what a crash left unrecorded is found first."""

from __future__ import annotations

from dataclasses import replace

from ...errors import Cancelled, ResizeError
from ...files.atomic import is_full
from ..archives import plain
from ..desk import Desk
from ..jobs import JobSpec
from ..options import Options, exact_recipes, read_options
from ..protocol.types import Json
from ..queue import GaveWay, Handle
from . import document as is_
from .control import Halted, LiveRun
from .document import RunDocument, RunItem
from .one_file import InUse, ShrinkOrder, shrink


def begin(desk: Desk, run: RunDocument) -> str:
    """Begin or continue a run; return the id of its job. Raises Fault and OutputError."""
    live = desk.runs.own(run)
    waiting = run.waiting
    spec = JobSpec(
        kind="shrink",
        title=f"Shrink {len(run.items)} LoRAs" if len(run.items) > 1 else f"Shrink {run.items[0].name}",
        run=lambda handle: _work(desk, live, handle),
        name=run.items[waiting[0]].name if waiting else "",
        file=len(run.items) - len(waiting) + 1 if waiting else len(run.items),
        files=len(run.items),
        bytes=0 if run.order.has_images else sum(run.items[index].bytes for index in waiting),
        recipe=run.order.recipe,
        work=run.id,
        background=True,
        skipped=run.share if waiting else 0.0,
        stop=desk.host.stop_generating if run.order.has_images else None,
    )
    try:
        live.job = desk.queue.add(spec)
    except ResizeError:
        desk.runs.finish(live, is_.PAUSED)
        raise
    return live.job


def _work(desk: Desk, live: LiveRun, handle: Handle) -> Json:
    try:
        _all(desk, live, handle)
    except GaveWay:
        raise
    except Halted as halted:
        desk.runs.finish(live, halted.state)
    except Cancelled:
        _cancelled(desk, live)
        raise
    except Exception as error:
        desk.runs.finish(live, is_.PAUSED, desk.error(error)["message"])
        if not is_full(error):
            raise
    else:
        desk.runs.finish(live, is_.DONE)
    desk.files_moved()
    return desk.runs.to_json(live.run)


def _cancelled(desk: Desk, live: LiveRun) -> None:
    """The user stopped the job; or the service ends, and the next one can continue the run."""
    if desk.runs.is_closing():
        desk.runs.leave(live)
    else:
        desk.runs.finish(live, is_.STOPPED)
        desk.files_moved()


def _all(desk: Desk, live: LiveRun, handle: Handle) -> None:
    desk.recovered.wait()
    if not live.is_reconciled:
        _reconcile(desk, live)
        live.is_reconciled = True
    order = _order(desk, live.run)
    in_use = [index for index in live.run.waiting if not _one(desk, live, index, order, handle, is_last=False)]
    for index in in_use:
        _one(desk, live, index, order, handle, is_last=True)


def _order(desk: Desk, run: RunDocument) -> ShrinkOrder:
    recipe = exact_recipes(run.order.recipe)[0]
    return ShrinkOrder(run.id, recipe, _options(run), run.order, desk.archives.archive())


def _options(run: RunDocument) -> Options:
    return read_options(run.order.options, remote=False)


def _one(desk: Desk, live: LiveRun, index: int, order: ShrinkOrder, handle: Handle, *, is_last: bool) -> bool:
    """Finish a file; return False where another program has it open, and it is not the last try.

    Raises GaveWay, Halted, Cancelled, and OutputError where the disk is full.
    """
    live.check()
    handle.give_way()
    item = live.run.items[index]
    handle.file(index + 1, item.name)
    part = handle.part(live.run.share, _share_of(live.run, item), live.check)
    part.portion(0.0, 0.0)
    part.wait_for_host()
    desk.runs.set(live, index, replace(item, state=is_.WORKING))
    try:
        done = shrink(desk, order, item, part)
    except InUse as error:
        if not is_last:
            desk.runs.set(live, index, item)
            return False
        message = desk.folders.without(str(error))
        done = replace(item, state=is_.LEFT, reason="in_use", message=message, seconds=1e-3)
    except (GaveWay, Halted, Cancelled):
        desk.runs.set(live, index, item)
        raise
    except Exception as error:  # the next file must be resized, after any exception
        if is_full(error):
            desk.runs.set(live, index, item)
            raise
        done = replace(item, state=is_.FAILED, reason="error", message=desk.error(error)["message"], seconds=1e-3)
    desk.runs.set(live, index, done)
    if done.state == is_.RESIZED:
        desk.files_moved()
    return True


def _share_of(run: RunDocument, item: RunItem) -> float:
    """Return the share of a file in the bytes that the run works through."""
    total = sum(one.bytes for one in run.items if one.seconds or not one.is_finished)
    return item.bytes / total if total else 1.0


# After a crash -------------------------------------------------------------------------------------------------


def _reconcile(desk: Desk, live: LiveRun) -> None:
    """Record the files that the run had replaced when its process was killed: the archive has an entry of each."""
    by_home = desk.archives.by_home()
    for index in live.run.waiting:
        item = live.run.items[index]
        entry = by_home.get(plain(item.path))
        if entry is not None and entry.run == live.run.id:
            done = replace(
                item,
                state=is_.RESIZED,
                bytes=entry.bytes_before,
                bytes_after=entry.bytes_after,
                retention=_number(entry.facts.get("retention")),
                notes=tuple(map(str, entry.facts.get("notes", ()))),
                entry=entry.id,
                seconds=1e-3,
            )
            desk.runs.set(live, index, done)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
