"""The plan of a run: a row for each LoRA, from headers and estimates alone."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ...archive.entries import Entry
from ...archive.links import Reason
from ...archive.place import existing_folder
from ...errors import ResizeError
from ...hosts.host import LoraFile
from ...recipe.grammar import PRESETS, Recipe, parse_recipe
from ...shown import MIB
from ..archives import plain
from ..desk import Desk
from ..library import ListedFile
from ..options import Options
from ..protocol.types import Json
from ..references import loaded_info, reference_info
from ..snapshot import Snapshot
from .reasons import Asked, copies, reason

_BYTES = {"16": 1.0, "bf16": 1.0, "32": 2.0, "8": 0.5}
"""Dtype of the options -> size of the new file, relative to 16 bit numbers, which estimates are of."""


@dataclass(frozen=True)
class PlanRow:
    """A LoRA, and what a run would do to it."""

    file: ListedFile
    bytes: int
    """Of the file that is resized."""
    after: int | None
    left: Reason | None

    def to_json(self) -> Json:
        """Return the `Plan row` of the protocol."""
        return {
            "name": self.file.lora.name,
            "folder": self.file.folder,
            "family": self.file.facts.family,
            "bytes": self.bytes,
            "bytes_now": self.file.stamp[0],
            "predicted": self.file.predicted,
            "after": self.after,
            "left": None if self.left is None else self.left.kind,
            "message": "" if self.left is None else self.left.message,
        }


@dataclass(frozen=True)
class PlanRequest:
    """What is planned."""

    names: Sequence[str] | None
    """None: all LoRAs."""
    recipe: Recipe | None
    options: Options
    again: bool
    has_images: bool = False
    """The run makes images with the LoRAs."""


def rows(desk: Desk, asked: PlanRequest, lists: Snapshot) -> tuple[list[PlanRow], list[str]]:
    """Return a row for each LoRA, and the names that are unknown. Waits until all headers are read."""
    files = desk.library.listed(lists)
    unknown = [] if asked.names is None else [name for name in asked.names if name not in files]
    chosen = list(files.values()) if asked.names is None else [files[n] for n in asked.names if n in files]
    by_home = desk.archives.by_home()
    model = loaded_info(lists) if asked.has_images else None
    wanted = Asked(asked.recipe, reference_info(lists, asked.options.reference), asked.again, model)
    found = [_row(desk, file, by_home.get(plain(file.lora.path)), wanted, asked.options) for file in chosen]
    return _without_copies(found, files), unknown


def _row(desk: Desk, file: ListedFile, entry: Entry | None, asked: Asked, options: Options) -> PlanRow:
    is_replaced = entry is not None and entry.is_there and file.stamp[0] in (entry.bytes_after, entry.bytes_before)
    left = reason(file.lora, file.facts, asked, is_replaced=is_replaced)
    if left is not None:
        left = replace(left, message=desk.folders.without(left.message))
    size = entry.bytes_before if entry is not None and is_replaced else file.stamp[0]
    return PlanRow(file, size, None if left else predicted(file, asked.recipe, options), left)


def _without_copies(found: list[PlanRow], files: Mapping[str, ListedFile]) -> list[PlanRow]:
    everything = [(file.lora, file.stamp[0]) for file in files.values() if file.facts.problem is None]
    same = copies(everything) if len(everything) > 1 else {}
    return [
        replace(row, left=Reason("copy", f"It has the same content as {same[row.file.lora.name]}."), after=None)
        if row.left is None and row.file.lora.name in same
        else row
        for row in found
    ]


# Predicted sizes -----------------------------------------------------------------------------------------------


def predicted(file: ListedFile, recipe: Recipe | None, options: Options) -> int | None:
    """Return the bytes that a recipe would write; None where that is not known without an analysis."""
    if recipe is None:
        return None
    if recipe.selection == "size":
        return min(file.stamp[0], int(recipe.value * MIB))
    if recipe.selection != "retain" or file.predicted is None or recipe.weights != _PRESET.weights:
        return None
    size = _between(file.predicted, recipe.value)
    return None if size is None else round(size * _scale(file, options))


def _scale(file: ListedFile, options: Options) -> float:
    wide = 2.0 if file.facts.dtype == "F32" else 1.0
    return wide if options.dtype == "same" else _BYTES[options.dtype]


def _between(sizes: Mapping[str, int | None], retention: float) -> float | None:
    """Return the size at a retention, between those of the presets; the rest that is lost falls by powers of size."""
    points = sorted((_RETENTIONS[preset], size) for preset, size in sizes.items() if size and preset in _RETENTIONS)
    for kept, size in points:
        if math.isclose(kept, retention, abs_tol=1e-6):
            return size
    for (low, small), (high, large) in itertools.pairwise(points):
        if low < retention < high:
            part = (math.log(1 - low) - math.log(1 - retention)) / (math.log(1 - low) - math.log(1 - high))
            return float(small * (large / small) ** part)
    return None


_PRESET = parse_recipe(next(iter(PRESETS.values())))
_RETENTIONS = {preset: parse_recipe(text).value for preset, text in PRESETS.items()}


# The disk ------------------------------------------------------------------------------------------------------


def archive_json(desk: Desk, loras: Sequence[LoraFile]) -> Json:
    """Return the `Plan archive` of the protocol."""
    problem = desk.archives.problem()
    answer: Json = {"folder": desk.archives.folder(), "free": None, "same_disk": False, "problem": ""}
    try:
        place = existing_folder(desk.archives.as_it_is().folder)
        usage = shutil.disk_usage(place)
        answer["free"] = usage.free if usage.total else None
        disks = {folder.stat().st_dev for folder in {lora.path.parent for lora in loras}}
        answer["same_disk"] = disks <= {place.stat().st_dev}
    except (OSError, ResizeError) as error:
        problem = problem or str(error)
    return {**answer, "problem": desk.folders.without(problem)}
