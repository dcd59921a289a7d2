"""Progress of long jobs, and how they are stopped."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Progress(Protocol):
    """Receives the progress of a job, in one thread. Either method may raise `errors.Cancelled` to stop the job."""

    def start(self, stage: str, total: int) -> None:
        """Begin a stage of `total` steps; stages are "read base", "analyse" and "write"."""
        ...

    def step(self, count: int = 1) -> None:
        """Count finished steps."""
        ...


class Quiet:
    """Shows nothing and never stops."""

    def start(self, stage: str, total: int) -> None:
        pass

    def step(self, count: int = 1) -> None:
        pass


def in_order(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """Map `work` over the items in a pool, with at most `ahead` results waiting, so that memory is bounded.

    When the consumer stops or a call fails, calls that have not begun are cancelled.
    """
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
