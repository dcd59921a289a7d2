"""Replace one file after the other by a smaller one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

from ..archive.entries import Entry
from ..archive.links import Reason
from ..archive.place import Archive
from ..archive.replacing import Replacement, replace, staged_path
from ..base.checkpoint import Checkpoint
from ..engine.batch import resize
from ..engine.settings import Outcome, Settings
from ..errors import FileError, OutputError, ResizeError
from ..plans import Plan
from ..progress import Progress
from ..prompts.sources import Member, Source
from .limits import Limits, too_little
from .subjects import Left, Subject, Subjects, reason_of


@dataclass(frozen=True)
class ShrinkOptions:
    """What is done with originals, and which gains are too small."""

    run: str
    """Id of the run, for the entries."""
    limits: Limits = field(default_factory=Limits)
    keep_originals: bool = True


@dataclass(frozen=True)
class Shrunk:
    """What was done with a file."""

    home: Path
    outcome: Outcome
    """With the plan, or the error."""
    left: Reason | None = None
    """Why it was left alone."""
    entry: Entry | None = None
    """Of its original; None in a dry run."""


def facts_of(settings: Settings) -> dict[str, Any]:
    """Return how files are made with these settings, as JSON values by which an earlier run is recognised."""
    style = settings.style
    base = settings.base.path if isinstance(settings.base, Checkpoint) else settings.base
    return {
        "recipe": str(settings.all_recipes[0]),
        "dtype": style.dtype or "same",
        "naming": "kohya" if style.kohya else "keep",
        "convert": style.convert,
        "base": None if base is None else base.name,
    }


def shrink(
    paths: Sequence[Path], settings: Settings, archive: Archive, options: ShrinkOptions, progress: Progress
) -> Iterator[Shrunk]:
    """Replace each file by a smaller one, and yield what was done with it. A failure of one file is an outcome.

    Raises what `engine.batch.resize` raises where nothing can begin, and Cancelled.
    """
    subjects = Subjects(archive, paths, facts_of(settings))
    for path in paths:
        yield _shrunk(path, subjects, settings, archive, options, progress)


def _shrunk(
    path: Path,
    subjects: Subjects,
    settings: Settings,
    archive: Archive,
    options: ShrinkOptions,
    progress: Progress,
) -> Shrunk:
    try:
        subject = subjects.of(path)
        if isinstance(subject, Left):
            return _left(path, subject.reason)
        return _replaced(subject, settings, archive, options, progress)
    except OSError as error:
        return Shrunk(path, Outcome(str(path), error=FileError(f"{path}: cannot be read: {error.strerror}.")))
    except (FileError, OutputError) as error:
        return _failed(path, error)


def _replaced(
    subject: Subject, settings: Settings, archive: Archive, options: ShrinkOptions, progress: Progress
) -> Shrunk:
    """Make the smaller file, and replace the old one once no file is open any more."""
    home, staged = subject.home, staged_path(subject.home)
    try:
        outcome = _made(subject, staged, settings, options, progress)
    except BaseException:
        with contextlib.suppress(OSError):
            staged.unlink()
        raise
    if outcome.error is not None:
        return _failed(home, outcome.error)
    if outcome.plan is None or outcome.declined is not None:
        return Shrunk(home, outcome, None if outcome.plan is None else too_little(outcome.plan, options.limits))
    if settings.dry_run:
        return Shrunk(home, outcome)
    facts = {**facts_of(settings), "retention": outcome.plan.retention, "threshold": outcome.plan.threshold}
    asked = Replacement(home, staged, outcome.sha256, options.run, home.stem, options.keep_originals, facts)
    return Shrunk(home, outcome, entry=replace(archive, asked))


def _made(subject: Subject, staged: Path, settings: Settings, options: ShrinkOptions, progress: Progress) -> Outcome:
    """Return the outcome, in which source and result have the name of the file that is replaced."""

    def decline(plan: Plan) -> str | None:
        reason = too_little(plan, options.limits)
        return None if reason is None else reason.message

    style = changed(settings.style, keep_name=True)
    own = changed(settings, style=style, sidecars=False, staged=lambda _: staged, decline=decline)
    (outcome,) = resize([Source((Member(subject.source),))], own, progress)
    home = str(subject.home)
    plan = None if outcome.plan is None else changed(outcome.plan, source=home, output=home)
    return changed(outcome, source=home, plan=plan)


def _left(path: Path, reason: Reason) -> Shrunk:
    return Shrunk(path, Outcome(str(path), declined=reason.message), left=reason)


def _failed(path: Path, error: ResizeError) -> Shrunk:
    reason = reason_of(error, path)
    if reason is not None:
        return _left(path, reason)
    return Shrunk(path, Outcome(str(path), error=error))
