"""The objects of a search for the smallest file that draws the same images."""

from __future__ import annotations

from .objects import BASIS, BOOLEAN, INTEGER, INTEGERS, NUMBER, REFUSED, RESULT, TEXT, TEXTS, TRIAL
from .types import Field, Integer, ListOf, Nullable, Object

LEAST_TARGET, MOST_TARGET = 0.5, 0.999
"""Shares of a LoRA's effect that a search may be asked for."""
SEEDS = (1, 2, 4)
"""Numbers of images that a figure may be measured with."""
SEED_COUNT = Integer(choices=SEEDS)
DIRECTIONS = ("smaller", "larger")

FOUND = Object(
    "Found",
    (
        Field("find", TEXT, "id, for `find_more` and `find_save`"),
        Field("name", TEXT, "of the LoRA"),
        Field("target", NUMBER, "share of the effect that was asked for, 0 to 1"),
        Field("best", Nullable(TRIAL), "the smallest file that keeps the target, or what comes nearest to it"),
        Field("trials", ListOf(TRIAL), "in the order in which they were measured; each size once"),
        Field("effect", Nullable(NUMBER), "mean squared difference between the images with and without the LoRA"),
        Field("noise", Nullable(NUMBER), "the same between two images of the original with the same seed"),
        Field("basis", Nullable(BASIS), "what is compared; null before the first image"),
        Field("weak", BOOLEAN, "the prompt hardly shows the LoRA, so there is no figure and no `best`"),
        Field("seeds", INTEGERS, "seeds of the images"),
        Field("images", INTEGER, "images that were generated, those for a fit included"),
        Field("smaller", BOOLEAN, "`find_more` can try a smaller file"),
        Field("larger", BOOLEAN, "`find_more` can try a larger file"),
        Field("text", TEXT, "the outcome in a sentence"),
        Field("result", Nullable(RESULT), "the file that was written, with `save`"),
    ),
)

FINDS = Object(
    "Searches",
    (
        Field("job", Nullable(TEXT), "id of the first job; null where every name is unknown"),
        Field("jobs", TEXTS, "ids, in order"),
        Field("refused", ListOf(REFUSED), "names that are unknown"),
    ),
)
