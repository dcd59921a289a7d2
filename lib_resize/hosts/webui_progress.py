"""Jobs of this program in the progress of A1111's family of WebUIs."""

from __future__ import annotations

from typing import Any

from .guard import guarded, read
from .locks import HostLock
from .webui_modules import shared

JOB = "resize-lora"
"""The name of this program's jobs in the host's state."""


class WebUIProgress:
    """The host has a single progress. It is used only while no other job is shown in it."""

    def __init__(self, lock: HostLock) -> None:
        self._lock = lock
        self._title: str | None = None
        self._begun: Any = None

    def begin(self, title: str) -> None:
        """Begin a job, unless the lock is held or another job is shown: beginning one clears the host's state."""
        state = shared("state")
        if state is None or not self._lock.acquire(False):
            return
        try:
            with guarded("the host's progress"):
                if not state.job:
                    self._begun = state.begin(JOB)
                    self._title = title
        finally:
            self._lock.release()

    def step(self, done: int, total: int, text: str) -> None:
        """Show how many steps are done."""
        state: Any = shared("state")
        if self._is_shown(state):
            with guarded("the host's progress"):
                self._count(state, done, total)
                state.textinfo = f"{self._title}: {text}".replace("\n", " ")  # the host shows no text of two lines

    def end(self) -> None:
        """End the job."""
        state: Any = shared("state")
        if self._is_shown(state):
            with guarded("the host's progress"):
                end_job(state, self._begun)
        self._title = None

    def _count(self, state: Any, done: int, total: int) -> None:
        state.job_count, state.job_no = total, done

    def _is_shown(self, state: Any) -> bool:
        return self._title is not None and read(state, "job") == JOB


def end_job(state: Any, begun: Any) -> None:
    """End a job in the host's state; `begun` is what the beginning returned: SD.Next's name of the job, or None."""
    if begun is None:
        state.end()
    else:
        state.end(begun)
