"""The Python API: one function for each thing to do, with paths and recipes as plain text.

Every function raises a `ResizeError` that says what was found, where, and what to do; none of them prints. To work on
many files and see each outcome as it comes, use `resize_all`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from .adapters.write.style import CONVERSIONS, DTYPES, Style
from .base.checkpoint import Checkpoint
from .engine.batch import resize as resize_sources
from .engine.settings import Outcome, Settings
from .errors import UsageError
from .extraction.extract import extract as extract_all
from .extraction.models import ExtractOptions
from .plans import Plan
from .progress import Progress, Quiet
from .prompts.sources import SUFFIX, Member, Source, expand
from .recipe.grammar import ALL_RANKS, Recipe, parse_recipes
from .studies.inspection import Finding, describe

FilePath: TypeAlias = "str | os.PathLike[str]"
RecipeText: TypeAlias = "str | Recipe"


@dataclass(frozen=True)
class Result:
    """A file that was written."""

    path: Path
    """The new file."""
    plan: Plan
    """What was done: sizes in bytes, weight retention, and the rank and error of each layer."""
    sidecars: tuple[Path, ...] = ()
    """Previews and descriptions that were copied to the new name."""


def resize(
    source: FilePath,
    recipe: RecipeText | None = None,
    *,
    output: FilePath | None = None,
    base: FilePath | Checkpoint | None = None,
    dtype: str = "16",
    naming: str = "keep",
    convert: str = "auto",
    device: str = "cpu",
    threads: int | None = None,
    overwrite: bool = False,
    sidecars: bool = True,
    progress: Progress | None = None,
) -> Result:
    """Write a smaller LoRA file, and return where it is and what was kept.

    `recipe` is one recipe of docs/recipes.md, such as ``"medium"``, ``"rank=16"`` or ``"fro_ckpt=1,thr=-3.5"``. Without
    one it is ``fro_ckpt=1,thr=-3.5`` with a base model and ``high`` without. `output` is a folder, or a file that
    ends in ``.safetensors``; without it the file is written next to the source, under a name that says the recipe.
    `base` is a checkpoint to compare with. `dtype` is ``16``, ``bf16``, ``32``, ``8`` (fp8 e4m3) or ``same``.

    Raises UsageError for options that do not fit, RecipeError, FileError, UnsupportedError, PairingError, LayerError,
    DeviceError and OutputError; Cancelled where `progress` asks for it. The source is never written to.

    >>> result = resize("pastry.safetensors", "medium", output="small.safetensors")
    >>> result.path.name
    'small.safetensors'
    >>> result.plan.bytes_after < result.plan.bytes_before
    True
    """
    style = Style(_dtype(dtype), kohya=_kohya(naming), convert=_conversion(convert))
    more = {"device": device, "threads": threads, "overwrite": overwrite, "sidecars": sidecars}
    return _only(resize_sources([_file(source)], _settings(recipe, output, base, style, **more), progress))


def plan(
    source: FilePath,
    recipe: RecipeText | None = None,
    *,
    base: FilePath | Checkpoint | None = None,
    dtype: str = "16",
    threads: int | None = None,
) -> Plan:
    """Say what `resize` would do, with the exact size in bytes, and write nothing. Raises what `resize` raises.

    >>> plan("pastry.safetensors", "rank=4").layers[0].new_rank
    4
    """
    settings = _settings(recipe, None, base, Style(_dtype(dtype)), threads=threads, dry_run=True)
    return _planned(_first(resize_sources([_file(source)], settings)))


def merge(
    loras: Mapping[str, float] | Iterable[tuple[FilePath, float]],
    output: FilePath,
    recipe: RecipeText | None = None,
    *,
    base: FilePath | Checkpoint | None = None,
    dtype: str = "16",
    threads: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Write one LoRA that does what several do together, each at its strength.

    The sum is exact; `recipe` then resizes it, and without one all of its rank is kept. `output` as for `resize`.
    Raises what `resize` raises.

    >>> merge({"pastry.safetensors": 0.6, "ink_locon.safetensors": 0.4}, "both.safetensors").path.name
    'both.safetensors'
    """
    pairs = loras.items() if isinstance(loras, Mapping) else loras
    members = tuple(Member(Path(path), float(strength)) for path, strength in pairs)
    if not members or any(member.weight == 0 for member in members):
        raise UsageError("merge needs at least one LoRA, each with a strength other than 0.")
    more = {"threads": threads, "overwrite": overwrite, "sidecars": False}
    settings = _settings(recipe or ALL_RANKS, output, base, Style(_dtype(dtype)), **more)
    return _only(resize_sources([Source(members)], settings, progress))


def extract(
    tuned: FilePath,
    base: FilePath,
    output: FilePath,
    *,
    rank: int = 64,
    recipe: RecipeText | None = None,
    text_encoders: bool = True,
    dtype: str = "16",
    threads: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Write the difference ``tuned - base`` of two checkpoints as a LoRA.

    It has `rank`, or what `recipe` keeps of that many dimensions. Raises what `resize` raises, and UnsupportedError
    where the two are of different families or no layer differs.

    >>> extract("tuned.safetensors", "base.safetensors", "difference.safetensors", rank=4).plan.layers[0].new_rank
    4
    """
    settings = _settings(
        recipe or f"rank={rank}", output, None, Style(_dtype(dtype)), threads=threads, overwrite=overwrite
    )
    wish = ExtractOptions(rank, text_encoders=text_encoders)
    with _opened(Path(tuned)) as ours, _opened(Path(base)) as theirs:
        assert ours is not None
        assert theirs is not None
        return _only(extract_all(ours, theirs, wish, settings, progress or Quiet()))


def upsample(
    source: FilePath,
    rank: int,
    *,
    output: FilePath | None = None,
    seed: int = 0,
    dtype: str = "same",
    threads: int | None = None,
    overwrite: bool = False,
) -> Result:
    """Write the same LoRA with a larger rank: its delta stays, and the new directions are zero until they are trained.

    `seed` chooses the new directions. Raises what `resize` raises, and LayerError where a layer has a larger rank.

    >>> max(layer.new_rank for layer in upsample("pastry.safetensors", 12).plan.layers)
    12
    """
    recipe = f"rank={rank},extend,seed={seed}"
    settings = _settings(recipe, output, None, Style(_dtype(dtype)), threads=threads, overwrite=overwrite)
    return _only(resize_sources([_file(source)], settings))


def inspect(path: FilePath, *, base: FilePath | Checkpoint | None = None, threads: int | None = None) -> Finding:
    """Say what a LoRA file is: family, kind, ranks, dtypes, effective rank, and its size at several retentions.

    `base` is needed for kinds whose delta rests on the base model. Raises FileError, UnsupportedError and LayerError.

    >>> inspect("pastry.safetensors").family
    'SDXL'
    """
    with _opened(base) as checkpoint:
        return describe(Path(path), base=checkpoint, threads=threads)


def resize_all(
    sources: Iterable[FilePath], settings: Settings | None = None, progress: Progress | None = None
) -> Iterator[Outcome]:
    """Resize files and folders by the settings' recipes, and yield an `Outcome` for each file and recipe.

    A file that fails is an outcome with an `error`, and the work goes on. Raises UsageError, DeviceError and FileError
    where nothing can begin.

    >>> for outcome in resize_all(["pastry.safetensors"], Settings(recipes=parse_recipes("low"), dry_run=True)):
    ...     print(outcome.plan.recipe, outcome.error)
    fro_lora=1,min_rank=1,retain=0.88 None
    """
    return resize_sources(expand([os.fspath(one) for one in sources]), settings or Settings(), progress)


# Options --------------------------------------------------------------------------------------------------------


def _settings(
    recipe: RecipeText | None, output: FilePath | None, base: FilePath | Checkpoint | None, style: Style, **more: Any
) -> Settings:
    """Settings for one file and one recipe. Raises UsageError and RecipeError."""
    recipes = (recipe,) if isinstance(recipe, Recipe) else parse_recipes(recipe) if recipe else ()
    if len(recipes) > 1:
        raise UsageError(f"recipe {recipe!r} is {len(recipes)} recipes; call once for each, or use resize_all.")
    opened = base if base is None or isinstance(base, Checkpoint) else Path(base)
    folder, target = _place(output)
    return Settings(recipes=recipes, base=opened, style=style, output=folder, target=target, **more)


def _place(output: FilePath | None) -> tuple[Path | None, Path | None]:
    """Folder or file of the result, as far as one is given."""
    path = None if output is None else Path(output)
    is_file = path is not None and path.suffix.lower() == SUFFIX and not path.is_dir()
    return (None, path) if is_file else (path, None)


def _dtype(word: str) -> str | None:
    return DTYPES[_one_of("dtype", word, DTYPES)]


def _kohya(naming: str) -> bool:
    return _one_of("naming", naming, ("keep", "kohya")) == "kohya"


def _conversion(word: str) -> str:
    return _one_of("convert", word, CONVERSIONS)


def _one_of(name: str, word: str, known: Iterable[str]) -> str:
    if word not in known:
        raise UsageError(f"{name} {word!r} is not known; use one of {', '.join(known)}.")
    return word


def _file(source: FilePath) -> Source:
    """One file; a folder belongs to `resize_all`. Raises UsageError."""
    path = Path(source)
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name one file, or use resize_all.")
    return Source((Member(path),))


@contextmanager
def _opened(base: FilePath | Checkpoint | None) -> Iterator[Checkpoint | None]:
    """A checkpoint for the block; one that was open before stays open."""
    if base is None or isinstance(base, Checkpoint):
        yield base
        return
    checkpoint = Checkpoint(Path(base))
    try:
        yield checkpoint
    finally:
        checkpoint.close()


# Outcomes -------------------------------------------------------------------------------------------------------


def _first(outcomes: Iterator[Outcome]) -> Outcome:
    """The one outcome. Raises its error."""
    (outcome,) = outcomes
    if outcome.error is not None:
        raise outcome.error
    return outcome


def _planned(outcome: Outcome) -> Plan:
    assert outcome.plan is not None, "nothing is skipped without skip_existing, which this API does not offer"
    return outcome.plan


def _only(outcomes: Iterator[Outcome]) -> Result:
    outcome = _first(outcomes)
    done = _planned(outcome)
    return Result(Path(done.output), done, outcome.sidecars)
