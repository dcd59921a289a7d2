"""What a run is asked for, and what it yields."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ..adapters.write.style import Style
from ..base.checkpoint import Checkpoint
from ..errors import OutputError, ResizeError, UsageError
from ..files.metadata import FitRecord
from ..files.target import RESULT, Inputs, check_folder, check_target
from ..plans import Plan
from ..prompts.sources import Source
from ..recipe.grammar import DEFAULT_WITH_BASE, DEFAULT_WITHOUT_BASE, Recipe, parse_recipes
from .job import ResizeJob
from .runtime import Runtime


class Refine(Protocol):
    """Changes what is written of a planned file: see `fitting`."""

    @property
    def longest(self) -> FitRecord:
        """The longest record that it may add to the file, so that a size is kept."""
        ...

    def __call__(self, job: ResizeJob, runtime: Runtime) -> ResizeJob:
        """Return the job with other factors of the same ranks. Raises ResizeError."""
        ...


@dataclass(frozen=True)
class Settings:
    """The options of a run."""

    recipes: tuple[Recipe, ...] = ()
    """Empty: ``fro_ckpt=1,thr=-3.5`` with a base model, ``high`` without."""
    output: Path | None = None
    """Folder of the results; None: next to each source."""
    base: Checkpoint | Path | None = None
    """A path is opened for the run; a checkpoint that is already open stays open."""
    style: Style = field(default_factory=Style)
    suffix: str | None = None
    """File name suffix in place of the recipe."""
    device: str | None = None
    """As in `open_runtime`."""
    threads: int | None = None
    """Workers; None: one a core."""
    max_vram: int | None = None
    """Limit of the device's memory in bytes; None: no limit."""
    dry_run: bool = False
    overwrite: bool = False
    skip_existing: bool = False
    sidecars: bool = True
    target: Path | None = None
    """The exact file to write, for one source and one recipe."""
    staged: Callable[[Source], Path] | None = None
    """Returns where the new file of a source waits to replace it: for one recipe, without sidecars, and with a `style`
    that keeps the name."""
    decline: Callable[[Plan], str | None] | None = None
    """Returns why a planned file is not written; None writes it."""
    inputs: Inputs = field(default_factory=Inputs)
    """More files that must not be replaced; those of sources and base model are known."""
    refine: Refine | None = None
    """Called between the plan of a file and its writing; not for a dry run."""

    @property
    def all_recipes(self) -> tuple[Recipe, ...]:
        """The recipes that were given, or the default."""
        return self.recipes or parse_recipes(DEFAULT_WITH_BASE if self.base else DEFAULT_WITHOUT_BASE)


@dataclass(frozen=True)
class Outcome:
    """The result of one source and one recipe: a plan, an error, or a skipped file."""

    source: str
    plan: Plan | None = None
    """None where it failed, or was skipped before it was opened."""
    job: ResizeJob | None = field(default=None, compare=False)
    """For callers that look closer. It keeps the source open and its spectra in memory: release it soon."""
    error: ResizeError | None = None
    skipped: Path | None = None
    """The result that already exists."""
    declined: str | None = None
    """Why the source was left alone, after its plan or before it was opened."""
    sidecars: tuple[Path, ...] = ()
    kept: tuple[Path, ...] = ()
    """Existing sidecars that Resize LoRA did not write, and that are kept."""
    sha256: str = ""
    """Of the first file of the source, hex; empty where nothing was written."""


def inputs_of(sources: Sequence[Source], inputs: Inputs | None = None) -> Inputs:
    """Return `inputs` with all files of the sources added."""
    inputs = inputs or Inputs()
    inputs.add(*(member.path for source in sources for member in source.members))
    return inputs


def check_recipes(settings: Settings) -> None:
    """Raise UsageError where a recipe needs a base model and there is none, or has a method that cannot be fitted."""
    for recipe in settings.all_recipes:
        if settings.refine is not None:
            check_can_be_fitted(recipe)
        if recipe.needs_base and settings.base is None:
            raise UsageError(
                f"recipe {recipe} compares with the base model, and none is given. Name a checkpoint first or after "
                f"--base, or use a recipe without a base model, such as -r medium."
            )


def check_can_be_fitted(recipe: Recipe) -> None:
    """Raise UsageError for a recipe whose factors do not come from the exact decomposition."""
    if not recipe.is_exact:
        raise UsageError(
            f"recipe {recipe}: factors are fitted from the exact decomposition. Remove {recipe.method_items[0]}."
        )


def check_output(settings: Settings, inputs: Inputs) -> None:
    """Raise OutputError where the destination cannot be written to, before any work."""
    if settings.dry_run:
        return
    if settings.target is not None:
        check_folder(settings.target.parent)
        check_target(settings.target, RESULT, overwrite=settings.overwrite, inputs=inputs)
    elif settings.output is not None:
        check_folder(settings.output)


def refusal(settings: Settings, folder: Path, path: Path | None, inputs: Inputs) -> OutputError | None:
    """Return why a result cannot be written to `folder`, as far as that is known before the work.

    `path` is the file, None where its name is not known yet.
    """
    if settings.dry_run or settings.target is not None:
        return None
    try:
        check_folder(folder)
        if path is not None:
            check_target(path, RESULT, overwrite=settings.overwrite, inputs=inputs)
    except OutputError as error:
        return error
    return None
