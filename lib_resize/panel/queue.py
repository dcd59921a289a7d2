"""The queue: jobs run one after the other in one thread, report their progress, and can be stopped."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..errors import Cancelled
from ..hosts.host import Host
from .faults import Fault, error_json
from .job_list import JobList
from .jobs import CANCELLED, DONE, FAILED, RUNNING, WAITS, JobSpec, Pace, QueuedJob
from .protocol.types import Json

_LOOK_SECONDS = 0.2  # how often a waiting job checks whether the host is free
_REPORT_SECONDS = 0.1  # the host's own progress is updated no more often
_STOP_SECONDS = 0.2  # how often the image of a cancelled job is stopped again, as it may not have begun the first time
MOST_ADDED = 5_000
"""Jobs of one call."""
MOST_ACTIVE = 10_000
"""Jobs that have not ended."""


def check_amount(jobs: int) -> None:
    """Raise Fault where one call asks for too many jobs."""
    if jobs > MOST_ADDED:
        raise Fault(
            "refused",
            f"That would be {jobs:,} jobs; one call makes {MOST_ADDED:,} at most. Select fewer LoRAs or fewer recipes.",
        )


class GaveWay(Exception):  # noqa: N818 - not an error
    """A background job stopped between two files, and is run again later."""


class Handle:
    """What a running job reports to: a `progress.Progress` that knows when to stop."""

    def __init__(self, queue: Queue, job: QueuedJob) -> None:
        self._queue = queue
        self._job = job
        self._reported = 0.0

    @property
    def batch(self) -> str:
        """The same for all jobs of one call."""
        return self._job.batch

    def check(self) -> None:
        """Raise Cancelled where the job was cancelled."""
        if self._job.cancel.is_set():
            raise Cancelled("Cancelled; nothing was left behind.")

    def give_way(self) -> None:
        """Raise GaveWay where another job waits, Cancelled where it was cancelled; between two files of a job."""
        self.check()
        if self._queue.has_waiting(self._job.spec.rank):
            raise GaveWay

    def part(self, before: float, share: float, check: Callable[[], None]) -> Handle:
        """Return a handle for a part of the job: `before` and `share` are of the whole, 0 to 1. It calls `check` often,
        which may raise."""
        return PartHandle(self._queue, self._job, (before, share), check)

    def quiet(self, image: Callable[[], None] | None = None) -> Handle:
        """Return a handle for work whose steps are not shown: this one only passes on when to stop and to wait.

        `image` is called after each `image_made` of that work.
        """
        return QuietHandle(self._queue, self._job, self.check, image)

    def image_made(self) -> None:
        """Note an image of work that is a part of something else, see `quiet`; elsewhere it is a step or nothing."""

    def portion(self, done: float, next_one: float) -> None:
        """Set the share of the job that is done, and the share of its next stage, 0 to 1: for the time left."""
        with self._queue.changing(self._job):
            self._job.share, self._job.portion = done, next_one
            self._job.done = self._job.total = 0

    def file(self, number: int, name: str) -> None:
        """Begin another file."""
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
        self._report_to_host()

    def set_total(self, total: int) -> None:
        """Correct the number of steps of this stage; those that are done stay."""
        with self._queue.changing(self._job):
            self._job.total = max(total, self._job.done)

    def measured(self, kind: str, amount: int, seconds: float) -> None:
        """Note how long a part of the work took, for the time of later ones; see `Pace.measured`."""
        self._queue.pace.measured(kind, amount, seconds)

    def show(self, trial: Json) -> None:
        """Show a size that was measured: the `Trial` of the protocol."""
        with self._queue.changing(self._job):
            self._job.trial = trial

    def wait_for_host(self) -> None:
        """Return when the host is free, and show until then that the job waits. Raises Cancelled."""
        self._queue.wait_for_host(self._job, self.check)

    def _report_to_host(self) -> None:
        now = time.monotonic()
        if now - self._reported < _REPORT_SECONDS:
            return
        self._reported = now
        job = self._job
        with contextlib.suppress(Exception):  # the job does not depend on the host's progress bar
            self._queue.host.progress(job.done, job.total, f"{job.stage} {job.done}/{job.total}")


class PartHandle(Handle):
    """A handle of which the work is a part of the job, such as one of many files."""

    def __init__(self, queue: Queue, job: QueuedJob, place: tuple[float, float], check: Callable[[], None]) -> None:
        super().__init__(queue, job)
        self._place = place
        self._own_check = check

    def check(self) -> None:
        self._own_check()
        super().check()

    def part(self, before: float, share: float, check: Callable[[], None]) -> Handle:
        first, whole = self._place
        place = (first + whole * before, whole * share)
        return PartHandle(self._queue, self._job, place, _both(self._own_check, check))

    def portion(self, done: float, next_one: float) -> None:
        before, share = self._place
        super().portion(before + share * done, share * next_one)


class QuietHandle(Handle):
    """A handle that shows nothing, so that the steps of the job stay those of other work."""

    def __init__(
        self, queue: Queue, job: QueuedJob, check: Callable[[], None], image: Callable[[], None] | None = None
    ) -> None:
        super().__init__(queue, job)
        self._own_check = check
        self._image = image

    def check(self) -> None:
        self._own_check()

    def image_made(self) -> None:
        if self._image is not None:
            self._image()

    def part(self, before: float, share: float, check: Callable[[], None]) -> Handle:  # noqa: ARG002 - nothing is shown
        return QuietHandle(self._queue, self._job, _both(self._own_check, check), self._image)

    def portion(self, done: float, next_one: float) -> None:
        pass

    def file(self, number: int, name: str) -> None:
        pass

    def start(self, stage: str, total: int) -> None:  # noqa: ARG002 - nothing is shown
        self.check()

    def step(self, count: int = 1) -> None:  # noqa: ARG002 - nothing is shown
        self.check()


def _both(first: Callable[[], None], second: Callable[[], None]) -> Callable[[], None]:
    def both() -> None:
        first()
        second()

    return both


class Queue:
    """Jobs in order. Every method may be called from any thread and returns at once."""

    def __init__(self, host: Host, to_error: Callable[[BaseException], Json] = error_json) -> None:
        """`to_error` makes the protocol's `Error` of an exception."""
        self.host = host
        self._to_error = to_error
        self._changed = threading.Condition()
        self.pace = Pace()
        self._jobs = JobList(self.pace)
        self._thread: threading.Thread | None = None
        self._closed = False
        self.at_end: Callable[[], None] | None = None
        """Called in the thread when it ends after `close`; a job that waited for the host is cancelled then."""

    def add(self, spec: JobSpec, *, first: bool = False) -> str:
        """Add a job at the end, or with `first` before all that have not begun; return its id. Raises Fault."""
        return self.add_all([spec], first=first)[0]

    def add_all(self, specs: Sequence[JobSpec], *, first: bool = False) -> list[str]:
        """Add all the jobs of one call, or none. Raises Fault where they are too many."""
        check_amount(len(specs))
        with self._changed:
            active = len(self._jobs.active())
            if active + len(specs) > MOST_ACTIVE:
                raise Fault(
                    "refused",
                    f"{active:,} jobs are in the queue, and {len(specs):,} more would exceed {MOST_ACTIVE:,}. "
                    "Wait until some are done, or cancel some.",
                )
            jobs = self._jobs.new(specs)
            self._jobs.enqueue(jobs, first=first)
            self._changed.notify_all()
            self._ensure_thread()
            return [job.id for job in jobs]

    def add_done(self, spec: JobSpec, result: Any) -> str:
        """Add a job that needs no work any more."""
        with self._changed:
            (job,) = self._jobs.new([spec])
            job.result, job.file = result, spec.files
            job.end(DONE)
            self._jobs.touch(job)
            return job.id

    def cancel(self, ids: Sequence[str], *, only_waiting: bool = False) -> list[QueuedJob]:
        """End jobs that wait, and without `only_waiting` stop the running one; return those that were active."""
        with self._changed:
            met, running = self._jobs.cancel(self._jobs.waiting_of(ids) if only_waiting else ids)
            self._changed.notify_all()
        for job in running:
            if job.spec.stop is not None:
                _keep_stopping(job, job.spec.stop)
        return met

    def orders(self) -> dict[str, str]:
        """Return key -> id of each job that has a key and has not ended."""
        with self._changed:
            return {job.spec.key: job.id for job in self._jobs.active() if job.spec.key is not None}

    def knows(self, id: str, *, active: bool = False) -> bool:
        """Return whether a job is kept; with `active`, whether it waits or runs."""
        with self._changed:
            return self._jobs.is_active(id) if active else id in self._jobs

    def status(self, since: int = 0) -> Json:
        """Return the jobs that changed since a revision, what is left to do, and the place of every active job."""
        with self._changed:
            return self._jobs.status(since)

    def forget_results(self, kind: str, keep: int) -> None:
        """Drop the results of all but the last `keep` ended jobs of a kind."""
        with self._changed:
            self._jobs.forget_results(kind, keep)

    def close(self) -> None:
        """Cancel everything and end the thread, for a host that is unloaded."""
        with self._changed:
            self._closed = True
            active = [job.id for job in self._jobs.active()]
            self._changed.notify_all()
        self.cancel(active)

    def join(self, seconds: float = 10.0) -> None:
        """Wait for the thread after `close`."""
        thread = self._thread
        if thread is not None:
            thread.join(seconds)

    # For handles -----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def changing(self, job: QueuedJob) -> Iterator[None]:
        with self._changed:
            yield
            self._jobs.touch(job)

    def has_waiting(self, rank: int) -> bool:
        """Return whether a job of a lower rank waits, see `JobSpec.rank`; those of the foreground have rank 0."""
        with self._changed:
            return self._jobs.ahead(rank) > 0

    def wait_for_host(self, job: QueuedJob, check: Callable[[], None] = lambda: None) -> None:
        """Wait until the host is free. Raises Cancelled, and what `check` raises."""
        before = job.stage
        while _is_busy(self.host):
            if job.state != WAITS:
                with self.changing(job):
                    job.state, job.stage = WAITS, "waiting for the current image"
            if job.cancel.wait(_LOOK_SECONDS):
                break
            check()
        if job.cancel.is_set():
            raise Cancelled("Cancelled; nothing was left behind.")
        if job.state == WAITS:
            with self.changing(job):
                job.state, job.stage = RUNNING, before

    # The thread ------------------------------------------------------------------------------------------------

    def _ensure_thread(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._work, name="resize-lora-jobs", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            self._run(job)
        if self.at_end is not None:
            self.at_end()

    def _next(self) -> QueuedJob | None:
        with self._changed:
            while not self._jobs.has_waiting and not self._closed:
                self._changed.wait()
            return None if self._closed else self._jobs.take()

    def _run(self, job: QueuedJob) -> None:
        began = False
        try:
            self.wait_for_host(job)
            began = True
            job.began = time.monotonic()
            with contextlib.suppress(Exception):
                self.host.begin_job(job.spec.title)
            result = job.spec.run(Handle(self, job))
            self.pace.measured(job.spec.kind, job.spec.bytes, job.elapsed)
            self._finish(job, DONE, result)
        except GaveWay:
            with self._changed:
                self._jobs.put_back(job)
        except Cancelled as error:
            self._finish(job, CANCELLED, error=self._to_error(error))
        except Exception as error:  # the next job must run, after any exception
            self._finish(job, FAILED, error=self._to_error(error))
        finally:
            if began:
                for last in (self.host.end_job, self.host.tidy):
                    with contextlib.suppress(Exception):
                        last()

    def _finish(self, job: QueuedJob, state: str, result: Any = None, error: Json | None = None) -> None:
        with self.changing(job):
            job.result, job.error = result, error
            job.end(state)


def _is_busy(host: Host) -> bool:
    try:
        return host.busy() is not None
    except Exception:  # a host that fails here would block all jobs
        return False


def _keep_stopping(job: QueuedJob, stop: Callable[[], None]) -> None:
    """Stop now, and again until the job has ended: what is to be stopped may begin a moment later."""

    def keep_on() -> None:
        while not job.ended.wait(_STOP_SECONDS):
            with contextlib.suppress(Exception):  # the image is then finished
                stop()

    with contextlib.suppress(Exception):
        stop()
    threading.Thread(target=keep_on, name="resize-lora-stop", daemon=True).start()
