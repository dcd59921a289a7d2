"""Two checkpoints on the disk, and the LoRA files that recipes make of their difference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from ..adapters.layer import Adapter
from ..base.checkpoint import Checkpoint
from ..engine.analysing import analyse
from ..engine.analysis import Analysis
from ..engine.measuring import with_float8_errors
from ..engine.planning import prepare
from ..engine.runtime import Runtime, open_runtime
from ..engine.settings import Outcome, Settings, check_output
from ..engine.writing import execute
from ..errors import ResizeError
from ..files.file_names import unique_path
from ..files.spool import Spool
from ..files.target import Inputs
from ..progress import Progress
from ..recipe.grammar import Recipe
from .difference import difference
from .models import ExtractOptions


def extract(
    tuned: Checkpoint, base: Checkpoint, wish: ExtractOptions, settings: Settings, progress: Progress
) -> Iterator[Outcome]:
    """Compute the difference once, and write a LoRA of it for each recipe of the settings.

    A recipe that cannot be met is an outcome. Raises what `difference` raises, and OutputError.
    """
    check_output(settings, Inputs((*tuned.paths, *base.paths)))
    with ExitStack() as stack:
        runtime = open_runtime(
            stack, progress, device=settings.device, threads=settings.threads, max_vram=settings.max_vram
        )
        spool = stack.enter_context(Spool(_folder(tuned.path, settings)))
        adapter = of_checkpoints(difference(tuned, base, wish, spool, runtime), tuned, base)
        hashes = [] if settings.dry_run else [runtime.pool.submit(file.sha256) for file in adapter.files]
        needy = any(recipe.needs_base for recipe in settings.all_recipes)
        analysis = analyse(adapter, base if needy else None, settings.all_recipes, runtime)
        for recipe in settings.all_recipes:
            yield _made(analysis, recipe, settings, runtime, hashes)


def of_checkpoints(adapter: Adapter, tuned: Checkpoint, base: Checkpoint) -> Adapter:
    """Return a difference with the files of its two models."""
    models = [(model, file, weight) for model, weight in ((tuned, 1.0), (base, -1.0)) for file in model.files]
    return replace(
        adapter,
        files=tuple(file for _, file, _ in models),
        models=tuple(model.path for model, _, _ in models),
        weights=tuple(weight for *_, weight in models),
    )


def _made(
    analysis: Analysis, recipe: Recipe, settings: Settings, runtime: Runtime, hashes: Sequence[Future[str]]
) -> Outcome:
    folder = _folder(analysis.adapter.paths[0], settings)
    target = settings.target
    try:
        job = prepare(analysis, recipe, settings.style, lambda stem: target or unique_path(folder, stem, ()))
        if settings.dry_run:
            return Outcome(job.plan.source, job.plan, job)
        job = with_float8_errors(job, runtime)
        plan = execute(job, runtime, [future.result() for future in hashes], overwrite=settings.overwrite)
    except ResizeError as error:
        return Outcome(analysis.adapter.name, error=error)
    return Outcome(plan.source, plan, job)


def _folder(tuned: Path, settings: Settings) -> Path:
    """Return the folder of the results and of the spool."""
    return settings.target.parent if settings.target else settings.output or tuned.parent
