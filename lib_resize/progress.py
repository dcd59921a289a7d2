"""How a long job tells where it is, and how it is stopped."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Progress(Protocol):
    """Called from one thread. Either method may raise `errors.Cancelled` to stop the job."""

    def start(self, stage: str, total: int) -> None:
        """A stage of `total` steps begins; stages are "read base", "analyse" and "write"."""
        ...

    def step(self, count: int = 1) -> None:
        """So many further steps are done."""
        ...


class Quiet:
    """Tells nothing and never stops."""

    def start(self, stage: str, total: int) -> None:
        pass

    def step(self, count: int = 1) -> None:
        pass


def in_order(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """``map`` over a pool with at most `ahead` results waiting, so that memory stays bounded.

    When the consumer stops, or a piece of work fails, what has not begun is taken back.
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
