"""A limit on the memory that workers use together."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class MemoryBudget:
    """A number of bytes for all workers together. A worker that requests more than is left waits."""

    def __init__(self, total: int) -> None:
        self._total = self._left = total
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def of(self, wanted: int) -> Iterator[None]:
        """Reserve `wanted` bytes for a block. A request above the whole budget waits until no other worker has any."""
        share = min(wanted, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= share)
            self._left -= share
        try:
            yield
        finally:
            with self._changed:
                self._left += share
                self._changed.notify_all()
