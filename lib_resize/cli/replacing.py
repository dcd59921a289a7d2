"""``resize-lora resize --replace``: smaller files under the names of the originals, which go to an archive."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..progress import Progress
from ..shown import shown
from .archives import large, open_or_default, recover_and_print
from .output import RunOptions, complain_of_folder, run_and_print

if TYPE_CHECKING:
    from ..archive.place import Archive
    from ..engine.settings import Outcome, Settings
    from ..shrinking.shrinking import Shrunk

_LEAST_GAIN = 10
_ONLY_WITH = ("archive", "no_originals", "yes", "least_gain", "floor")
_NOT_WITH = ("output_folder", "suffix", "skip_existing", "overwrite")


def add_replace_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of replacing."""
    add = parser.add_argument
    add("--replace", action="store_true", help="give the smaller file the name of the original, which is archived")
    add("--archive", metavar="DIR", help="the archive (default: a folder next to the LoRA folder); needs --replace")
    add("--no-originals", action="store_true", help="with --replace: delete the originals; needs --yes")
    add("--yes", action="store_true", default=None, help="confirm --no-originals")
    add(
        "--least-gain",
        type=_percent,
        metavar="PERCENT",
        help=f"with --replace: leave files alone that would save less (default: {_LEAST_GAIN})",
    )
    add(
        "--floor",
        type=_share,
        metavar="RETENTION",
        help="with --replace: leave files alone whose weight retention would be lower, such as 0.9",
    )


def check_options(arguments: argparse.Namespace, recipes: int) -> None:
    """Raise UsageError where options do not fit together."""
    if not arguments.replace:
        for name in _ONLY_WITH:
            if getattr(arguments, name):
                raise UsageError(f"{_option(name)} needs --replace.")
        return
    for name in _NOT_WITH:
        if getattr(arguments, name):
            raise UsageError(f"{_option(name)} does not go with --replace, which keeps the name of each file.")
    if recipes > 1:
        raise UsageError(f"--replace needs a single recipe, but there are {recipes}. Choose one.")
    if arguments.no_originals and not (arguments.yes or arguments.dry_run):
        raise UsageError("--no-originals deletes the originals for good. Add --yes to confirm, or omit it.")


def run_replacing(arguments: argparse.Namespace, names: Sequence[str], settings: Settings, options: RunOptions) -> int:
    """Replace files, print what was done, and return the exit status."""
    from ..archive.place import check_room
    from ..base.checkpoint import Checkpoint
    from ..engine.settings import inputs_of
    from ..shrinking.limits import Limits
    from ..shrinking.shrinking import ShrinkOptions, shrink
    from ..shrinking.subjects import files_of

    paths = files_of(names, complain_of_folder)
    archive = open_or_default(arguments.archive, [Path(name) for name in names], paths)
    if not settings.dry_run:
        recover_and_print(archive)
        _sweep(paths)
        check_room(archive, 0, [] if arguments.no_originals else paths)
    gain = _LEAST_GAIN if arguments.least_gain is None else arguments.least_gain
    run = time.strftime("%Y%m%d-%H%M%S-") + os.urandom(2).hex()
    asked = ShrinkOptions(run, Limits(gain / 100, arguments.floor or 0.0), keep_originals=not arguments.no_originals)
    tally = _Tally()

    def work(bars: Progress) -> Iterator[Outcome]:
        for one in shrink(paths, settings, archive, asked, bars):
            tally.add(one)
            yield one.outcome

    inputs = inputs_of([], settings.inputs)
    inputs.add(*paths, *(settings.base.paths if isinstance(settings.base, Checkpoint) else ()))
    try:
        status = run_and_print(work, len(paths), inputs, replace(options, continue_on_error=True))
    finally:
        for line in tally.lines(archive, run, dry_run=settings.dry_run):
            print(shown(line))
    return status


@dataclass
class _Tally:
    """The sums of a run."""

    files: int = 0
    before: int = 0
    after: int = 0
    kept: int = 0
    """Bytes of the originals that this run moved to the archive."""
    left: int = 0
    failed: int = 0

    def add(self, one: Shrunk) -> None:
        if one.outcome.error is not None:
            self.failed += 1
        elif one.left is not None or one.outcome.plan is None:
            self.left += 1
        else:
            self.files += 1
            self.before += one.outcome.plan.bytes_before
            self.after += one.outcome.plan.bytes_after
            self.kept += one.entry.bytes_before if one.entry is not None and one.entry.original is not None else 0

    def lines(self, archive: Archive, run: str, *, dry_run: bool) -> Iterator[str]:
        """Yield the last lines of the output."""
        words = "would be replaced" if dry_run else "replaced"
        files = "1 file" if self.files == 1 else f"{self.files} files"
        yield (
            f"{files} {words}: {large(self.before)} before, {large(self.after)} after, "
            f"{large(self.before - self.after)} freed in the LoRA folders; "
            f"{self.left} left alone, {self.failed} failed."
        )
        if self.kept:
            yield (
                f"The originals are in {archive.folder} and take {large(self.kept)} there. "
                f"To get them back: resize-lora restore --run {run}. "
                f"To delete them: resize-lora archive purge --run {run} --yes."
            )


def _sweep(paths: Sequence[Path]) -> None:
    """Remove what a killed run left in the folders of the files."""
    from ..files.atomic import sweep

    for folder in {path.parent for path in paths}:
        sweep(folder)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _percent(text: str) -> float:
    return _between(text, 0.0, 99.0, "a percentage, 0 to 99")


def _share(text: str) -> float:
    return _between(text, 0.0, 1.0, "a weight retention, 0 to 1")


def day_count(text: str) -> float:
    """Parse a number of days."""
    return _between(text, 0.0, 1e6, "a number of days")


def _between(text: str, least: float, most: float, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"{shown(text, 40)!r} is not {what}")
    return value
