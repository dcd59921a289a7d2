"""Death and faults at every system call: run an action in a forked child that stops, or fails, at its k-th call.

A child is forked from this process, in which everything is imported already, so that one costs
milliseconds. POSIX only.

    calls = traced(action)                    # the calls that it makes, in order
    for k in range(1, len(calls) + 1):
        end = struck(action, k, "after")      # SIGKILL just after the k-th call

Long: ``RESIZE_LORA_FAULTS=all pytest -n 0 tests/hostile/test_fault_points.py``.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import tempfile
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CALLS = (
    "open",
    "write",
    "fsync",
    "link",
    "replace",
    "rename",
    "unlink",
    "mkdir",
    "rmdir",
    "lseek",
    "preadv",
    "scandir",
)
"""Functions of ``os`` through which files are read and written here."""
MODES = ("before", "after", "torn", "eio", "enospc")
"""Killed before or after the call, or in the middle of a write; or the call fails, a full disk after half a write."""
FAILING = {"eio": errno.EIO, "enospc": errno.ENOSPC}

Action = Callable[[], int]


@dataclass(frozen=True)
class End:
    """How a child ended."""

    code: int
    """Exit code; negative for a signal, 97 for an exception."""
    text: str
    """What it printed."""
    calls: tuple[str, ...]
    """The calls that it made; none of a killed child."""

    @property
    def was_killed(self) -> bool:
        return self.code == -signal.SIGKILL


def traced(action: Action) -> End:
    """Run an action to its end and note its calls."""
    return struck(action, 0, "none")


def struck(action: Action, k: int, mode: str) -> End:
    """Run an action in a child whose k-th call is struck."""
    with tempfile.TemporaryDirectory() as folder:
        printed, made = Path(folder) / "text", Path(folder) / "calls"
        pid = os.fork()
        if pid == 0:
            _child(action, _Striker(k, mode), printed, made)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        text = printed.read_text("utf-8", "replace") if printed.exists() else ""
        calls = tuple(made.read_text("utf-8").split()) if made.exists() else ()
    return End(code, text, calls)


def silent_child(work: Callable[[], int]) -> int:
    """Fork a child that prints nothing and ends with the status that `work` returns; return its process id."""
    pid = os.fork()
    if pid == 0:
        code = 97
        try:
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            code = work()
        finally:
            os._exit(code)
    return pid


def _child(action: Action, striker: _Striker, printed: Path, made: Path) -> None:
    """Never returns, so that no test goes on in the child."""
    code, text = 96, io.StringIO()
    try:
        with redirect_stdout(text), redirect_stderr(text), striker:
            try:
                code = action()
            except BaseException:
                traceback.print_exc()
                code = 97
        printed.write_text(text.getvalue(), "utf-8", "replace")
        made.write_text(" ".join(striker.calls), "utf-8")
    finally:
        os._exit(code)


class _Striker:
    """Replaces functions of ``os``; counts their calls, and strikes at one."""

    def __init__(self, k: int, mode: str) -> None:
        self._k, self._mode = k, mode
        self._true: dict[str, Callable[..., Any]] = {}
        self.calls: list[str] = []

    def __enter__(self) -> _Striker:
        for name in CALLS:
            if hasattr(os, name):
                self._true[name] = getattr(os, name)
                setattr(os, name, self._wrapped(name))
        return self

    def __exit__(self, *_: object) -> None:
        for name, function in self._true.items():
            setattr(os, name, function)

    def _wrapped(self, name: str) -> Callable[..., Any]:
        true = self._true[name]

        def call(*arguments: Any, **options: Any) -> Any:
            self.calls.append(name)
            is_struck = len(self.calls) == self._k
            if not is_struck:
                return true(*arguments, **options)
            if name == "write" and self._mode in ("torn", "enospc"):
                true(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
            if self._mode in FAILING:
                raise OSError(FAILING[self._mode], os.strerror(FAILING[self._mode]))
            if self._mode == "after":
                true(*arguments, **options)
            return os.kill(os.getpid(), signal.SIGKILL)

        return call
