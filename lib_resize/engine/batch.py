"""Many LoRAs, many recipes: each file is read and decomposed once, for any number of recipes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

from ..adapters.layer import Adapter
from ..base.checkpoint import Checkpoint
from ..errors import Cancelled, DeviceError, FileError, ResizeError, internal
from ..files.alike import Layouts
from ..files.metadata import has_resize_record
from ..files.reader import SafeFile
from ..files.target import RESULT, Inputs, check_target
from ..files.walk import exists
from ..linalg.arrays import is_out_of_memory
from ..progress import Progress, Quiet
from ..prompts.sources import Source
from ..recipe.grammar import Recipe
from . import sidecar_copies
from .analysing import analyse
from .analysis import Analysis
from .job import ResizeJob
from .measuring import measured
from .output_names import output_stem
from .output_paths import OutputPaths
from .planning import prepare
from .reading import read_source
from .runtime import open_runtime
from .settings import Outcome, Settings, check_output, check_recipes, inputs_of, refusal
from .sidecar_facts import facts_of_replaced
from .writing import execute

Hashes = Sequence["Future[str]"]
"""SHA-256 of each file of a source, under way."""


def resize(
    sources: Sequence[Source], settings: Settings, progress: Progress | None = None, layouts: Layouts | None = None
) -> Iterator[Outcome]:
    """Resize each source by each recipe, one after the other, and yield an outcome for each.

    `layouts` of an earlier call save time where headers say the same as then. A failure of one source is an outcome.
    Raises UsageError, DeviceError, OutputError and FileError where nothing can begin (options, device, destination,
    base model), and Cancelled where `progress` asks for it.
    """
    with contextlib.ExitStack() as stack:
        run = _Run(settings, inputs_of(sources, settings.inputs), progress or Quiet(), layouts or Layouts(), stack)
        for source in sources:
            yield from run.outcomes(source)


class _Run:
    """What all sources of a run share."""

    def __init__(
        self, settings: Settings, inputs: Inputs, progress: Progress, layouts: Layouts, stack: contextlib.ExitStack
    ) -> None:
        self.settings = settings
        self.inputs = inputs
        check_recipes(settings)
        check_output(settings, inputs)
        self.runtime = open_runtime(
            stack, progress, device=settings.device, threads=settings.threads, max_vram=settings.max_vram
        )
        self.checkpoint = settings.base if isinstance(settings.base, Checkpoint) else None
        if isinstance(settings.base, Path):
            self.checkpoint = Checkpoint(settings.base)
            stack.callback(self.checkpoint.close)
        inputs.add(*(self.checkpoint.paths if self.checkpoint else ()))
        self.layouts = layouts
        self.paths = OutputPaths(settings.output, settings.suffix)

    def outcomes(self, source: Source) -> Iterator[Outcome]:
        """Yield one outcome a recipe, or one for all where the source cannot be read."""
        try:
            done, left = self._existing(source)
            yield from done
            if left:
                yield from self._opened(source, left)
        except Cancelled:
            raise
        except Exception as error:
            yield Outcome(source.label, error=_failure(error, source, self.settings))

    def _existing(self, source: Source) -> tuple[list[Outcome], list[Recipe]]:
        """Return outcomes for results that exist already, and the recipes that are left."""
        if not self.settings.skip_existing:
            return [], list(self.settings.all_recipes)
        found = [(recipe, self.paths.existing(source, recipe)) for recipe in self.settings.all_recipes]
        done = [Outcome(source.label, skipped=path) for _, path in found if path is not None]
        return done, [recipe for recipe, path in found if path is None]

    def _opened(self, source: Source, recipes: Sequence[Recipe]) -> Iterator[Outcome]:
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(SafeFile(member.path, self.layouts)) for member in source.members]
            hashes = [] if self.settings.dry_run else [self.runtime.pool.submit(file.sha256) for file in files]
            stack.callback(lambda: [future.cancel() for future in hashes])
            adapter = read_source(source, files, self.checkpoint)
            if source.found and has_resize_record(adapter.metadata):
                yield Outcome(source.label, skipped=source.members[0].path)
            else:
                yield from self._resized(source, adapter, recipes, hashes)

    def _resized(
        self, source: Source, adapter: Adapter, recipes: Sequence[Recipe], hashes: Hashes
    ) -> Iterator[Outcome]:
        left = []
        for recipe in recipes:
            error = self._refusal(source, recipe)
            if error is None:
                left.append(recipe)
            else:
                yield Outcome(source.label, error=error)
        if not left:
            return
        analysis = analyse(adapter, self.checkpoint, left, self.runtime, convert=self.settings.style.convert)
        for recipe in left:
            try:
                yield self._written(source, analysis, recipe, hashes)
            except ResizeError as error:
                yield Outcome(source.label, error=error)

    def _refusal(self, source: Source, recipe: Recipe) -> ResizeError | None:
        if self.settings.staged is not None:  # a new name, in the folder of a file that can be replaced
            return None
        expected = self.paths.expected(source, recipe)
        return refusal(self.settings, self.paths.folder_of(source), expected, self.inputs)

    def _planned(self, source: Source, analysis: Analysis, recipe: Recipe) -> ResizeJob:
        settings = self.settings
        longest = None if settings.refine is None else settings.refine.longest
        if settings.staged is not None:
            return prepare(analysis, recipe, settings.style, _always(settings.staged(source)), fit=longest)
        paths = self.paths.of(source)
        path_for = paths if settings.target is None else _always(settings.target)
        job = prepare(analysis, recipe, settings.style, path_for, suffix=settings.suffix, fit=longest)
        paths.claim(job.path, output_stem(source.name, recipe, job.choice.threshold, settings.suffix))
        return job

    def _written(self, source: Source, analysis: Analysis, recipe: Recipe, hashes: Hashes) -> Outcome:
        """Plan one file, then write it."""
        settings = self.settings
        job = self._planned(source, analysis, recipe)
        if settings.skip_existing and exists(job.path):
            return Outcome(source.label, job.plan, job, skipped=job.path)
        if not settings.dry_run:
            check_target(job.path, RESULT, overwrite=settings.overwrite, inputs=self.inputs)
            job = job if settings.refine is None else settings.refine(job, self.runtime)
        job = measured(job, self.runtime)
        declined = settings.decline(job.plan) if settings.decline else None
        if settings.dry_run or declined is not None:
            return Outcome(source.label, job.plan, job, declined=declined)
        replaced = facts_of_replaced(job.path, settings)
        digests = [future.result() for future in hashes]
        plan = execute(job, self.runtime, digests, overwrite=settings.overwrite, inputs=self.inputs)
        plan = replace(plan, notes=(*plan.notes, *self.runtime.placement.notes))
        if settings.staged is not None:
            return Outcome(source.label, plan, job, sha256=digests[0])
        self.paths.of(source).written(job.path)
        copies, kept = sidecar_copies.copy(source.members[0].path, job.path, settings, replaced)
        return Outcome(source.label, plan, job, sidecars=copies, kept=kept, sha256=digests[0])


def _always(path: Path) -> Callable[[str], Path]:
    return lambda _: path


def _failure(error: Exception, source: Source, settings: Settings) -> ResizeError:
    if isinstance(error, ResizeError):
        return error
    if isinstance(error, (OSError, MemoryError)):
        return FileError(f"{source.label}: {error or 'out of memory'}")
    if isinstance(error, RuntimeError) and is_out_of_memory(error):
        return _out_of_memory(source, settings)
    return internal(source.label, error)


def _out_of_memory(source: Source, settings: Settings) -> DeviceError:
    if settings.max_vram is None:
        return DeviceError(
            f"{source.label}: {settings.device or 'the device'} is out of memory. Free some, or use -d cpu."
        )
    return DeviceError(
        f"{source.label}: {settings.device} is out of memory within --max-vram {settings.max_vram / 2**30:g}. "
        "Free some, allow more, or use -d cpu."
    )
