"""Recipes as text and as data.

A recipe is a list of items separated by commas; several recipes are separated by colons::

    fro_ckpt=0.8,params=0.2,size=50:medium:rank=16,max_conv_rank=8

* Scores, each with a weight (default 1; weights are normalised to sum 1): see `SCORES`.
* Exactly one selection: see `SELECTIONS`.
* Limits for any selection: ``max_rank max_conv_rank min_rank``.
* ``rescale``: the strength of the result.
* How ``rank=`` computes the factors, and how it fills lower ranks: see `METHODS`, `FILLS` and `METHOD_NUMBERS`.
* A preset (`PRESETS`) is a short form of its items; limits may follow it.

This module imports neither torch nor numpy: text is checked before any file is opened.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..errors import RecipeError

SCORES: dict[str, str] = {
    "spn_ckpt": "largest singular value of the base layer",
    "spn_lora": "largest singular value of the LoRA layer",
    "fro_ckpt": "Frobenius norm of the base layer",
    "fro_lora": "Frobenius norm of the LoRA layer",
    "subspace": "how much the base layer acts along the dimension itself",
    "params": "numbers stored per rank",
}
"""The references that the strength of a dimension is compared with."""

BASE_SCORES = frozenset({"spn_ckpt", "fro_ckpt", "subspace"})
"""Scores that need the base model."""
SELF_SCORES = frozenset({"spn_lora", "fro_lora"})
"""Scores that compare a layer with itself. They are used for layers without a base layer."""

SELECTIONS: dict[str, str] = {
    "thr": "keep dimensions whose log10 score is at least this",
    "size": "largest file with at most this many MiB",
    "retain": "fewest dimensions that keep this share of the whole LoRA's Frobenius norm",
    "rank": "the same rank in every layer",
    "sv_ratio": "per layer, dimensions stronger than the strongest divided by this",
    "sv_fro": "per layer, fewest dimensions that keep this share of its Frobenius norm",
    "sv_cumulative": "per layer, fewest dimensions that keep this share of the sum of its singular values",
}
"""The rules for how many dimensions are kept."""

SCORED_SELECTIONS = frozenset({"thr", "size", "retain"})
"""Selections that rank the dimensions of all layers together, by score."""

LIMITS: dict[str, str] = {
    "max_rank": "no layer keeps more dimensions than this",
    "max_conv_rank": "the same for convolutions larger than 1x1, in place of max_rank and rank",
    "min_rank": "every layer that is not zero keeps at least this many",
}

METHODS: dict[str, str] = {
    "svd": "singular value decomposition, exact (the default)",
    "rsvd": "randomised singular value decomposition, nearly exact",
    "projection": "dense random projection, right on average only",
    "sparse": "sparse random projection, right on average only",
}
"""How ``rank=`` computes the factors of the lower rank."""

FILLS: dict[str, str] = {
    "pad": "layers of a lower rank are padded with zeros, so that all have exactly the rank of rank=",
    "extend": "the same, with new directions in down, orthonormal to the old ones, and zeros in up",
}
"""How ``rank=`` fills layers of a lower rank."""

METHOD_NUMBERS: dict[str, str] = {
    "niter": "power iterations of rsvd (2)",
    "oversample": "directions that rsvd computes besides those it keeps (8)",
    "seed": "of the random numbers of rsvd, projection, sparse and extend (0)",
}
"""Numbers of methods and fills, and their defaults."""

NUMBERS_OF: dict[str, tuple[str, ...]] = {
    "rsvd": ("niter", "oversample", "seed"),
    "projection": ("seed",),
    "sparse": ("seed",),
    "extend": ("seed",),
}
"""Method or fill -> the numbers that it uses. Others use none."""

PRESETS: dict[str, str] = {
    "high": "fro_lora=1,min_rank=1,retain=0.95",
    "medium": "fro_lora=1,min_rank=1,retain=0.92",
    "low": "fro_lora=1,min_rank=1,retain=0.88",
}

DEFAULT_WITH_BASE = "fro_ckpt=1,thr=-3.5"
DEFAULT_WITHOUT_BASE = "high"
ALL_RANKS = "rank=100000"
"""The recipe that keeps everything: no layer has so many ranks."""


@dataclass(frozen=True)
class Recipe:
    """One rule for what to keep."""

    weights: dict[str, float]
    """Score name -> weight; they sum to 1. Empty where the selection needs no score."""
    selection: str
    """One of `SELECTIONS`."""
    value: float
    """The selection's number: log10, MiB, share, rank or ratio."""
    rescale: float = 1.0
    """All singular values are multiplied by this before scoring and in the result."""
    max_rank: int | None = None
    max_conv_rank: int | None = None
    min_rank: int = 0
    method: str = "svd"
    """One of `METHODS`; other than svd only with ``rank``."""
    fill: str = ""
    """One of `FILLS`, only with ``rank``; empty: layers may have less than its rank."""
    niter: int = 2
    oversample: int = 8
    seed: int = 0
    text: str = field(default="", compare=False)
    """As the user wrote it."""

    @property
    def is_exact(self) -> bool:
        """Whether the new factors come from the exact decomposition alone."""
        return self.method == "svd" and self.fill != "extend"

    @property
    def method_items(self) -> tuple[str, ...]:
        """Method and fill with their numbers, as items of the recipe; empty for the default."""
        words = [word for word in (self.method, self.fill) if word not in ("svd", "")]
        numbers = dict.fromkeys(name for word in words for name in NUMBERS_OF.get(word, ()))
        return (*words, *(f"{name}={getattr(self, name)}" for name in numbers))

    @property
    def needs_base(self) -> bool:
        """Whether a score compares with the base model."""
        return self.selection in SCORED_SELECTIONS and any(name in BASE_SCORES for name in self.weights)

    def rank_limit(self, is_conv: bool) -> int | None:
        """Return the largest rank that a layer may keep; None for no limit."""
        if is_conv and self.max_conv_rank is not None:
            return self.max_conv_rank
        return self.max_rank

    def __str__(self) -> str:
        """The complete recipe in a fixed order, numbers to six decimals. Parsing it gives the same selection."""
        items = [f"{name}={format_number(weight, 6)}" for name, weight in sorted(self.weights.items())]
        if self.rescale != 1.0:
            items.append(f"rescale={format_number(self.rescale, 6)}")
        for limit in ("max_rank", "max_conv_rank", "min_rank"):
            if getattr(self, limit):
                items.append(f"{limit}={getattr(self, limit)}")
        return ",".join([*items, *self.method_items, f"{self.selection}={format_number(self.value, 6)}"])


def parse_recipes(text: str) -> tuple[Recipe, ...]:
    """Return all recipes of a text, in order. Raises RecipeError with the column of the first error."""
    recipes = []
    start = 0
    for part in text.split(":"):
        recipes.append(parse_recipe(part, offset=start))
        start += len(part) + 1
    return tuple(recipes)


def parse_recipe(text: str, *, offset: int = 0) -> Recipe:
    """Return one recipe. `offset` is added to the columns in error messages. Raises RecipeError."""
    parser = _RecipeParser(text, offset)
    for item, column in _items(text, offset):
        parser.add(item, column)
    return parser.recipe()


def with_method_items(recipes: Sequence[Recipe], items: Sequence[str]) -> tuple[Recipe, ...]:
    """Return the recipes, with `items` (words and numbers of methods) added to those with ``rank=`` that have none.

    Raises RecipeError if no recipe has ``rank=``.
    """
    if items and not any(recipe.selection == "rank" for recipe in recipes):
        raise RecipeError(f"{', '.join(items)}: works only with a recipe of rank=, such as -r rank=16.")
    return tuple(
        parse_recipe(",".join([str(recipe), *items]))
        if recipe.selection == "rank" and not recipe.method_items
        else recipe
        for recipe in recipes
    )


def format_number(value: float, decimals: int) -> str:
    """Return a number without trailing zeros: 1.0 -> "1", -2.8710 -> "-2.871"."""
    text = f"{value:.{decimals}f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def _items(text: str, offset: int) -> list[tuple[str, int]]:
    found, column = [], offset
    for item in text.split(","):
        found.append((item, column + 1 + len(item) - len(item.lstrip())))
        column += len(item) + 1
    return [(item.strip(), at) for item, at in found]


def _known_words() -> str:
    return (
        f"scores: {' '.join(SCORES)}; exactly one selection: {' '.join(SELECTIONS)}; "
        f"limits: {' '.join(LIMITS)}; rescale; with rank=: {' '.join((*METHODS, *FILLS, *METHOD_NUMBERS))}; "
        f"or a preset: {' '.join(PRESETS)}"
    )


class _RecipeParser:
    """Collects the items of one recipe, and checks each with its column."""

    def __init__(self, text: str, offset: int) -> None:
        self.text = text
        self.offset = offset
        self.weights: dict[str, float] = {}
        self.selections: dict[str, float] = {}
        self.others: dict[str, float] = {}
        self.from_preset: set[str] = set()  # a preset's limits may be given again
        self.words: dict[str, str] = {}  # of METHODS and FILLS
        self.columns: dict[str, int] = {}  # of the items that are numbers

    def add(self, item: str, column: int) -> None:
        """Add one item of the recipe. Raises RecipeError with its column."""
        if item in PRESETS:
            self._add_preset(item, column)
        elif item in METHODS or item in FILLS:
            self._add_word("method" if item in METHODS else "fill", item, column)
        else:
            self._add_number(item, column)

    def _add_preset(self, preset: str, column: int) -> None:
        if self.weights or self.selections:
            raise self._fault(f"the preset {preset!r} must come first", column)
        for item in PRESETS[preset].split(","):
            self.add(item, column)
        self.from_preset = set(LIMITS) & set(self.others)

    def _add_number(self, item: str, column: int) -> None:
        name, equals, value = (part.strip() for part in item.partition("="))
        if not name:
            raise self._fault("an item is empty", column)
        if name not in SCORES and name not in _RULES:
            raise self._fault(f"unknown word {name!r}. Known are {_known_words()}", column)
        place = self._place_of(name)
        if name in place and name not in self.from_preset:
            raise self._fault(f"{name!r} is given twice", column)
        if name not in SCORES and not equals:
            raise self._fault(f"{name!r} needs a number, as in {name}={_RULES[name].example}", column)
        place[name] = self._number(name, value if equals else "1", column)
        self.columns[name] = column
        self.from_preset.discard(name)

    def _place_of(self, name: str) -> dict[str, float]:
        if name in SCORES:
            return self.weights
        return self.selections if name in SELECTIONS else self.others

    def _add_word(self, kind: str, word: str, column: int) -> None:
        if kind in self.words:
            raise self._fault(f"{self.words[kind]!r} and {word!r}: only one is possible", column)
        self.words[kind] = word

    def recipe(self) -> Recipe:
        selection, value = self._selection()
        self._check_way(selection)
        low, high = int(self.others.get("min_rank", 0)), self.others.get("max_rank")
        if high is not None and low > high:
            raise self._fault(f"min_rank={low} is above max_rank={int(high)}", self.offset + 1)
        return Recipe(
            weights=self._weights(selection),
            selection=selection,
            value=value,
            rescale=self.others.get("rescale", 1.0),
            max_rank=_whole(self.others.get("max_rank")),
            max_conv_rank=_whole(self.others.get("max_conv_rank")),
            min_rank=low,
            method=self.words.get("method", "svd"),
            fill=self.words.get("fill", ""),
            **{name: int(self.others[name]) for name in METHOD_NUMBERS if name in self.others},
            text=self.text.strip(),
        )

    def _check_way(self, selection: str) -> None:
        """Check that words and numbers of methods are used where they have an effect."""
        method, fill = self.words.get("method", "svd"), self.words.get("fill", "")
        given = [*self.words.values(), *(name for name in METHOD_NUMBERS if name in self.others)]
        if given and selection != "rank":
            raise self._fault(f"{given[0]!r} works only with rank=, found {selection}=", self.offset + 1)
        self._check_method_numbers(method, fill)
        if fill == "extend" and method != "svd":
            raise self._fault(f"'extend' reduces no rank, so {method!r} has no effect", self.offset + 1)

    def _check_method_numbers(self, method: str, fill: str) -> None:
        """Check that the method or the fill uses each number. Raises RecipeError with the number's column."""
        used = {*NUMBERS_OF.get(method, ()), *NUMBERS_OF.get(fill, ())}
        for name in METHOD_NUMBERS:
            if name in self.others and name not in used:
                *most, last = [word for word, numbers in NUMBERS_OF.items() if name in numbers]
                words = f"{', '.join(most)} or {last}" if most else last
                wrong = f"{name!r} works only with {words}, found {method}; change the method or remove {name}"
                raise self._fault(wrong, self.columns[name])

    def _selection(self) -> tuple[str, float]:
        if len(self.selections) != 1:
            found = " and ".join(self.selections) or "none"
            raise self._fault(
                f"exactly one selection is needed, found {found}. Known are {_known_words()}", self.offset + 1
            )
        return next(iter(self.selections.items()))

    def _weights(self, selection: str) -> dict[str, float]:
        if selection not in SCORED_SELECTIONS and not self.weights:
            return {}
        weights = self.weights or {"fro_lora": 1.0}
        total = sum(weights.values())
        if total <= 0:
            raise self._fault("the weights of the scores sum to 0; give one of them a weight above 0", self.offset + 1)
        return {name: weight / total for name, weight in weights.items() if weight > 0}

    def _number(self, name: str, value: str, column: int) -> float:
        rule = _RULES.get(name, _WEIGHT)
        try:
            parsed = float(value)
        except ValueError:
            parsed = math.nan
        if not math.isfinite(parsed) or not rule.accepts(parsed):
            raise self._fault(f"{name}={value!r}: {rule.wants}, as in {name}={rule.example}", column)
        return parsed

    def _fault(self, what: str, column: int) -> RecipeError:
        error = RecipeError(f"recipe {self.text.strip()!r}, column {column}: {what}.")
        error.column = column
        return error


@dataclass(frozen=True)
class _NumberRule:
    accepts: Callable[[float], bool]
    wants: str
    example: str


_SHARE = _NumberRule(lambda x: 0 < x <= 1, "must be above 0 and at most 1", "0.95")
_RANK = _NumberRule(lambda x: 1 <= x <= 100_000 and x == int(x), "must be a whole number, 1 to 100000", "16")
_COUNT = _NumberRule(lambda x: 0 <= x < 2**63 and x == int(x), "must be a whole number of at least 0", "1")
_WEIGHT = _NumberRule(lambda x: 0 <= x <= 1e6, "must be a weight, 0 to 1000000", "0.5")
_RULES: dict[str, _NumberRule] = {
    "thr": _NumberRule(lambda x: abs(x) <= 1000, "must be a number, -1000 to 1000", "-3.5"),
    "size": _NumberRule(lambda x: 0 < x <= 1e9, "must be a size in MiB, above 0 and at most 1e9", "32"),
    "retain": _SHARE,
    "rank": _RANK,
    "sv_ratio": _NumberRule(lambda x: 1 <= x <= 1e9, "must be a ratio, 1 to 1e9", "5"),
    "sv_fro": _SHARE,
    "sv_cumulative": _SHARE,
    "max_rank": _RANK,
    "max_conv_rank": _RANK,
    "min_rank": _COUNT,
    "niter": _COUNT,
    "oversample": _COUNT,
    "seed": _COUNT,
    "rescale": _NumberRule(lambda x: 1e-3 <= x <= 1e3, "must be a strength, 0.001 to 1000", "0.8"),
}


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
