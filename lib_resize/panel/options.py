"""What a page sends, checked where it comes in: parameters, options and targets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..adapters.write.style import CONVERSIONS, DTYPES, Style
from ..errors import RecipeError
from ..recipe.grammar import PRESETS, Recipe, format_number, parse_recipe, parse_recipes
from .faults import Fault
from .names import check_suffix

DEFAULT_SCORES = "fro_lora=1,min_rank=1"
LOADED, NONE = "loaded", "none"
_MOST_NAMES = 20_000
_LONGEST = 10_000
MOST_RECIPES = 16
"""Of one call."""
_REQUIRED = object()


class Params:
    """A call's parameters. Each is taken by its name and type; what is left over is refused. Raises Fault."""

    def __init__(self, values: Any, where: str = "params") -> None:
        if not isinstance(values, dict):
            raise Fault("request", f"{where}: an object was expected, found {type(values).__name__}.")
        self._values: dict[str, Any] = dict(values)
        self._where = where

    def finish(self) -> None:
        """Nothing may be left."""
        if self._values:
            raise Fault("request", f"{self._where}: unknown {', '.join(map(_short, self._values))}.")

    def finish_after(self, *taken: str) -> None:
        """The same, where some may be there as null."""
        self._values = {name: value for name, value in self._values.items() if name not in taken or value is not None}
        self.finish()

    def has(self, name: str) -> bool:
        return self._values.get(name) is not None

    def text(self, name: str, default: Any = _REQUIRED, longest: int = _LONGEST) -> str:
        value = self._take(name, default)
        if not isinstance(value, str) or len(value) > longest:
            raise self._fault(name, f"a text of at most {longest} characters", value)
        return value

    def flag(self, name: str, default: bool) -> bool:
        value = self._take(name, default)
        if not isinstance(value, bool):
            raise self._fault(name, "true or false", value)
        return value

    def whole(self, name: str, default: Any = _REQUIRED) -> int:
        value = self._take(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) > 2**53:
            raise self._fault(name, "a whole number", value)
        return value

    def number(self, name: str, default: Any = _REQUIRED) -> float:
        value = self._take(name, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) < 1e300:
            raise self._fault(name, "a number", value)
        return float(value)

    def texts(self, name: str, most: int = _MOST_NAMES) -> list[str]:
        """A list of texts that is not empty, each once."""
        value = self._take(name, _REQUIRED)
        if not isinstance(value, list) or not 0 < len(value) <= most or not all(_is_name(item) for item in value):
            raise self._fault(name, f"a list of 1 to {most} texts", value)
        return list(dict.fromkeys(value))

    def object(self, name: str) -> dict[str, Any]:
        value = self._take(name, {})
        if not isinstance(value, dict):
            raise self._fault(name, "an object", value)
        return value

    def _take(self, name: str, default: Any) -> Any:
        value = self._values.pop(name, None)
        if value is None:
            if default is _REQUIRED:
                raise Fault("request", f"{self._where}: {name} is missing.")
            return default
        return value

    def _fault(self, name: str, wanted: str, found: Any) -> Fault:
        return Fault("request", f"{self._where}: {name} must be {wanted}, found {_short(found)}.")


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, (str, int, float, bool)) else type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."


@dataclass(frozen=True)
class Options:
    """How a file is made, beside the recipe; see docs/panel-protocol.md."""

    dtype: str = "16"
    naming: str = "same"
    suffix: str = "_{size}"
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
    """Raises Fault; its kind is ``remote`` where a folder is named by a page on another machine."""
    params = Params(values, "options")
    if remote and params.has("folder"):
        raise Fault("remote", "Folders cannot be chosen from another machine; results go beside their source.")
    found = Options(
        dtype=one_of("dtype", params.text("dtype", "16"), tuple(DTYPES)),
        naming=one_of("naming", params.text("naming", "same"), ("same", "kohya")),
        suffix=check_suffix(params.text("suffix", "_{size}")),
        folder=params.text("folder") if params.has("folder") else None,
        sidecars=params.flag("sidecars", True),
        scores=params.text("scores", DEFAULT_SCORES),
        rescale=params.number("rescale", 1.0),
        reference=params.text("reference", LOADED),
        convert=one_of("convert", params.text("convert", "auto"), tuple(CONVERSIONS)),
    )
    params.text("folder", "")
    params.finish()
    return found


def one_of(name: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise Fault("request", f"options: {name} must be one of {', '.join(known)}, found {_short(value)}.")
    return value


def read_recipes(params: Params, options: Options) -> tuple[Recipe, ...]:
    """From `recipe` or `target`. Raises RecipeError, or Fault where neither or both are there."""
    if params.has("recipe") == params.has("target"):
        raise Fault("request", "params: give either recipe or target.")
    if params.has("recipe"):
        return exact_recipes(params.text("recipe"))
    return (target_recipe(params.object("target"), options),)


def exact_recipes(text: str) -> tuple[Recipe, ...]:
    """What is kept of an analysed file holds no factors, without which other methods cannot be planned; and none loses
    less than the exact one. Raises RecipeError."""
    recipes = tuple({str(recipe): recipe for recipe in reversed(parse_recipes(text))}.values())[::-1]
    if len(recipes) > MOST_RECIPES:
        raise RecipeError(f"{len(recipes)} recipes were given; {MOST_RECIPES} at a time can be made.")
    for recipe in recipes:
        if not recipe.is_exact:
            word = recipe.method if recipe.method != "svd" else recipe.fill
            raise RecipeError(
                f"recipe {recipe}: {word} is for the command line, as in resize-lora resize FILE -r {recipe}; "
                f"here rank= is exact, which no other method betters."
            )
    return recipes


def read_recipe(params: Params, options: Options) -> Recipe:
    """One alone. Raises what `read_recipes` raises."""
    recipes = read_recipes(params, options)
    if len(recipes) > 1:
        raise RecipeError("One recipe at a time can be planned; a colon parts two.")
    return recipes[0]


def target_recipe(target: Mapping[str, Any], options: Options) -> Recipe:
    """What a slider or a button means. Raises RecipeError and Fault."""
    params = Params(target, "target")
    if len(target) != 1:
        raise Fault("request", "target: exactly one of preset, size, retention and rank is needed.")
    rescale = "" if options.rescale == 1.0 else f",rescale={format_number(options.rescale, 6)}"
    kind = next(iter(target))
    if kind == "preset":
        preset = one_of("preset", params.text("preset"), tuple(PRESETS))
        selection = PRESETS[preset].rpartition(",")[2]
    elif kind == "size":
        selection = f"size={format_number(params.number('size'), 6)}"
    elif kind == "retention":
        # Down to what a recipe's text can hold, so that the table's points come out as they went in.
        selection = f"retain={format_number(math.floor(params.number('retention') * 1e6) / 1e6, 6)}"
    elif kind == "rank":
        return parse_recipe(f"rank={params.whole('rank')}{rescale}")
    else:
        raise Fault("request", f"target: unknown {_short(kind)}; preset, size, retention and rank are known.")
    return parse_recipe(f"{options.scores},{selection}{rescale}")
