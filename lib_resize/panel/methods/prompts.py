"""The LoRAs of prompts: their tags, and baking them into one file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...prompts.tags import common_names
from ...recipe.grammar import ALL_RANKS, parse_recipes
from .. import baking
from ..curve import ranks_of
from ..desk import Desk, size_of
from ..faults import Fault
from ..jobs import JobSpec
from ..making import check_reference, make
from ..names import tag
from ..options import read_options, read_recipe
from ..pairs import compared_files
from ..protocol.types import Json
from ..queue import Handle
from ..resizing import BeforeWriting, NewFile


def prompt_tag(desk: Desk, params: Json) -> Json:
    files = compared_files(desk, params, desk.snapshot())
    old_names = sorted(files.others - {files.old})
    return {
        "tag": tag(files.new, files.notes.weight),
        "name": files.new,
        "weight": files.notes.weight,
        "activation": files.notes.activation,
        "negative": files.notes.negative,
        "old_names": [files.old, *old_names] if files.old != files.new else sorted(files.others),
    }


def read_prompt(desk: Desk, params: Json) -> Json:
    answer = baking.prompt_json(params["prompt"], baking.presets(desk.host), desk.snapshot(), desk.library)
    for one in answer["tags"]:
        one["troubles"] = [desk.folders.without(text) for text in one["troubles"]]
    return answer


def bake(desk: Desk, params: Json) -> Json:
    order, found = _bake_order(desk, params)
    spec = _bake_spec("bake", order, lambda handle: _bake(desk, order, handle))
    return {"job": desk.queue.add(spec), "left": [str(one.tag) for one in found if one.errors]}


def bake_plan(desk: Desk, params: Json) -> Json:
    order, _ = _bake_order(desk, params)
    spec = _bake_spec("bake_plan", order, lambda handle: _plan_bake(desk, order, handle))
    return {"job": desk.queue.add(spec, first=True)}


def _bake_order(desk: Desk, params: Json) -> tuple[baking.BakeOrder, list[baking.FoundTag]]:
    """Return what is to be baked, and all tags of the prompt. Raises Fault and ResizeError."""
    lists = desk.snapshot()
    options = read_options(params["options"], remote=desk.host.is_remote())
    has_recipe = params["recipe"] is not None or params["target"] is not None
    recipe = read_recipe(params, options, "Baking") if has_recipe else parse_recipes(ALL_RANKS)[0]
    check_reference([recipe], options, lists)
    found = baking.find_tags(params["prompt"], baking.presets(desk.host), lists, desk.library)
    good = baking.bakeable(found)
    if not good:
        raise Fault("file", "The prompt names no LoRA that can be baked.")
    name = baking.check_name(params["name"] or baking.suggested_name(good))
    taken = frozenset(desk.results.trash.names())
    order = baking.BakeOrder(tuple(good), recipe, options, name, taken, is_limited=not has_recipe)
    baking.folder_for(order, lists)
    return order, found


def _bake_spec(kind: str, order: baking.BakeOrder, run: Callable[[Handle], Json]) -> JobSpec:
    paths = {one.lora.path: size_of(one.lora) for one in order.found if one.lora is not None}
    title = f"{common_names(order.tags)} → {order.name}"
    return JobSpec(kind=kind, title=title, run=run, name=order.name, bytes=sum(paths.values()))


def _plan_bake(desk: Desk, order: baking.BakeOrder, handle: Handle) -> Json:
    handle.wait_for_host()
    plan = baking.plan_bake(desk.host, order, handle)
    return {
        "name": common_names(order.tags),
        "output": Path(plan.output).stem,
        "bytes_before": plan.bytes_before,
        "bytes_after": plan.bytes_after,
        "saved": plan.saved,
        "retention": plan.retention,
        "recipe": plan.recipe,
        "notes": [desk.folders.without(note) for note in plan.notes],
        "ranks": ranks_of([layer.new_rank for layer in plan.layers]),
        "layers_gone": len(plan.dropped),
    }


def _bake(desk: Desk, order: baking.BakeOrder, handle: Handle) -> Json:
    handle.wait_for_host()

    def write_file(before_writing: BeforeWriting) -> NewFile:
        return baking.bake(desk.host, order, handle, before_writing)

    making = desk.results.making(common_names(order.tags))
    return make(desk, making, order.options, write_file, {"baked": [str(one) for one in order.tags]})


def bake_into(desk: Desk, params: Json) -> Json:
    result = desk.results.get(params["result"])
    baked = result.facts.get("baked")
    if not baked:
        raise Fault("request", f"{result.output} was not baked from a prompt.")
    return baking.rewritten(params["prompt"], baked, result.output, baking.presets(desk.host))


METHODS = {
    "prompt_tag": prompt_tag,
    "read_prompt": read_prompt,
    "bake": bake,
    "bake_plan": bake_plan,
    "bake_into": bake_into,
}
