"""One job: what it does, how far it is, and how long it will take."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .protocol.types import Json

if TYPE_CHECKING:
    from .queue import Handle

QUEUED, WAITS, RUNNING = "queued", "waits", "running"
DONE, FAILED, CANCELLED = "done", "failed", "cancelled"
ACTIVE = frozenset((QUEUED, WAITS, RUNNING))


@dataclass(frozen=True)
class JobSpec:
    """The work of a job, and how the page shows it."""

    kind: str
    """The method that asked for it; one of `Job.kind` of the protocol."""
    title: str
    run: Callable[[Handle], Any]
    """Does the work and returns the job's result as JSON values. Calls the handle often, to be cancelled."""
    name: str = ""
    """The file that it begins with."""
    file: int = 1
    files: int = 1
    bytes: int = 0
    """How much there is to read, for the time left."""
    recipe: str | None = None
    work: str | None = None
    """Of a `shrink`: id of its run."""
    key: str | None = None
    """Source, recipe and options as one text; equal for equal orders."""
    background: bool = False
    """It runs when nothing of the foreground waits, and gives way at `Handle.give_way`."""
    idle: bool = False
    """It runs when nothing else waits at all, and gives way to everything."""
    skipped: float = 0.0
    """Share of the work that was done before the job, 0 to 1."""
    stop: Callable[[], None] | None = None
    """Called where the running job is cancelled, to interrupt what does not call the handle."""

    @property
    def rank(self) -> int:
        """0 for the foreground, 1 for the background, 2 for what is done when nothing else waits."""
        return 2 if self.idle else int(self.background)


def _no_work(_: Handle) -> None:
    """The work of a job that has ended."""


@dataclass(eq=False)
class QueuedJob:
    """A job and its state. Changed only under the queue's lock."""

    spec: JobSpec
    batch: str
    """The same for all jobs of one call."""
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    state: str = QUEUED
    stage: str = ""
    done: int = 0
    total: int = 0
    file: int = 1
    name: str = ""
    trial: Json | None = None
    """Of a search: the size that it measured last."""
    result: Any = None
    error: Json | None = None
    revision: int = 0
    cancel: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    began: float = 0.0
    """Moment of the monotonic clock at which it began to run."""
    worked: float = 0.0
    """Seconds that it ran before it gave way."""
    share: float = 0.0
    """Share of its work that earlier files and stages have done, 0 to 1."""
    portion: float = 0.0
    """Share of its work that this stage is."""

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE

    @property
    def elapsed(self) -> float:
        """Seconds that it has run, pauses left out."""
        return self.worked + (time.monotonic() - self.began if self.began else 0.0)

    @property
    def part(self) -> float:
        """Share of its work that is done, 0 to 1."""
        return self.share + (self.portion * self.done / self.total if self.total else 0.0)

    def end(self, state: str) -> None:
        self.state, self.stage, self.done, self.total, self.trial = state, "", 0, 0, None
        self.spec = replace(self.spec, run=_no_work, stop=None)  # what it worked with may be large, such as images
        self.ended.set()

    def pause(self) -> None:
        """Make it a queued job again that has done a part of its work."""
        self.worked, self.began = self.elapsed, 0.0
        self.state, self.stage, self.done, self.total = QUEUED, "", 0, 0

    def seconds_left(self, expected: float | None) -> float | None:
        """Return the time left, from its own progress, or else from the `expected` time of the whole job."""
        if self.state == RUNNING and self.began:
            part = self.part - self.spec.skipped
            if part > 0.02 and self.elapsed > 0.3:
                return max(0.0, self.elapsed / part * (1.0 - self.part))
            return None if expected is None else max(0.0, expected - self.elapsed)
        return None if expected is None else max(0.0, expected - self.worked)

    def to_json(self, place: int, seconds_left: float | None) -> Json:
        """Return the `Job` of the protocol; `place` is the number of jobs ahead."""
        return {
            "id": self.id,
            "batch": self.batch,
            "kind": self.spec.kind,
            "title": self.spec.title,
            "state": self.state,
            "place": place,
            "stage": self.stage,
            "done": self.done,
            "total": self.total,
            "file": self.file,
            "files": self.spec.files,
            "name": self.name,
            "recipe": self.spec.recipe,
            "run": self.spec.work,
            "share": self.part,
            "seconds_left": seconds_left,
            "trial": self.trial,
            "result": self.result,
            "error": self.error,
        }


class Pace:
    """Seconds per byte, as measured on earlier jobs of each kind; for the time left of jobs that have not begun.

    Other kinds of work have another measure than bytes.
    """

    def __init__(self) -> None:
        self._known: dict[str, float] = {}

    def measured(self, kind: str, amount: int, seconds: float) -> None:
        if amount > 0:
            before = self._known.get(kind)
            now = seconds / amount
            self._known[kind] = now if before is None else 0.7 * before + 0.3 * now

    def known(self, kind: str) -> float | None:
        """Return the pace of a kind; None where it was never measured."""
        return self._known.get(kind)

    def seconds(self, spec: JobSpec) -> float | None:
        pace = self._known.get(spec.kind)
        return None if pace is None or not spec.bytes else pace * spec.bytes
