"""Faults at a chosen call into the system, in this process: it dies there, or the call fails.

For actions that have no threads. `faults.py` does the same in a forked process, with real kills.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from typing import Any

CALLS = ("open", "write", "fsync", "link", "replace", "rename", "unlink", "mkdir", "rmdir", "scandir", "stat", "lstat")
ERRORS = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC, "EACCES": errno.EACCES}
"""Kind -> the error of a failing call. The kind ``kill`` ends the process."""


class Killed(BaseException):
    """The machine died: this call and all after it do nothing."""


class Faults:
    """The `at`-th call into the system is the last one, or fails."""

    def __init__(self, at: int, kind: str, calls: Sequence[str] = CALLS) -> None:
        self.at = at
        self.kind = kind
        self.count = 0
        self._real = {name: getattr(os, name) for name in calls}

    def __enter__(self) -> Faults:
        for name in self._real:
            setattr(os, name, self._call(name))
        return self

    def __exit__(self, *_: object) -> None:
        for name, real in self._real.items():
            setattr(os, name, real)

    def _call(self, name: str) -> Callable[..., Any]:
        real = self._real[name]

        def call(*arguments: Any, **more: Any) -> Any:
            self.count += 1
            if self.count == self.at and name == "write":
                real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
            if self.kind == "kill" and self.count >= self.at:
                raise Killed
            if self.count == self.at:
                raise OSError(ERRORS[self.kind], os.strerror(ERRORS[self.kind]))
            return real(*arguments, **more)

        return call
