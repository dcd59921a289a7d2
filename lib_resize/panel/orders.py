"""What a call of `resize` asks for, file by file and recipe by recipe; the same order is not made twice."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..hosts.host import LoraFile
from ..recipe.grammar import Recipe
from ..studies.catalogue import stamp_of
from .options import Options
from .records import Ordered
from .results import Results

Answer = dict[str, Any]


@dataclass(frozen=True)
class Wanted:
    """One file that is to be made."""

    lora: LoraFile
    recipe: Recipe
    order: Ordered


def wanted(
    loras: Sequence[LoraFile], recipes: Sequence[Recipe], options: Options, reference: str | None
) -> list[Wanted]:
    """All files of a call, each once; `reference` is the title of the checkpoint that recipes may compare with."""
    found: dict[str, Wanted] = {}
    chosen = asdict(options)
    for lora in loras:
        stamp = _stamp(lora)
        for recipe in recipes:
            key = json.dumps([str(lora.path), str(recipe), chosen], sort_keys=True)
            found.setdefault(key, Wanted(lora, recipe, Ordered(key, stamp, reference)))
    return list(found.values())


def parted(all: Sequence[Wanted], queued: Mapping[str, str], results: Results) -> tuple[list[Wanted], list[Answer]]:
    """Those that are new, and an answer for each that is in the queue or made already; `queued` is key -> job."""
    new, same = [], []
    for one in all:
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
    except OSError:  # the job says what is wrong with it
        return (0, 0)
