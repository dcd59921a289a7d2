"""LoRAs from the difference of two checkpoints."""

from __future__ import annotations

from dataclasses import replace

from ..baking import check_name
from ..desk import Desk
from ..extracting import ExtractOrder, check_order, suggested_name
from ..extracting import extract as write_difference
from ..jobs import JobSpec
from ..making import make
from ..options import read_options, read_recipe
from ..protocol.types import Json
from ..queue import Handle
from ..resizing import BeforeWriting, NewFile


def extract(desk: Desk, params: Json) -> Json:
    lists = desk.snapshot()
    options = read_options(params["options"], remote=desk.host.is_remote())
    recipe = read_recipe(params, options, "Extracting")
    order = ExtractOrder(params["tuned"], params["base"], recipe, options, "", params["text_encoders"])
    check_order(order, lists)
    name = check_name(params["name"] or suggested_name(order, lists))
    order = replace(order, name=name, taken=frozenset(desk.results.trash.names()))
    spec = JobSpec(
        kind="extract", title=f"difference → {name}", run=lambda handle: _extract(desk, order, handle), name=name
    )
    return {"job": desk.queue.add(spec)}


def _extract(desk: Desk, order: ExtractOrder, handle: Handle) -> Json:
    handle.wait_for_host()

    def write_file(before_writing: BeforeWriting) -> NewFile:
        return write_difference(desk.host, order, handle, before_writing)

    return make(desk, desk.results.making(order.name), order.options, write_file, {"extracted": True})


METHODS = {"extract": extract}
