"""What jobs of a search do and return: the search itself, one more step, and the file that is saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...plans import Plan
from ...recipe.grammar import Recipe, parse_recipe
from ...shown import MIB, shown_share
from ..compare import figure_text
from ..desk import Desk
from ..faults import Fault
from ..making import make
from ..protocol.types import Json
from ..queue import Handle
from ..resizing import BeforeWriting, NewFile, ResizeOrder, write
from ..results import effect_json
from .drawn import write_drawn
from .finder import check_unchanged, search, search_more
from .finds import Find, Measured

_SLACK = 64
"""Bytes by which a name or a record may lengthen the header of the saved file."""
_TRIES = 16


def find_job(desk: Desk, find: Find, handle: Handle) -> Json:
    """Search, and return the `Found` of the protocol. A search that fails or is cancelled is forgotten."""
    keep = False
    try:
        search(desk, find, handle)
        result = save_job(desk, find, handle) if find.order.save and is_reached(find) else None
        keep = True
    finally:
        desk.finds.end(find, keep=keep)
    return found_json(find, result)


def more_job(desk: Desk, find: Find, direction: str, handle: Handle) -> Json:
    """Try one more size, and return the `Found` of the protocol. The search stays, however this ends."""
    try:
        search_more(desk, find, direction, handle)
    finally:
        desk.finds.end(find, keep=True)
    return found_json(find, None)


def is_reached(find: Find) -> bool:
    """Return whether a file was found that keeps the target."""
    return find.best is not None and bool(find.best.json["accepted"])


# The answer ------------------------------------------------------------------------------------------------------


def found_json(find: Find, result: Json | None) -> Json:
    """Return the `Found` of the protocol."""
    best, order = find.best, find.order
    figure = find.base if best is None else best.figure
    return {
        "find": find.id,
        "name": order.lora.name,
        "target": order.target,
        "best": None if best is None else best.json,
        "trials": [one.json for one in find.measured.values()],
        "effect": None if figure is None else figure.effect,
        "noise": None if figure is None else figure.noise,
        "basis": None if figure is None else figure.basis,
        "weak": find.weak,
        "seeds": list(order.seeds),
        "images": find.images,
        "smaller": find.can_be("smaller"),
        "larger": find.can_be("larger"),
        "text": found_text(find),
        "result": result,
    }


def found_text(find: Find) -> str:
    """Return the outcome in a sentence."""
    best, target = find.best, find.order.target
    if find.weak:
        assert find.base is not None
        return figure_text(find.base)
    if best is None:
        return "The search was stopped before a size was measured."
    size = f"{best.plan.bytes_after / MIB:.1f} MiB"
    kept, worst = shown_share(best.figure.kept or 0.0), shown_share(best.figure.worst or 0.0)
    if best.json["accepted"]:
        return f"{size} keeps {kept} of the LoRA's effect (worst image {worst})."
    goal = shown_share(target)
    if find.can_be("larger"):
        return f"{size} keeps {kept} of the LoRA's effect (worst image {worst}). The target is {goal}."
    return (
        f"Even the largest file, {size}, keeps only {kept} of the LoRA's effect (worst image {worst}). The target is "
        f"{goal}: choose a lower one, or a wider dtype."
    )


# The saved file --------------------------------------------------------------------------------------------------


class _OtherRanks(Exception):  # noqa: N818 - the recipe is adjusted
    pass


def best_of(find: Find) -> Measured:
    """Return the best file of a search. Raises Fault where there is none."""
    if find.best is None:
        raise Fault("gone", "The search has no file that could be saved. Find the smallest file again.")
    return find.best


def save_job(desk: Desk, find: Find, handle: Handle) -> Json:
    """Write the best file of a search next to its source, and return its `Result`.

    It has the dimensions of the file that was drawn, with a fit also its tensors. Raises Fault where the LoRA was
    changed, and what writing raises.
    """
    best = best_of(find)
    check_unchanged(find)
    order = find.order
    making = desk.results.making(order.lora.name, order.lora.path)
    record = find.takes.record(best.figure)
    effect = None if record is None else effect_json(record)
    more = {"batch": handle.batch, "effect": effect}
    return make(desk, making, order.options, lambda before: _write(desk, find, best, handle, before), more)


def _write(desk: Desk, find: Find, best: Measured, handle: Handle, before_writing: BeforeWriting) -> NewFile:
    if find.refine is not None:
        return write_drawn(desk, find, best, handle, before_writing)

    def before(plan: Plan, path: Path) -> None:
        if not has_ranks(plan, best):
            raise _OtherRanks
        before_writing(plan, path)

    lora, options = find.order.lora, find.order.options
    effect = find.takes.record(best.figure)
    for recipe in recipes_of(best):
        order = ResizeOrder(lora, find.source, recipe, options, frozenset(desk.results.trash.names()))
        try:
            return write(desk.analyses, desk.host, order, handle, before, effect=effect)
        except _OtherRanks:
            continue
    raise Fault(
        "refused", f"{lora.name}: the file that was drawn cannot be written under this name. Change the suffix."
    )


def has_ranks(plan: Plan, best: Measured) -> bool:
    """Return whether a planned file has the dimensions of the one that was drawn."""
    return [layer.new_rank for layer in plan.layers] == [layer.new_rank for layer in best.plan.layers]


def recipes_of(best: Measured) -> list[Recipe]:
    """Return the recipe of a file, and others that allow for a longer header, until it has the same dimensions."""
    first = parse_recipe(best.plan.recipe)
    if first.selection != "size":
        return [first]
    sizes = [(best.bytes + extra * _SLACK) / MIB for extra in range(_TRIES)]
    return [first, *(replace(first, value=round(size, 6), text="") for size in sizes)]
