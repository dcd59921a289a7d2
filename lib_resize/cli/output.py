"""Output of the command line: progress bars, a line for each outcome, and the table at the end of a run."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.target import Inputs
from ..progress import Progress, Quiet
from ..shown import shown, shown_lines
from . import report
from .ledger import Ledger
from .priority import lower_priority

if TYPE_CHECKING:
    from ..engine.settings import Outcome


def complain(message: str) -> None:
    """Print one line to stderr, in the name of the command."""
    print(f"resize-lora: {shown(message)}", file=sys.stderr)


def complain_of_folder(error: OSError) -> None:
    """Report a folder that cannot be read; the search goes on without it."""
    complain(f"{error.filename}: cannot be read: {error.strerror}; the folder is skipped.")


@dataclass(frozen=True)
class RunOptions:
    """How a run is printed and reported, and when it stops."""

    verbose: int = 0
    dry_run: bool = False
    report: Path | None = None
    report_layers: bool = False
    continue_on_error: bool = False
    nice: bool = False


def run_options(arguments: argparse.Namespace) -> RunOptions:
    """Return the options of a run from the command line."""
    return RunOptions(
        verbose=arguments.verbose,
        dry_run=arguments.dry_run,
        report=Path(arguments.report) if arguments.report else None,
        report_layers=arguments.report_layers,
        continue_on_error=getattr(arguments, "continue_on_error", False),
        nice=arguments.nice,
    )


def run_and_print(
    work: Callable[[Progress], Iterator[Outcome]], files: int, inputs: Inputs, options: RunOptions
) -> int:
    """Run `work`, print each outcome as it comes and a table at the end, and return the exit status.

    The table and the report are also written when the run is stopped, so that a person can see how far it came.
    """
    set_priority(options.nice)
    with contextlib.ExitStack() as stack:
        summary = stack.enter_context(_table(options.dry_run))
        ledger = stack.enter_context(_ledger(options, inputs))
        bars = stack.enter_context(Bars(files))
        for outcome in _until_failure(work(bars), options.continue_on_error):
            summary.add(outcome)
            if ledger is not None:
                ledger.add(outcome)
            bars.file(outcome.source)
            for line in _lines(outcome, options.verbose):
                bars.write(line, error=outcome.error is not None)
            del outcome  # it keeps its source open, and there may be thousands
    return int(summary.failed)


def set_priority(nice: bool) -> None:
    """Lower the priority of this process if `nice` is set, and print a warning where the system refuses."""
    if nice and not lower_priority():
        complain("--nice: this system does not allow the priority to be lowered")


@contextlib.contextmanager
def _ledger(options: RunOptions, inputs: Inputs) -> Iterator[Ledger | None]:
    if options.report is None:
        yield None
        return
    with Ledger(options.report, inputs, layers=options.report_layers) as ledger:
        yield ledger
    if ledger.path != options.report:
        complain(f"--report {options.report}: another file took this name during the run; see {ledger.path}.")


@contextlib.contextmanager
def _table(dry_run: bool) -> Iterator[report.Summary]:
    summary = report.Summary()
    try:
        yield summary
    finally:
        if summary:
            print(summary.table())
        if dry_run:
            print("Nothing was written (--dry-run).")


def _until_failure(outcomes: Iterator[Outcome], go_on: bool) -> Iterator[Outcome]:
    for outcome in outcomes:
        failed = outcome.error is not None
        yield outcome
        if failed and not go_on:
            return
        del outcome  # before the next source is opened


def _lines(outcome: Outcome, verbose: int) -> Iterator[str]:
    if outcome.error is not None:
        message, source = str(outcome.error), outcome.source
        yield f"resize-lora: {message if Path(source).stem in message else f'{source}: {message}'}"
        return
    if outcome.declined is not None:
        yield f"{outcome.source}: left alone, {outcome.declined}"
        return
    if outcome.plan is None:
        own = outcome.skipped == Path(outcome.source)
        yield f"{outcome.source}: skipped, " + ("already a result" if own else f"{outcome.skipped} exists already")
        return
    if verbose and outcome.job is not None:
        yield from report.thresholds(outcome.job)
    if verbose > 1:
        yield from report.layer_lines(outcome.plan)
    for note in report.notes(outcome.plan):
        yield f"{Path(outcome.plan.output).name}: {note}"
    for path in outcome.kept:
        yield f"{path}: not replaced, because it was changed since an earlier run; remove it to have it copied again"


class Bars(Quiet):
    """A progress bar for files and one for the steps of each file, on a terminal; nothing in a pipe."""

    def __init__(self, files: int | None) -> None:
        """Make the bars. Without a number of files, the steps are themselves files and have the only bar."""
        self._bars: tuple[Any, Any] | None = None
        self._seen: set[str] = set()
        if sys.stderr.isatty():
            from tqdm import tqdm

            alone = files is None
            over = tqdm(total=files, unit="file", leave=False, disable=alone)
            self._bars = over, tqdm(unit="file" if alone else "layer", leave=False, position=int(not alone))

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *error: object) -> None:
        for bar in self._bars or ():
            bar.close()

    def start(self, stage: str, total: int) -> None:
        """Begin a stage of so many steps."""
        if self._bars:
            self._bars[1].reset(total=total)
            self._bars[1].set_description(stage)

    def step(self, count: int = 1) -> None:
        """Advance the bar of steps."""
        if self._bars:
            self._bars[1].update(count)

    def file(self, source: str) -> None:
        """Advance the bar of files, once for each source."""
        if self._bars and source not in self._seen:
            self._seen.add(source)
            self._bars[0].update()

    def write(self, line: str, *, error: bool = False) -> None:
        """Print text without disturbing the bars. An error is one line, because it may contain names from a file."""
        stream, text = (sys.stderr, shown(line)) if error else (sys.stdout, shown_lines(line))
        if self._bars:
            self._bars[1].write(text, file=stream)
        else:
            print(text, file=stream)
