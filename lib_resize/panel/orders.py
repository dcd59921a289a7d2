"""The orders of a call of `resize`, one for each file and recipe; the same order is not made twice."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from ..hosts.host import LoraFile
from ..recipe.grammar import Recipe
from ..studies.catalogue import stamp_of
from .options import Options
from .protocol.types import Json
from .records import Ordered
from .results import Results


@dataclass(frozen=True)
class FileOrder:
    """A file that is to be made of one LoRA with one recipe."""

    lora: LoraFile
    recipe: Recipe
    order: Ordered


def file_orders(
    loras: Sequence[LoraFile],
    recipes: Sequence[Recipe],
    options: Options,
    reference: str | None,
    fit: Json | None = None,
) -> list[FileOrder]:
    """Return the orders of a call, each once; `reference` is the title of the checkpoint that recipes may use.

    `fit` is how the files are fitted to images, as the page sent it.
    """
    found: dict[str, FileOrder] = {}
    chosen = asdict(options)
    for lora in loras:
        stamp = _stamp(lora)
        for recipe in recipes:
            key = json.dumps([str(lora.path), str(recipe), chosen, *([] if fit is None else [fit])], sort_keys=True)
            found.setdefault(key, FileOrder(lora, recipe, Ordered(key, stamp, reference)))
    return list(found.values())


def new_and_same(
    orders: Sequence[FileOrder], queued: Mapping[str, str], results: Results
) -> tuple[list[FileOrder], list[Json]]:
    """Return the orders that are new, and the `Same order` of the protocol for the others; `queued` is key -> job."""
    new, same = [], []
    for one in orders:
        job = queued.get(one.order.key)
        made = None if job is not None else results.made_by(one.order)
        if job is None and made is None:
            new.append(one)
        else:
            entry = {"name": one.lora.name, "recipe": str(one.recipe), "job": job}
            same.append({**entry, "result": None if made is None else made.id})
    return new, same


def _stamp(lora: LoraFile) -> tuple[int, int]:
    try:
        return stamp_of(lora.path)
    except OSError:  # the job reports what is wrong
        return (0, 0)
