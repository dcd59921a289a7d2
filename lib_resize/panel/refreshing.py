"""Let the host read its list of LoRAs again; it reads all of them, so not after every new file."""

from __future__ import annotations

import contextlib
import threading
import time

from ..hosts.host import Host


class Refresher:
    """Refreshes at the last file of a batch, and before that every ten seconds at most. Call it from any thread."""

    def __init__(self, host: Host, every: float = 10.0) -> None:
        self._host = host
        self._every = every
        self._lock = threading.Lock()
        self._last: float | None = None
        self._timer: threading.Timer | None = None

    def changed(self, *, more: bool) -> None:
        """Note that a file was added or moved; with `more` to follow, the refresh may come later, by a timer."""
        with self._lock:
            due = self._last is None or time.monotonic() - self._last >= self._every
            if more and not due:
                self._put_off()
                return
        self.now()

    def now(self) -> None:
        """Refresh at once."""
        with self._lock:
            self._forget_timer()
            self._last = time.monotonic()
        with contextlib.suppress(Exception):  # the files exist; the host lists them at its next refresh
            self._host.refresh()

    def close(self) -> None:
        """Stop the timer."""
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
