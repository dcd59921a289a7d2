"""The options and recipes of a call, from its checked parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..adapters.write.style import DTYPES, Style
from ..errors import RecipeError
from ..recipe.grammar import PRESETS, Recipe, format_number, parse_recipe, parse_recipes
from .faults import Fault
from .names import check_suffix
from .protocol.objects import DEFAULT_SCORES, DEFAULT_SUFFIX, LOADED, OPTIONS, TARGET
from .protocol.types import read_object

MOST_RECIPES = 16
"""Of one call."""


@dataclass(frozen=True)
class Options:
    """How a file is written, besides the recipe; the `Options` of the protocol."""

    dtype: str = "16"
    naming: str = "same"
    suffix: str = DEFAULT_SUFFIX
    folder: str | None = None
    sidecars: bool = True
    scores: str = DEFAULT_SCORES
    rescale: float = 1.0
    reference: str = LOADED
    convert: str = "auto"

    @property
    def style(self) -> Style:
        return Style(dtype=DTYPES[self.dtype], kohya=self.naming == "kohya", convert=self.convert)


def read_options(values: Mapping[str, Any], *, remote: bool) -> Options:
    """Return the options of a call.

    Raises Fault, whose kind is ``remote`` where a page on another machine gives a folder.
    """
    if remote and values.get("folder") is not None:
        raise Fault(
            "remote",
            "Choosing an output folder is disabled because this server is reachable from other machines. "
            "Results are written next to their source.",
        )
    found = read_object(dict(values), OPTIONS.fields, "options")
    return Options(**{**found, "suffix": check_suffix(found["suffix"]), "rescale": float(found["rescale"])})


def read_recipes(params: Mapping[str, Any], options: Options) -> tuple[Recipe, ...]:
    """Return the recipes of `recipe`, or the one of `target`. Raises RecipeError, and Fault for a wrong target."""
    if params.get("recipe") is not None:
        return exact_recipes(params["recipe"])
    return (target_recipe(params["target"], options),)


def read_recipe(params: Mapping[str, Any], options: Options, task: str) -> Recipe:
    """Return the only recipe; `task` is for the message, such as "Planning". Raises what `read_recipes` raises."""
    recipes = read_recipes(params, options)
    if len(recipes) > 1:
        raise RecipeError(f"{task} takes a single recipe; `:` separates several.")
    return recipes[0]


def exact_recipes(text: str) -> tuple[Recipe, ...]:
    """Return the recipes of a text. Raises RecipeError.

    Only exact recipes are possible: a kept analysis holds no factors, without which the others cannot be planned.
    """
    recipes = tuple({str(recipe): recipe for recipe in reversed(parse_recipes(text))}.values())[::-1]
    if len(recipes) > MOST_RECIPES:
        raise RecipeError(f"{len(recipes)} recipes were given; one call makes {MOST_RECIPES} at most.")
    for recipe in recipes:
        if not recipe.is_exact:
            word = recipe.method if recipe.method != "svd" else recipe.fill
            raise RecipeError(
                f"recipe {recipe}: {word} is for the command line, as in resize-lora resize FILE -r {recipe}; "
                f"here rank= is exact, and no other method keeps more."
            )
    return recipes


def target_recipe(target: Mapping[str, Any], options: Options) -> Recipe:
    """Return the recipe of a slider or button. Raises RecipeError and Fault."""
    given = {name: value for name, value in read_object(target, TARGET.fields, "target").items() if value is not None}
    if len(given) != 1:
        raise Fault("request", f"target: give exactly one of {', '.join(field.name for field in TARGET.fields)}.")
    ((kind, value),) = given.items()
    if kind == "effect":
        raise Fault("request", "target: effect is for a run over the library, or call find for one LoRA.")
    scores = [] if kind == "rank" else [options.scores]
    rescale = [] if options.rescale == 1.0 else [f"rescale={format_number(options.rescale, 6)}"]
    return parse_recipe(",".join([*scores, _SELECTIONS[kind](value), *rescale]))


def _preset(value: str) -> str:
    return PRESETS[value].rpartition(",")[2]


def _size(value: float) -> str:
    return f"size={format_number(float(value), 6)}"


def _retention(value: float) -> str:
    """Round down to what the text of a recipe can hold, so that the points of the table are unchanged."""
    return f"retain={format_number(math.floor(value * 1e6) / 1e6, 6)}"


def _rank(value: int) -> str:
    return f"rank={value}"


_SELECTIONS: dict[str, Callable[[Any], str]] = {
    "preset": _preset,
    "size": _size,
    "retention": _retention,
    "rank": _rank,
}
