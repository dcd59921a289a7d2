"""The jobs of a queue and their order. The queue holds its lock while it uses them."""

from __future__ import annotations

import secrets
from bisect import bisect_left
from collections.abc import Sequence

from .jobs import CANCELLED, RUNNING, WAITS, JobSpec, Pace, QueuedJob
from .protocol.types import Json

_KEPT_JOBS = 1000
_KEPT_ANALYSES = 20  # with their results, which are long


class JobList:
    """Jobs that wait, run, or ended, each with the revision at which it changed last."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._jobs: dict[str, QueuedJob] = {}
        self._waiting: list[QueuedJob] = []
        self._revision = 0
        self._pruned = 0
        """Latest revision of a job that is not kept any more."""

    def __contains__(self, id: object) -> bool:
        return id in self._jobs

    def is_active(self, id: str) -> bool:
        """Return whether a job is kept and has not ended."""
        return bool(self._active_of([id]))

    @property
    def has_waiting(self) -> bool:
        return bool(self._waiting)

    def new(self, specs: Sequence[JobSpec]) -> list[QueuedJob]:
        """Add the jobs of one call, which do not wait for their turn yet."""
        batch = secrets.token_hex(8)
        jobs = [QueuedJob(spec, batch, file=spec.file, name=spec.name) for spec in specs]
        self._jobs.update((job.id, job) for job in jobs)
        self._prune()
        return jobs

    def enqueue(self, jobs: Sequence[QueuedJob], *, first: bool) -> None:
        """Let new jobs wait for their turn; those of the background come last."""
        for place, job in enumerate(jobs):
            rank = job.spec.rank
            self._waiting.insert(place if first and not rank else self.ahead(rank + 1), job)
            self.touch(job)

    def take(self) -> QueuedJob:
        """Return the next job, which runs now."""
        job = self._waiting.pop(0)
        job.state = RUNNING
        self.touch(job)
        return job

    def put_back(self, job: QueuedJob) -> None:
        """Let a job that gave way wait before others of its rank, or end it where it was cancelled."""
        job.pause()
        if job.cancel.is_set():
            job.end(CANCELLED)
        else:
            self._waiting.insert(self.ahead(job.spec.rank), job)
        self.touch(job)

    def cancel(self, ids: Sequence[str]) -> tuple[list[QueuedJob], list[QueuedJob]]:
        """Mark active jobs as cancelled and end those that wait; return all of them, and those that run."""
        met = self._active_of(ids)
        waiting = {job.id for job in self._waiting} & {job.id for job in met}
        self._waiting = [job for job in self._waiting if job.id not in waiting]
        for job in met:
            job.cancel.set()
            if job.id in waiting:
                job.end(CANCELLED)
            self.touch(job)
        return met, [job for job in met if job.id not in waiting]

    def waiting_of(self, ids: Sequence[str]) -> list[str]:
        """Return the ids of those jobs that wait for their turn."""
        return [job.id for job in self._waiting if job.id in ids]

    def _active_of(self, ids: Sequence[str]) -> list[QueuedJob]:
        known = [self._jobs[id] for id in dict.fromkeys(ids) if id in self._jobs]
        return [job for job in known if job.is_active]

    def touch(self, job: QueuedJob) -> None:
        """Note that a job changed."""
        self._revision += 1
        job.revision = self._revision

    def ahead(self, rank: int) -> int:
        """Return how many waiting jobs have a lower rank, see `JobSpec.rank`; they are the first ones."""
        return bisect_left(self._waiting, rank, key=lambda job: job.spec.rank)

    def active(self) -> list[QueuedJob]:
        """Return the jobs that have not ended, in the order of the queue."""
        running = [job for job in self._jobs.values() if job.state in (WAITS, RUNNING)]
        return [*running, *self._waiting]

    def forget_results(self, kind: str, keep: int) -> None:
        """Drop the results of all but the last `keep` ended jobs of a kind."""
        ended = [job for job in self._jobs.values() if job.spec.kind == kind and job.result is not None]
        for job in ended[: max(0, len(ended) - keep)]:
            job.result = None
            self.touch(job)

    def status(self, since: int) -> Json:
        """Return the part of the protocol's `Status` that is about jobs."""
        reset = since > self._revision or 0 < since < self._pruned
        active = self.active()
        places = {job.id: (place, self._seconds_left(job)) for place, job in enumerate(active)}
        changed = [job for job in self._jobs.values() if reset or job.revision > since]
        return {
            "queue": [job.to_json(*places.get(job.id, (0, None))) for job in changed],
            "reset": reset,
            "revision": self._revision,
            "active": len(active),
            "places": places,
            "seconds_left": _total([seconds for _, seconds in places.values()]),
        }

    def _seconds_left(self, job: QueuedJob) -> float | None:
        seconds = job.seconds_left(self._pace.seconds(job.spec))
        return None if seconds is None else round(seconds, 1)

    def _prune(self) -> None:
        ended = [job for job in self._jobs.values() if not job.is_active]
        for job in ended[: max(0, len(ended) - _KEPT_JOBS)]:
            del self._jobs[job.id]
            self._pruned = max(self._pruned, job.revision)
        self.forget_results("analyse", _KEPT_ANALYSES)


def _total(seconds: Sequence[float | None]) -> float | None:
    """Return the sum; None where there is nothing, or a time is unknown."""
    known = [one for one in seconds if one is not None]
    return round(sum(known), 1) if known and len(known) == len(seconds) else None
