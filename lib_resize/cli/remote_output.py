"""Output of a run over many files: how far it came, which files failed, and the sums at the end."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from ..shown import MIB, shown
from .output import complain

if TYPE_CHECKING:
    from ..remote.driver import Run
    from ..remote.manifest import RunSums
    from ..remote.unit import Line

_EVERY = {True: 0.5, False: 30.0}
"""Whether it is a terminal -> seconds between two lines of progress."""


class RunDisplay:
    """Prints failures as they come, and now and then a line on the progress. Both go to stderr."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._is_terminal = sys.stderr.isatty()
        self._next = time.monotonic() + _EVERY[self._is_terminal]

    def show(self, line: Line) -> None:
        """Print what a person should know of one file."""
        for one in (line, *line.get("results", ())):
            if "error" in one:
                self._clear()
                text = one["error"] if line["source"] in one["error"] else f"{line['source']}: {one['error']}"
                complain(f"{text} ({one['kind']})")
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _EVERY[self._is_terminal]
            self._clear()
            print(shown(progress(self._run), 250), end="" if self._is_terminal else "\n", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Remove the line of progress from a terminal."""
        self._clear()

    def _clear(self) -> None:
        if self._is_terminal:
            print("\r\x1b[K", end="", file=sys.stderr)


def progress(run: Run) -> str:
    """Return one line: files, bytes, time left, failures by kind."""
    parts = [
        f"{run.tally.files} of {len(run.items)} files",
        f"{_gib(run.bytes_done)} of {_gib(run.total_bytes)}",
    ]
    left = run.seconds_left
    parts += [] if left is None else [f"{duration(left)} left"]
    return ", ".join([*parts, *failures(run.tally)])


def failures(tally: RunSums) -> list[str]:
    """Return one text on the failures by kind; nothing where there are none."""
    if not tally.failed:
        return []
    kinds = ", ".join(f"{count} {kind}" for kind, count in tally.failed.most_common())
    return [f"failed: {kinds}"]


def sums(tally: RunSums) -> str:
    """Return the sums of a run in one line."""
    saved = tally.bytes_before - tally.bytes_after
    parts = [f"{tally.files} files ({tally.skipped} done before)", f"{tally.results} results"]
    if tally.bytes_before:
        share = saved / tally.bytes_before
        parts.append(f"{_gib(tally.bytes_before)} -> {_gib(tally.bytes_after)} ({share:.0%} saved)")
    return ", ".join([*parts, *failures(tally)])


def duration(seconds: float) -> str:
    """Return a time as text: ``40 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def _gib(size: int) -> str:
    return f"{size / MIB / 1024:.1f} GiB" if size >= 1024 * MIB else f"{size / MIB:.1f} MiB"
