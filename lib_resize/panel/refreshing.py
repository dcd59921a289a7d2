"""When the host is asked to read its list of LoRAs again. It reads all of them, so not after every new file."""

from __future__ import annotations

import contextlib
import threading
import time

from ..hosts.host import Host


class Refresher:
    """Asks at the last file of a batch, and meanwhile every ten seconds at most. Call it from any thread."""

    def __init__(self, host: Host, every: float = 10.0) -> None:
        self._host = host
        self._every = every
        self._lock = threading.Lock()
        self._last: float | None = None
        self._timer: threading.Timer | None = None

    def changed(self, *, more: bool) -> None:
        """A file came or went; `more` will follow at once. What is put off is made up for by a timer at the latest."""
        with self._lock:
            due = self._last is None or time.monotonic() - self._last >= self._every
            if more and not due:
                self._put_off()
                return
        self.now()

    def now(self) -> None:
        """Asks at once."""
        with self._lock:
            self._forget_timer()
            self._last = time.monotonic()
        with contextlib.suppress(Exception):  # the files are there; the host lists them sooner or later
            self._host.refresh()

    def close(self) -> None:
        """Asks no more."""
        with self._lock:
            self._forget_timer()

    def _put_off(self) -> None:
        if self._timer is None and self._last is not None:
            rest = max(0.0, self._last + self._every - time.monotonic())
            self._timer = threading.Timer(rest, self.now)
            self._timer.daemon = True
            self._timer.start()

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
