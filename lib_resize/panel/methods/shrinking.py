"""Resizing in place, over a library: estimates, the plan, and the start of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...archive.links import Reason
from ...archive.place import check_room
from ...errors import FileError
from ...recipe.grammar import Recipe
from ..desk import Desk
from ..faults import Fault
from ..options import read_options, read_recipe, target_recipe
from ..picturing.orders import effect_order, fit_order, has_effect
from ..picturing.takes import IMAGE
from ..protocol.types import Json
from ..records import new_id
from ..results import now
from ..runs import document as is_
from ..runs.document import RunDocument, RunItem, RunOrder
from ..runs.planning import PlanRequest, PlanRow, archive_json, rows
from ..runs.working import begin

_SHARE_UNKNOWN = 0.5  # of a source, for the room on the disk, where the size of the new file is not known


def estimate(desk: Desk, params: Json) -> Json:
    files = desk.library.listed(desk.snapshot())
    names = params["names"] or list(files)
    unknown = [name for name in names if name not in files]
    if unknown:
        raise _unknown(unknown)
    return {"job": desk.estimates.start([files[name] for name in names])}


def shrink_plan(desk: Desk, params: Json) -> Json:
    lists = desk.snapshot()
    asked = _request(desk, params)
    found, unknown = rows(desk, asked, lists)
    return {
        "rows": [row.to_json() for row in found],
        "recipe": None if asked.recipe is None else str(asked.recipe),
        "archive": archive_json(desk, [row.file.lora for row in found]),
        "pace": desk.queue.pace.known("shrink"),
        "image_pace": desk.queue.pace.known(IMAGE),
        "unknown": unknown,
    }


def _request(desk: Desk, params: Json) -> PlanRequest:
    options = read_options({**params["options"], "folder": None}, remote=desk.host.is_remote())
    given = params["recipe"] is not None or params["target"] is not None
    if given and has_effect(params["target"]):
        recipe: Recipe | None = target_recipe({"retention": 1.0}, options)
    else:
        recipe = read_recipe(params, options, "Shrinking") if given else None
    has_images = has_effect(params["target"]) or params["fit"]
    return PlanRequest(params["names"], recipe, options, params["again"], has_images)


def shrink(desk: Desk, params: Json) -> Json:
    if params["originals"] == is_.UNKEPT and not params["confirm"]:
        raise Fault("confirm", "The originals will be deleted for good as they are replaced. Confirm it.")
    lists = desk.snapshot()
    asked = _request(desk, params)
    found, unknown = rows(desk, asked, lists)
    if unknown:
        raise _unknown(unknown)
    if not found:
        raise FileError("There is no LoRA to resize. Refresh the list.")
    found = [_excluded(row, params) for row in found]
    _check_archive(desk, found)
    effect = effect_order(desk, params, asked.options) if has_effect(params["target"]) else None
    order = RunOrder(
        recipe=str(asked.recipe),
        options={**params["options"], "folder": None},
        again=params["again"],
        least_gain=float(params["least_gain"]),
        floor=params["floor"],
        originals=params["originals"],
        effect=effect,
        fit=fit_order(params, effect, lists),
    )
    with desk.adding:
        run = RunDocument(new_id(), now(), order, [_item(row) for row in found])
        return {"run": run.id, "job": begin(desk, run)}


def _unknown(names: Sequence[str]) -> FileError:
    if len(names) == 1:
        return FileError(f"{names[0]}: no LoRA of this name is in the list. Refresh the list, or check the name.")
    return FileError(
        f"{names[0]} and {len(names) - 1} more: no LoRA of these names is in the list. Refresh the list, or check the "
        "names."
    )


def _excluded(row: PlanRow, params: Json) -> PlanRow:
    if row.left is not None:
        return row
    for folder in params["excluded_folders"]:
        if f"{row.file.folder}/".startswith(f"{folder}/"):
            return replace(row, left=Reason("folder", f"The folder {folder} is excluded."))
    if row.file.facts.family in params["excluded_families"]:
        return replace(row, left=Reason("family", f"The family {row.file.facts.family} is excluded."))
    return row


def _item(row: PlanRow) -> RunItem:
    lora, left = row.file.lora, row.left
    item = RunItem(lora.name, row.file.folder, row.file.facts.family, lora.path, row.bytes)
    return item if left is None else replace(item, state=is_.LEFT, reason=left.kind, message=left.message)


def _check_archive(desk: Desk, found: Sequence[PlanRow]) -> None:
    """Raise OutputError where originals cannot be archived, or the new files do not fit on the disk."""
    archive = desk.archives.archive()
    todo = [row for row in found if row.left is None]
    needed = [row.after if row.after is not None else int(_SHARE_UNKNOWN * row.bytes) for row in todo]
    check_room(archive, sum(needed), [row.file.lora.path for row in todo])


METHODS = {"estimate": estimate, "shrink_plan": shrink_plan, "shrink": shrink}
