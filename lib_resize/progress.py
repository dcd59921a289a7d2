"""Progress of long jobs, and how they are stopped."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Generic, Protocol, TypeVar

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

    Nothing begins before the first result is requested. When the consumer stops or a call fails, calls that have not
    begun are cancelled.
    """
    results = Ahead(pool, work, items, ahead)
    try:
        yield from results
    finally:
        results.cancel()


class Ahead(Generic[Item, Result]):
    """The iterator of `in_order`, begun at once: the first calls run while the consumer does something else."""

    def __init__(
        self, pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item], ahead: int
    ) -> None:
        self._begun = (pool.submit(work, item) for item in items)
        self._waiting = deque(islice(self._begun, max(1, ahead)))

    def cancel(self) -> None:
        """Cancel the calls that have not begun."""
        for future in self._waiting:
            future.cancel()

    def __iter__(self) -> Iterator[Result]:
        while self._waiting:
            yield self._waiting.popleft().result()
            self._waiting.extend(islice(self._begun, 1))
