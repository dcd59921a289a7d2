"""Let a job write a new file, and record it as a result that can be undone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ..plans import Plan
from ..recipe.grammar import Recipe, parse_recipes
from .curve import ranks_of
from .desk import Desk
from .faults import Fault
from .options import Options
from .protocol.types import Json
from .references import NO_REFERENCE, reference_info
from .resizing import BeforeWriting, NewFile
from .results import Making, now
from .snapshot import HostLists

WriteFile = Callable[[BeforeWriting], NewFile]
"""Writes a file."""


def check_reference(recipes: Sequence[Recipe], options: Options, lists: HostLists) -> None:
    """Raise Fault where a recipe compares with a base model, and there is none."""
    reference = reference_info(lists, options.reference)
    needy = next((recipe for recipe in recipes if recipe.needs_base), None)
    if needy is not None and reference.kind == "none":
        note = reference.note or "None was chosen."
        raise Fault("reference", f"recipe {needy} compares with a base model. {note}")


def make(desk: Desk, making: Making, options: Options, write: WriteFile, more: Json | None = None) -> Json:
    """Let a file be written and record it; return its `Result`, with the fields of `more`."""
    began = time.monotonic()

    def before_writing(plan: Plan, path: Path) -> None:
        compared = reference_info(desk.host, options.reference) if _needs_base(plan) else NO_REFERENCE
        facts = _facts(desk, NewFile(plan, path, (), (), compared), 0.0)
        making.begin(path, plan.bytes_after, {**facts, **(more or {})})

    with making:
        new = write(before_writing)
    desk.files_moved()
    facts = {**_facts(desk, new, time.monotonic() - began), **(more or {})}
    return desk.results.to_json(making.made(_name_of(desk, new.path), new.sidecars, facts))


def _needs_base(plan: Plan) -> bool:
    return any(recipe.needs_base for recipe in parse_recipes(plan.recipe))


def _name_of(desk: Desk, path: Path) -> str:
    """Return the host's name of a file."""
    lora = desk.host.loras().at(path)
    return path.stem if lora is None else lora.name


def _facts(desk: Desk, new: NewFile, seconds: float) -> Json:
    plan, reference = new.plan, new.reference
    return {
        "bytes_before": plan.bytes_before,
        "bytes_after": plan.bytes_after,
        "saved": plan.saved,
        "retention": plan.retention,
        "recipe": plan.recipe,
        "notes": [desk.folders.without(note) for note in (*plan.notes, *new.notes)],
        "ranks": ranks_of([layer.new_rank for layer in plan.layers]),
        "layers_gone": len(plan.dropped),
        "made": now(),
        "seconds": round(seconds, 2),
        "device": reference.device,
        "reference": reference.to_json(),
    }
