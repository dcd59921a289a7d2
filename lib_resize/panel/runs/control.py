"""All runs of a host, those that this service works on and those on the disk: listed, paused, stopped."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...errors import ResizeError
from ...hosts.host import Host
from ..archives import Archives
from ..faults import Fault
from ..protocol.types import Json
from ..queue import Queue
from ..results import now
from . import document as is_
from .document import RunDocument, RunItem
from .store import MOST, RunStore

RUNS = "runs"
"""The folder of runs, in the trash."""
_ALLOWED = {
    "pause": (is_.RUNNING,),
    "continue": (is_.PAUSED, is_.INTERRUPTED),
    "stop": (is_.RUNNING, is_.PAUSED, is_.INTERRUPTED),
}
"""Action -> the states in which it is possible."""
_REFUSED = {
    "pause": "The run is {state}. Only a run that is running can be paused.",
    "continue": "The run is {state}. Only a run that is paused or interrupted can be continued.",
    "stop": "The run is {state}. Only a run that is running, paused or interrupted can be stopped.",
}


class Halted(Exception):  # noqa: N818 - the user asked for it
    """A run is to be paused or stopped; `state` is its new one."""

    def __init__(self, state: str) -> None:
        super().__init__(state)
        self.state = state


@dataclass
class LiveRun:
    """A run that this service works on."""

    run: RunDocument
    descriptor: int
    """Of the locked file."""
    job: str = ""
    wanted: str | None = None
    """The state that the user asked for."""
    is_reconciled: bool = False
    """Whether files that a crash left unrecorded were looked for."""

    def check(self) -> None:
        """Raise Halted where the run is to be paused or stopped."""
        if self.wanted is not None:
            raise Halted(self.wanted)


class Runs:
    """The runs of a host. Every method may be called from any thread."""

    def __init__(self, host: Host, queue: Queue, archives: Archives) -> None:
        self.store = RunStore(host.trash_root() / RUNS)
        self._queue = queue
        self._archives = archives
        self._lock = threading.RLock()
        self._live: dict[str, LiveRun] = {}
        self._known: dict[str, tuple[Any, RunDocument]] = {}
        self._recovered: list[str] = []
        self._closing = False
        queue.at_end = self.release_all

    # Runs that this service works on ---------------------------------------------------------------------------

    def own(self, run: RunDocument) -> LiveRun:
        """Record a run, and keep other programs from it. Raises Fault and OutputError."""
        with self._lock:
            descriptor = self.store.lock(run.id)
            if descriptor is None:
                raise Fault("refused", "Another program works on this run. Pause or stop it there.")
            live = self._live[run.id] = LiveRun(run, descriptor)
            try:
                run.state, run.ended, run.message = is_.RUNNING, None, ""
                self.store.write(run)
            except ResizeError:
                self._release(live)
                raise
        return live

    def live(self, id: str) -> LiveRun:
        """Return a run that this service works on."""
        with self._lock:
            return self._live[id]

    def is_closing(self) -> bool:
        """Return whether the service ends: its runs are then interrupted, not stopped."""
        return self._closing

    def set(self, live: LiveRun, index: int, item: RunItem) -> None:
        """Change a file of a run, and record it once it is finished. Raises OutputError where it cannot be recorded."""
        with self._lock:
            live.run.items[index] = item
        if item.is_finished:
            self.store.append(live.run.id, index, item)

    def finish(self, live: LiveRun, state: str, message: str = "") -> None:
        """End the work on a run. A disk that is full keeps what was recorded before."""
        with self._lock:
            run = live.run
            run.items[:] = [
                replace(item, state=is_.WAITING) if item.state == is_.WORKING else item for item in run.items
            ]
            run.state, run.message = state, message
            run.ended = now() if state in (is_.DONE, is_.STOPPED) else None
            with contextlib.suppress(ResizeError):
                self.store.write(run)
            self._release(live)

    def leave(self, live: LiveRun) -> None:
        """End the work on a run that another service may continue."""
        with self._lock:
            self._release(live)

    def _release(self, live: LiveRun) -> None:
        if self._live.pop(live.run.id, None) is not None:
            self._known[live.run.id] = (self.store.stamp(live.run.id), live.run)
            self.store.unlock(live.descriptor)

    # All runs --------------------------------------------------------------------------------------------------

    def answer(self) -> Json:
        """Return the answer of `runs`."""
        with self._lock:
            self._end_cancelled()
            found = [self._get(id) for id in {*self.store.ids(), *self._live}]
            runs = sorted((run for run in found if run is not None), key=lambda run: run.began, reverse=True)
            recovered, self._recovered = self._recovered, []
        for run in runs[MOST:]:
            self.store.remove(run.id)
        there = _ids_in(self._archives)
        return {"runs": [self.to_json(run, there) for run in runs[:MOST]], "recovered": recovered}

    def get(self, id: str) -> RunDocument:
        """Return a run. Raises Fault."""
        with self._lock:
            self._end_cancelled()
            run = self._get(id)
        if run is None:
            raise Fault("gone", f"There is no run {id!r}. The list of runs shows those that are kept.")
        return run

    def _get(self, id: str) -> RunDocument | None:
        if id in self._live:
            return self._live[id].run
        stamp = self.store.stamp(id)
        known = self._known.get(id)
        if known is None or known[0] != stamp:
            run = self.store.read(id)
            if run is None:
                return None
            known = self._known[id] = (stamp, run)
        return known[1]

    def _end_cancelled(self) -> None:
        """Stop runs whose job was cancelled before it began."""
        for live in [one for one in self._live.values() if one.job and not self._queue.knows(one.job, active=True)]:
            if not self._closing:
                self.finish(live, is_.STOPPED)

    def state(self, run: RunDocument) -> str:
        """Return the state of a run: one that nobody works on any more is interrupted."""
        if run.state != is_.RUNNING or run.id in self._live or self.store.is_locked(run.id):
            return run.state
        return is_.INTERRUPTED

    def halt(self, id: str, action: str) -> None:
        """Pause or stop a run. Raises Fault where that is impossible."""
        run = self.check(id, action)
        state = is_.PAUSED if action == "pause" else is_.STOPPED
        with self._lock:
            live = self._live.get(id)
            if live is not None:
                live.wanted = state
                if self._queue.cancel(
                    [live.job], only_waiting=True
                ):  # it waits for its turn: nothing has to be stopped
                    self.finish(live, state)
            elif self.state(run) == is_.RUNNING:
                raise Fault("refused", "Another program works on this run. Pause or stop it there.")
            else:
                self.finish(self.own(run), state)

    def check(self, id: str, action: str) -> RunDocument:
        """Return a run that an action is possible for. Raises Fault."""
        run = self.get(id)
        state = self.state(run)
        if state not in _ALLOWED[action]:
            raise Fault("refused", _REFUSED[action].format(state=state))
        return run

    def recovered(self, texts: list[str]) -> None:
        """Keep what the start completed or reverted, until it was shown once."""
        with self._lock:
            self._recovered += texts

    def close(self) -> None:
        """Let runs be interrupted by the end of the service, and not be stopped."""
        self._closing = True

    def release_all(self) -> None:
        """Let other services continue the runs that have not begun here."""
        with self._lock:
            for live in [one for one in self._live.values() if not self._queue.knows(one.job, active=True)]:
                self._release(live)

    # The protocol ----------------------------------------------------------------------------------------------

    def items(self, run: RunDocument) -> list[RunItem]:
        """Return the files of a run; those whose originals are not in the archive any more are restored or purged."""
        return _settled(run.items, _ids_in(self._archives))

    def to_json(self, run: RunDocument, there: Collection[str] | None = None) -> Json:
        """Return the `Library run` of the protocol; `there` are the ids of the archive, None: as they are now."""
        there = _ids_in(self._archives) if there is None else there
        state, live = self.state(run), self._live.get(run.id)
        return {
            "run": run.id,
            "began": run.began,
            "ended": run.ended,
            "state": state,
            "message": run.message,
            "recipe": run.order.recipe,
            "effect": None if run.order.effect is None else run.order.effect["target"],
            "fit": run.order.fit is not None,
            "originals": run.order.originals,
            **_counts(_settled(run.items, there)),
            "share": run.share,
            "seconds_left": run.seconds_left if state == is_.RUNNING else None,
            "job": live.job or None if live is not None else None,
        }


def _counts(items: Sequence[RunItem]) -> Json:
    made = [item for item in items if item.state in (is_.RESIZED, is_.PURGED)]
    before, after = sum(item.bytes for item in made), sum(item.bytes_after or 0 for item in made)
    return {
        "files": len(items),
        "done": sum(item.is_finished for item in items),
        "resized": len(made),
        **{state: sum(item.state == state for item in items) for state in _COUNTED},
        "bytes_before": before,
        "bytes_after": after,
        "freed": before - after,
        "archived": sum(item.bytes for item in made if item.entry is not None),
    }


_COUNTED = (is_.LEFT, is_.FAILED, is_.RESTORED)


def _ids_in(archives: Archives) -> frozenset[str]:
    return frozenset(entry.id for entry in archives.entries())


def _settled(items: Sequence[RunItem], there: Collection[str]) -> list[RunItem]:
    return [_settled_item(item, there) for item in list(items)]


def _settled_item(item: RunItem, there: Collection[str]) -> RunItem:
    """Return the present state of a resized file: the archive and the disk have it, also after the command line."""
    if item.state != is_.RESIZED or item.entry is None or item.entry in there:
        return item
    try:
        is_original = item.path.stat().st_size == item.bytes
    except OSError:
        is_original = False
    return replace(item, state=is_.RESTORED if is_original else is_.PURGED, entry=None)
