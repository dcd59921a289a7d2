"""Many LoRAs, many recipes: each file is read and decomposed once, whatever the number of recipes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..adapters.gains import TagGain, remarks_on
from ..adapters.grounded import grounded, needs_ground, overlap
from ..adapters.layer import Adapter
from ..adapters.merge import Weight, first_ranks, merge
from ..adapters.read import read_adapter
from ..adapters.write import Style
from ..base.checkpoint import Checkpoint
from ..base.pairing import looks_like_checkpoint
from ..errors import Cancelled, DeviceError, FileError, OutputError, ResizeError, UnsupportedError, UsageError, internal
from ..files.reader import SafeFile
from ..files.sidecars import SidecarFacts, copy_sidecars, foreign_sidecars, has_sidecars
from ..files.stamp import made_by_us
from ..files.target import RESULT, Inputs, check_folder, check_target
from ..files.walk import exists
from ..linalg.arrays import Arrays, TorchArrays, is_out_of_memory, open_arrays
from ..linalg.threads import one_blas_thread, usable_cores
from ..plans import Plan
from ..progress import Progress, Quiet
from ..prompts.sources import Member, Source
from ..recipe.grammar import DEFAULT_WITH_BASE, DEFAULT_WITHOUT_BASE, Recipe, parse_recipes
from .analysis import Analysis, Runtime, analyse, ground_of
from .jobs import ResizeJob, execute, measured, prepare, wished_stem
from .output_paths import Places


@dataclass(frozen=True)
class Settings:
    """What is asked for beside the sources."""

    recipes: tuple[Recipe, ...] = ()
    """Empty: ``fro_ckpt=1,thr=-3.5`` with a base model, ``high`` without."""
    output: Path | None = None
    """Folder of the results; None: beside each source."""
    base: Checkpoint | Path | None = None
    """A path is opened for the batch; a checkpoint that is open already stays open."""
    style: Style = field(default_factory=Style)
    suffix: str | None = None
    """Ends the new name in place of the recipe."""
    device: str = "cpu"
    threads: int | None = None
    """Workers; None: one a core."""
    max_vram: int | None = None
    """Most bytes of the device's memory; None: no limit of ours."""
    dry_run: bool = False
    overwrite: bool = False
    skip_existing: bool = False
    sidecars: bool = True
    target: Path | None = None
    """The very file to write, for one source and one recipe."""
    inputs: Inputs = field(default_factory=Inputs)
    """More files that must not be replaced; those of sources and base model need not be named."""

    @property
    def all_recipes(self) -> tuple[Recipe, ...]:
        """The recipes asked for, or the default."""
        return self.recipes or parse_recipes(DEFAULT_WITH_BASE if self.base else DEFAULT_WITHOUT_BASE)


@dataclass(frozen=True)
class Outcome:
    """What became of one source and one recipe."""

    source: str
    plan: Plan | None = None
    """None where it failed, or was skipped before it was looked at."""
    job: ResizeJob | None = field(default=None, compare=False)
    """For those who want to look closer. It keeps the source mapped and its spectra in memory: let go of it soon."""
    error: ResizeError | None = None
    skipped: Path | None = None
    """The result that was there already."""
    sidecars: tuple[Path, ...] = ()
    kept: tuple[Path, ...] = ()
    """Sidecars that were there already, are not of ours and stay."""


def resize(sources: Sequence[Source], settings: Settings, progress: Progress | None = None) -> Iterator[Outcome]:
    """Resizes each source by each recipe, one after the other, and yields what became of it.

    A failure of one source is an outcome. Raises PairingError and the like never; UsageError, DeviceError and
    FileError where nothing can begin (device, base model), and Cancelled where `progress` asks for it.
    """
    with contextlib.ExitStack() as stack:
        workshop = _Workshop(settings, inputs_of(sources, settings.inputs), progress or Quiet(), stack)
        for source in sources:
            yield from workshop.outcomes(source)


def inputs_of(sources: Sequence[Source], inputs: Inputs | None = None) -> Inputs:
    """All files of the sources, added to the inputs."""
    inputs = inputs or Inputs()
    inputs.add(*(member.path for source in sources for member in source.members))
    return inputs


def open_runtime(settings: Settings, progress: Progress, stack: contextlib.ExitStack) -> Runtime:
    """What work is done with, until the stack ends. Raises DeviceError, and UsageError for an idle limit."""
    arrays = open_arrays(settings.device)
    if settings.max_vram is not None:
        _limit(arrays, settings.max_vram)
    workers = (settings.threads or usable_cores()) if settings.device == "cpu" else 1
    stack.enter_context(one_blas_thread())
    pool = ThreadPoolExecutor(workers, thread_name_prefix="resize-lora")
    stack.callback(pool.shutdown, wait=True, cancel_futures=True)
    return Runtime(arrays, pool, progress)


class _Workshop:
    """What all sources of a batch share."""

    def __init__(self, settings: Settings, inputs: Inputs, progress: Progress, stack: contextlib.ExitStack) -> None:
        self.settings = settings
        self.inputs = inputs
        _check_recipes(settings)
        check_output(settings, inputs)
        self.runtime = open_runtime(settings, progress, stack)
        self.checkpoint = settings.base if isinstance(settings.base, Checkpoint) else None
        if isinstance(settings.base, Path):
            self.checkpoint = Checkpoint(settings.base)
            stack.callback(self.checkpoint.close)
        inputs.add(*(self.checkpoint.paths if self.checkpoint else ()))
        self.places = Places(settings.output, settings.suffix)

    def outcomes(self, source: Source) -> Iterator[Outcome]:
        """One outcome a recipe, or one for all where the source cannot be read."""
        try:
            done, left = self._skipped(source)
            yield from done
            if not left:
                return
            with contextlib.ExitStack() as stack:
                files = [stack.enter_context(SafeFile(member.path)) for member in source.members]
                hashes = [] if self.settings.dry_run else [self.runtime.pool.submit(file.sha256) for file in files]
                stack.callback(lambda: [future.cancel() for future in hashes])
                yield from self._of_adapter(source, read_source(source, files, self.checkpoint), left, hashes)
        except Cancelled:
            raise
        except Exception as error:
            yield Outcome(source.label, error=_failure(error, source, self.settings))

    def _skipped(self, source: Source) -> tuple[list[Outcome], list[Recipe]]:
        """What need not be opened, and the recipes that are left."""
        if not self.settings.skip_existing:
            return [], list(self.settings.all_recipes)
        found = [(recipe, self.places.existing(source, recipe)) for recipe in self.settings.all_recipes]
        done = [Outcome(source.label, skipped=path) for _, path in found if path is not None]
        return done, [recipe for recipe, path in found if path is None]

    def _of_adapter(
        self, source: Source, adapter: Adapter, recipes: Sequence[Recipe], hashes: Sequence[Future[str]]
    ) -> Iterator[Outcome]:
        if source.found and made_by_us(adapter.metadata):
            yield Outcome(source.label, skipped=source.members[0].path)
            return
        left = []
        for recipe in recipes:
            refusal = self._refusal(source, recipe)
            if refusal is None:
                left.append(recipe)
            else:
                yield Outcome(source.label, error=refusal)
        if not left:
            return
        analysis = analyse(adapter, self.checkpoint, left, self.runtime, convert=self.settings.style.convert)
        for recipe in left:
            try:
                yield self._of_recipe(source, analysis, recipe, hashes)
            except ResizeError as error:
                yield Outcome(source.label, error=error)

    def _refusal(self, source: Source, recipe: Recipe) -> OutputError | None:
        """Why a result could not be written, as far as that is clear before the work."""
        settings = self.settings
        if settings.dry_run or settings.target is not None:
            return None
        try:
            check_folder(self.places.folder_of(source))
            path = self.places.expected(source, recipe)
            if path is not None:
                check_target(path, RESULT, overwrite=settings.overwrite, inputs=self.inputs)
        except OutputError as error:
            return error
        return None

    def _of_recipe(self, source: Source, analysis: Analysis, recipe: Recipe, hashes: Sequence[Future[str]]) -> Outcome:
        settings = self.settings
        placer = self.places.placer(source)
        place = placer if settings.target is None else _always(settings.target)
        job = prepare(analysis, recipe, settings.style, place, suffix=settings.suffix)
        placer.claim(job.path, wished_stem(source.name, recipe, job.choice.threshold, settings.suffix))
        if settings.skip_existing and exists(job.path):
            return Outcome(source.label, job.plan, job, skipped=job.path)
        if settings.dry_run:
            job = measured(job, self.runtime)
            return Outcome(source.label, job.plan, job)
        check_target(job.path, RESULT, overwrite=settings.overwrite, inputs=self.inputs)
        job = measured(job, self.runtime)
        before = _replaced(job.path, settings)
        digests = [future.result() for future in hashes]
        plan = execute(job, self.runtime, digests, overwrite=settings.overwrite, inputs=self.inputs)
        placer.written(job.path)
        copies, kept = _copy_sidecars(source, job.path, settings, before)
        return Outcome(source.label, plan, job, sidecars=copies, kept=kept)


def check_output(settings: Settings, inputs: Inputs) -> None:
    """Raise OutputError where the place that was asked for cannot be written to, before any work."""
    if settings.dry_run:
        return
    if settings.target is not None:
        check_folder(settings.target.parent)
        check_target(settings.target, RESULT, overwrite=settings.overwrite, inputs=inputs)
    elif settings.output is not None:
        check_folder(settings.output)


def _failure(error: Exception, source: Source, settings: Settings) -> ResizeError:
    if isinstance(error, ResizeError):
        return error
    if isinstance(error, (OSError, MemoryError)):
        return FileError(f"{source.label}: {error or 'out of memory'}")
    if isinstance(error, RuntimeError) and is_out_of_memory(error):
        return _no_room(source, settings)
    return internal(source.label, error)


def _limit(arrays: Arrays, most_bytes: int) -> None:
    if not isinstance(arrays, TorchArrays):
        raise UsageError("--max-vram: with -d cpu nothing lies in the memory of a GPU; leave it away or name a device.")
    arrays.limit_memory(most_bytes)


def _no_room(source: Source, settings: Settings) -> DeviceError:
    limit = "" if settings.max_vram is None else f" within --max-vram {settings.max_vram / 2**30:g}"
    return DeviceError(
        f"{source.label}: {settings.device} has no memory left{limit}. Free some or allow more, or take -d cpu."
    )


def _always(path: Path) -> Callable[[str], Path]:
    return lambda _: path


def _check_recipes(settings: Settings) -> None:
    """Said before any LoRA is opened."""
    for recipe in settings.all_recipes:
        if recipe.needs_base and settings.base is None:
            raise UsageError(
                f"recipe {recipe} compares with the base model; name a checkpoint first or after --base, or take a "
                f"recipe that needs none, such as -r medium."
            )


def read_source(source: Source, files: Sequence[SafeFile], base: Checkpoint | None = None) -> Adapter:
    """The LoRA that a source is, merged if it is several; `files` are those of its members. With a base model also
    those merge whose delta rests on it.

    Raises what `read_lora` and `merge` raise.
    """
    if source.is_plain:
        return read_lora(files[0])
    parts = adapters = [read_part(file) for file in files]
    if base is not None and (len(adapters) > 1 or needs_ground(adapters[0])):
        adapters = [grounded(one, ground_of(base)) for one in adapters]
    merged = merge(
        [_cut(adapter, member) for adapter, member in zip(adapters, source.members, strict=True)],
        [_weight_of(member) for member in source.members],
        source.name,
    )
    remarks = [
        remark
        for adapter, member in zip(adapters, source.members, strict=True)
        for remark in (*remarks_on(adapter, member.tags), *_remarks(member))
    ]
    remarks += overlap(parts, adapters)
    return replace(merged, notes=tuple(dict.fromkeys((*merged.notes, *remarks))))


def _cut(adapter: Adapter, member: Member) -> Adapter:
    dyn = member.tags[0].dyn if member.tags else None
    return adapter if dyn is None else first_ranks(adapter, dyn)


def _weight_of(member: Member) -> Weight:
    return TagGain(member.tags) if member.tags else member.weight


def _remarks(member: Member) -> list[str]:
    return [f"<{tag.kind}:{tag.name}>: {remark}" for tag in member.tags for remark in tag.warnings]


def read_lora(file: SafeFile) -> Adapter:
    """`read_adapter`, with a word of its own for a base model that was taken for a LoRA."""
    if looks_like_checkpoint(file.header.entries):
        raise _is_base(file)
    return read_adapter(file)


def read_part(file: SafeFile) -> Adapter:
    """The same for a part of a merge, which may hold nothing but layers that rest on the base model."""
    if looks_like_checkpoint(file.header.entries):
        raise _is_base(file)
    return read_adapter(file, resting=True)


def _is_base(file: SafeFile) -> UnsupportedError:
    return UnsupportedError(
        f"{file.path}: this is a base model, not a LoRA. To compare with it, name it first or after --base."
    )


def _replaced(target: Path, settings: Settings) -> SidecarFacts | None:
    """What was true of the result that is about to be replaced, by which our own sidecars of it are known."""
    if not (settings.sidecars and settings.overwrite and exists(target) and has_sidecars(target)):
        return None
    return _facts(target)


def _facts(path: Path) -> SidecarFacts:
    with SafeFile(path) as file:
        return SidecarFacts(file.header.file_bytes, file.sha256(), modified=path.stat().st_mtime)


def _copy_sidecars(
    source: Source, target: Path, settings: Settings, before: SidecarFacts | None
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """The sidecars that were written, and with --overwrite those that stay."""
    lora = source.members[0].path
    if not settings.sidecars or not has_sidecars(lora):
        return (), ()
    facts = _facts(target)
    written = copy_sidecars(lora, target, facts=facts, replaced=before)
    kept = foreign_sidecars(lora, target, facts=facts) if settings.overwrite else []
    return tuple(written), tuple(kept)
