"""From the plain arguments of the Python API to the settings of the engine, and from outcomes to results."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any, TypeAlias

from .adapters.write.style import CONVERSIONS, DTYPES, Style
from .base.checkpoint import Checkpoint
from .engine.settings import Outcome, Settings
from .errors import UsageError
from .plans import Plan, Result
from .prompts.sources import SUFFIX, Member, Source
from .recipe.grammar import Recipe, parse_recipes

FilePath: TypeAlias = "str | os.PathLike[str]"
RecipeText: TypeAlias = "str | Recipe"


def settings_of(
    recipe: RecipeText | None, output: FilePath | None, base: FilePath | Checkpoint | None, style: Style, **more: Any
) -> Settings:
    """Return the settings for one file and one recipe. Raises UsageError."""
    recipes = (recipe,) if isinstance(recipe, Recipe) else parse_recipes(recipe) if recipe else ()
    if len(recipes) > 1:
        raise UsageError(f"recipe {recipe!r} is {len(recipes)} recipes; call once for each, or use resize_all.")
    opened = base if base is None or isinstance(base, Checkpoint) else Path(base)
    path = None if output is None else Path(output)
    is_file = path is not None and path.suffix.lower() == SUFFIX and not path.is_dir()
    folder, target = (None, path) if is_file else (path, None)
    return Settings(recipes=recipes, base=opened, style=style, output=folder, target=target, **more)


def style_of(dtype: str, naming: str = "keep", convert: str = "auto") -> Style:
    kohya = _one_of("naming", naming, ("keep", "kohya")) == "kohya"
    word = _one_of("dtype", dtype, DTYPES)
    return Style(DTYPES[word], kohya=kohya, convert=_one_of("convert", convert, CONVERSIONS))


def _one_of(name: str, word: str, known: Iterable[str]) -> str:
    if word not in known:
        raise UsageError(f"{name} {word!r} is not known; use one of {', '.join(known)}.")
    return word


def one_file(source: FilePath) -> Source:
    """Return one file as a source. Raises UsageError for a folder."""
    if Path(source).is_dir():
        raise UsageError(f"{source} is a folder; name one file, or use resize_all.")
    return Source((Member(Path(source)),))


def opened(base: FilePath | Checkpoint | None) -> AbstractContextManager[Checkpoint | None]:
    """Open a checkpoint for a block. One that is already open stays open."""
    if base is None or isinstance(base, Checkpoint):
        return nullcontext(base)
    return closing(Checkpoint(Path(base)))


def first_of(outcomes: Iterator[Outcome]) -> Outcome:
    """Return the only outcome, or raise its error."""
    (outcome,) = outcomes
    if outcome.error is not None:
        raise outcome.error
    return outcome


def planned_of(outcome: Outcome) -> Plan:
    assert outcome.plan is not None, "only skip_existing skips, and this API does not offer it"
    return outcome.plan


def result_of(outcomes: Iterator[Outcome]) -> Result:
    outcome = first_of(outcomes)
    done = planned_of(outcome)
    return Result(Path(done.output), done, outcome.sidecars)
