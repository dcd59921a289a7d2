"""Settings of the whole process, which several jobs may need changed at once."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Value = TypeVar("Value")


class SharedSetting(Generic[Value]):
    """A setting that has another value while anybody needs it, in any number of threads.

    The first caller sets it, and the last one restores the old value, unless somebody else has set it meanwhile.
    """

    def __init__(self, get: Callable[[], Value], put: Callable[[Value], object], wanted: Value) -> None:
        self._get = get
        self._put = put
        self._wanted = wanted
        self._before = wanted
        self._holders = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Set the value, and restore the old one at the end. Calls may be nested."""
        with self._lock:
            if self._holders == 0:
                self._before = self._get()
                self._put(self._wanted)
            self._holders += 1
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
                if self._holders == 0 and self._get() == self._wanted:
                    self._put(self._before)


SELDOM = 100_000
"""Objects between two searches for cycles. A LoRA has thousands of small ones, and hardly any cycle."""

_collector = SharedSetting(lambda: gc.get_threshold()[0], lambda count: gc.set_threshold(count), SELDOM)


def seldom_collected() -> contextlib.AbstractContextManager[None]:
    """Let Python search for cycles of objects less often: in a WebUI it takes a tenth of an analysis otherwise."""
    return _collector.held()
