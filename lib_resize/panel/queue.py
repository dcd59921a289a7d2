"""Jobs, one after the other, in one thread of ours: told of while they run, and stopped without a trace."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import Cancelled
from ..hosts.host import Host
from .faults import Fault, told

QUEUED, WAITS, RUNNING = "queued", "waits", "running"
DONE, FAILED, CANCELLED = "done", "failed", "cancelled"
ACTIVE = frozenset((QUEUED, WAITS, RUNNING))

_LOOK_SECONDS = 0.2  # how often a waiting job looks whether the host is free
_TELL_SECONDS = 0.1  # the host's own progress is told no more often
_STOP_SECONDS = 0.2  # how often a cancelled job's picture is stopped again, as it may not have begun the first time
_KEPT_JOBS = 1000
_KEPT_ANALYSES = 20  # their results are long
MOST_ADDED = 5_000
"""Jobs of one call."""
MOST_ACTIVE = 10_000
"""Jobs that have not ended."""

Answer = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """What is to be done, and how the page calls it."""

    kind: str
    """``analyse``, ``resize``, ``bake``, ``extract`` or ``compare``."""
    title: str
    run: Callable[[Handle], Any]
    """Does it and returns the job's result, JSON values. Asks the handle often whether to stop."""
    name: str = ""
    """The file that it begins with."""
    file: int = 1
    files: int = 1
    bytes: int = 0
    """How much there is to read, for the time left."""
    recipe: str | None = None
    key: str | None = None
    """What is made of what, in one text; equal for equal orders."""
    background: bool = False
    """It runs when nothing else waits, and gives way at `Handle.give_way`."""
    stop: Callable[[], None] | None = None
    """Called where the running job is cancelled, to wake up what does not ask the handle."""


def check_amount(jobs: int) -> None:
    """Raises Fault where one call asks for too many."""
    if jobs > MOST_ADDED:
        raise Fault(
            "refused",
            f"That would be {jobs:,} jobs; one call makes {MOST_ADDED:,} at most. Select fewer LoRAs or fewer recipes.",
        )


class GaveWay(Exception):  # noqa: N818 - it is no error
    """A background job stopped between two pieces of work, and is run again later."""


@dataclass(eq=False)
class QueuedJob:
    """One piece of work and what became of it. Changed only under the queue's lock."""

    id: str
    work: Work
    batch: str
    """The same for all jobs of one call."""
    state: str = QUEUED
    stage: str = ""
    done: int = 0
    total: int = 0
    file: int = 1
    name: str = ""
    result: Any = None
    error: Answer | None = None
    revision: int = 0
    cancel: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    began: float = 0.0
    """Moment of the monotonic clock at which it began to run."""
    worked: float = 0.0
    """Seconds that it ran before it gave way."""
    share: float = 0.0
    """Of its work that earlier files and stages have done, 0 to 1."""
    portion: float = 0.0
    """Of its work that this stage is."""


class Pace:
    """Seconds a byte, as measured on the jobs before; for the time left of jobs that have not begun."""

    def __init__(self) -> None:
        self._known: dict[str, float] = {}

    def measured(self, kind: str, bytes: int, seconds: float) -> None:
        if bytes > 0:
            before = self._known.get(kind)
            now = seconds / bytes
            self._known[kind] = now if before is None else 0.7 * before + 0.3 * now

    def seconds(self, work: Work) -> float | None:
        pace = self._known.get(work.kind)
        return None if pace is None or not work.bytes else pace * work.bytes


class Handle:
    """What a running job is given: it follows `progress.Progress`, and knows when to stop."""

    def __init__(self, queue: Queue, job: QueuedJob) -> None:
        self._queue = queue
        self._job = job
        self._told = 0.0

    def check(self) -> None:
        """Raises Cancelled where the job was cancelled."""
        if self._job.cancel.is_set():
            raise Cancelled("Cancelled; nothing was left behind.")

    def give_way(self) -> None:
        """Between two pieces of a background job: raises GaveWay where another job waits, Cancelled where asked."""
        self.check()
        if self._queue.has_foreground():
            raise GaveWay

    def portion(self, done: float, next_one: float) -> None:
        """So much of the whole job is done, and so much is the next stage, 0 to 1: for the time left."""
        with self._queue.changing(self._job):
            self._job.share, self._job.portion = done, next_one
            self._job.done = self._job.total = 0

    def file(self, number: int, name: str) -> None:
        """The job comes to another file."""
        with self._queue.changing(self._job):
            self._job.file, self._job.name = number, name

    def start(self, stage: str, total: int) -> None:
        self.check()
        with self._queue.changing(self._job):
            self._job.stage, self._job.done, self._job.total = stage, 0, total

    def step(self, count: int = 1) -> None:
        self.check()
        with self._queue.changing(self._job):
            self._job.done += count
        self._tell_host()

    def wait_for_host(self) -> None:
        """Returns when the host is free; shows meanwhile that it waits. Raises Cancelled."""
        self._queue.wait_for_host(self._job)

    def _tell_host(self) -> None:
        now = time.monotonic()
        if now - self._told < _TELL_SECONDS:
            return
        self._told = now
        job = self._job
        with contextlib.suppress(Exception):  # the host's progress is a courtesy
            self._queue.host.progress(job.done, job.total, f"{job.work.title}: {job.stage} {job.done}/{job.total}")


class Queue:
    """Jobs in order. Every method may be called from any thread and returns at once."""

    def __init__(self, host: Host, tell: Callable[[BaseException], Answer] = told) -> None:
        """`tell` puts an error into the page's words."""
        self.host = host
        self._tell = tell
        self._jobs: dict[str, QueuedJob] = {}
        self._waiting: list[QueuedJob] = []
        self._changed = threading.Condition()
        self._revision = 0
        self._pruned = 0
        """Latest revision of a job that is not kept any more."""
        self._thread: threading.Thread | None = None
        self._closed = False
        self._pace = Pace()

    def add(self, work: Work, *, first: bool = False) -> str:
        """Puts work at the end, or with `first` before all that has not begun; returns the job's id. Raises Fault."""
        return self.add_all([work], first=first)[0]

    def add_all(self, works: Sequence[Work], *, first: bool = False) -> list[str]:
        """All the jobs of one call, or none. Raises Fault where they are too many."""
        check_amount(len(works))
        with self._changed:
            active = len(self._active())
            if active + len(works) > MOST_ACTIVE:
                raise Fault(
                    "refused",
                    f"{active:,} jobs are in the queue, and {len(works):,} more would be over {MOST_ACTIVE:,}. "
                    "Wait until some are done, or cancel some.",
                )
            jobs = self._new(works)
            place = 0 if first else self._foreground()
            for job in jobs:
                self._waiting.insert(len(self._waiting) if job.work.background else place, job)
                place += 1
                self._touch(job)
            self._ensure_thread()
            return [job.id for job in jobs]

    def add_done(self, work: Work, result: Any) -> str:
        """A job that needs no work any more."""
        with self._changed:
            (job,) = self._new([work])
            job.result, job.file = result, work.files
            self._end(job, DONE)
            self._touch(job)
            return job.id

    def cancel(self, ids: Sequence[str]) -> list[QueuedJob]:
        """Takes jobs back that have not begun and asks the running one to stop; returns those it met."""
        with self._changed:
            known = [self._jobs[one] for one in dict.fromkeys(ids) if one in self._jobs]
            met = [job for job in known if job.state in ACTIVE]
            taken_back = {job.id for job in self._waiting} & {job.id for job in met}
            self._waiting = [job for job in self._waiting if job.id not in taken_back]
            for job in met:
                job.cancel.set()
                if job.id in taken_back:
                    self._end(job, CANCELLED)
                self._touch(job)
        for job in met:
            if job.id not in taken_back and job.work.stop is not None:
                self._stop(job, job.work.stop)
        return met

    def _stop(self, job: QueuedJob, stop: Callable[[], None]) -> None:
        """Now, and again until the job has ended: what is to be stopped may begin a moment later."""

        def keep_on() -> None:
            while not job.ended.wait(_STOP_SECONDS):
                with contextlib.suppress(Exception):  # a host that cannot be woken finishes its picture
                    stop()

        with contextlib.suppress(Exception):
            stop()
        threading.Thread(target=keep_on, name="resize-lora-stop", daemon=True).start()

    def orders(self) -> dict[str, str]:
        """Key of each job that has not ended -> the job's id."""
        with self._changed:
            return {job.work.key: job.id for job in self._active() if job.work.key is not None}

    def knows(self, id: str) -> bool:
        with self._changed:
            return id in self._jobs

    def status(self, since: int = 0) -> Answer:
        """The jobs that changed since a revision, what is left to do, and where every active job is in the queue."""
        with self._changed:
            reset = since > self._revision or 0 < since < self._pruned
            active = self._active()
            places = {job.id: (place, _rounded(self._seconds_left(job))) for place, job in enumerate(active)}
            left = [seconds for _, seconds in places.values()]
            changed = [job for job in self._jobs.values() if reset or job.revision > since]
            return {
                "queue": [self._told(job, *places.get(job.id, (0, None))) for job in changed],
                "reset": reset,
                "revision": self._revision,
                "active": len(active),
                "places": places,
                "seconds_left": _rounded(sum(part for part in left if part is not None))
                if left and None not in left
                else None,
            }

    def forget_results(self, kind: str, keep: int) -> None:
        """Drops the results of all but the last `keep` ended jobs of a kind."""
        with self._changed:
            ended = [job for job in self._jobs.values() if job.work.kind == kind and job.result is not None]
            for job in ended[: max(0, len(ended) - keep)]:
                job.result = None
                self._touch(job)

    def close(self) -> None:
        """Cancels everything and ends the thread, for a host that is unloaded."""
        with self._changed:
            self._closed = True
            active = [job.id for job in self._active()]
            self._changed.notify_all()
        self.cancel(active)

    def join(self, seconds: float = 10.0) -> None:
        """Waits for the thread after `close`."""
        thread = self._thread
        if thread is not None:
            thread.join(seconds)

    # For handles -----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def changing(self, job: QueuedJob) -> Iterator[None]:
        with self._changed:
            yield
            self._touch(job)

    def has_foreground(self) -> bool:
        """Whether a job waits that is not one for the background."""
        with self._changed:
            return self._foreground() > 0

    def wait_for_host(self, job: QueuedJob) -> None:
        before = job.stage
        while self._busy():
            with self._changed:
                if job.state != WAITS:
                    job.state, job.stage = WAITS, "waits for the picture"
                    self._touch(job)
            if job.cancel.wait(_LOOK_SECONDS):
                break
        if job.cancel.is_set():
            raise Cancelled("Cancelled; nothing was left behind.")
        with self._changed:
            if job.state == WAITS:
                job.state, job.stage = RUNNING, before
                self._touch(job)

    # The thread ------------------------------------------------------------------------------------------------

    def _ensure_thread(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._work, name="resize-lora-jobs", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            self._run(job)

    def _next(self) -> QueuedJob | None:
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            if self._closed:
                return None
            job = self._waiting.pop(0)
            job.state = RUNNING
            self._touch(job)
            return job

    def _run(self, job: QueuedJob) -> None:
        began = False
        try:
            self.wait_for_host(job)
            began = True
            job.began = time.monotonic()
            with contextlib.suppress(Exception):
                self.host.begin_job(job.work.title)
            result = job.work.run(Handle(self, job))
            self._pace.measured(job.work.kind, job.work.bytes, job.worked + time.monotonic() - job.began)
            self._finish(job, DONE, result)
        except GaveWay:
            self._put_back(job)
        except Cancelled as error:
            self._finish(job, CANCELLED, error=self._tell(error))
        except Exception as error:  # whatever a file does to us, the next job must run
            self._finish(job, FAILED, error=self._tell(error))
        finally:
            if began:
                for last in (self.host.end_job, self.host.tidy):
                    with contextlib.suppress(Exception):
                        last()

    def _put_back(self, job: QueuedJob) -> None:
        """Behind all jobs that it gave way to."""
        with self._changed:
            job.worked, job.began = job.worked + time.monotonic() - job.began, 0.0
            if job.cancel.is_set():
                self._end(job, CANCELLED)
            else:
                job.state, job.stage, job.done, job.total = QUEUED, "", 0, 0
                self._waiting.insert(self._foreground(), job)
            self._touch(job)

    def _finish(self, job: QueuedJob, state: str, result: Any = None, error: Answer | None = None) -> None:
        with self._changed:
            job.result, job.error = result, error
            self._end(job, state)
            self._touch(job)

    # Under the lock ---------------------------------------------------------------------------------------------

    def _new(self, works: Sequence[Work]) -> list[QueuedJob]:
        batch = secrets.token_hex(8)
        jobs = [QueuedJob(secrets.token_hex(8), work, batch, file=work.file, name=work.name) for work in works]
        self._jobs.update((job.id, job) for job in jobs)
        self._prune()
        return jobs

    def _foreground(self) -> int:
        """How many waiting jobs are not for the background; they are the first ones."""
        return next((place for place, job in enumerate(self._waiting) if job.work.background), len(self._waiting))

    def _prune(self) -> None:
        ended = [job for job in self._jobs.values() if job.state not in ACTIVE]
        analyses = [job for job in ended if job.work.kind == "analyse"]
        old = [*ended[: max(0, len(ended) - _KEPT_JOBS)], *analyses[: max(0, len(analyses) - _KEPT_ANALYSES)]]
        for job in old:
            self._jobs.pop(job.id, None)
            self._pruned = max(self._pruned, job.revision)

    def _end(self, job: QueuedJob, state: str) -> None:
        job.state, job.stage, job.done, job.total = state, "", 0, 0
        job.ended.set()

    def _touch(self, job: QueuedJob) -> None:
        self._revision += 1
        job.revision = self._revision
        self._changed.notify_all()

    def _active(self) -> list[QueuedJob]:
        running = [job for job in self._jobs.values() if job.state in (WAITS, RUNNING)]
        return [*running, *self._waiting]

    def _busy(self) -> bool:
        try:
            return self.host.busy() is not None
        except Exception:  # a host that cannot tell does not stop us for ever
            return False

    def _seconds_left(self, job: QueuedJob) -> float | None:
        if job.state not in ACTIVE:
            return None
        expected = self._pace.seconds(job.work)
        if job.state != RUNNING or not job.began:
            return expected if expected is None else max(0.0, expected - job.worked)
        elapsed = job.worked + time.monotonic() - job.began
        part = job.share + (job.portion * job.done / job.total if job.total else 0.0)
        if part > 0.02 and elapsed > 0.3:
            return max(0.0, elapsed / part * (1.0 - part))
        return None if expected is None else max(0.0, expected - elapsed)

    def _told(self, job: QueuedJob, place: int, left: float | None) -> Answer:
        return {
            "id": job.id,
            "batch": job.batch,
            "kind": job.work.kind,
            "title": job.work.title,
            "state": job.state,
            "place": place,
            "stage": job.stage,
            "done": job.done,
            "total": job.total,
            "file": job.file,
            "files": job.work.files,
            "name": job.name,
            "recipe": job.work.recipe,
            "seconds_left": left,
            "result": job.result,
            "error": job.error,
        }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
