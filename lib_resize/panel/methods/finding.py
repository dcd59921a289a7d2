"""The search for the smallest file that draws the same images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from ...hosts.host import LoraFile
from ..desk import Desk, size_of
from ..faults import Fault
from ..fitting import check_can_fit, read_fit, with_other_seeds
from ..jobs import JobSpec
from ..making import check_reference
from ..names import output_folder
from ..options import Options, read_options, target_recipe
from ..picturing.finding import best_of, find_job, more_job, save_job
from ..picturing.finds import Find, FindOrder
from ..picturing.orders import check_host, check_search
from ..picturing.originals import original_pair
from ..picturing.own_prompts import own_settings
from ..picturing.prompting import read_settings, seeds_from
from ..picturing.takes import Takes
from ..protocol.types import Json
from ..queue import Handle
from ..snapshot import Snapshot


def find(desk: Desk, params: Json) -> Json:
    lists, options = desk.snapshot(), read_options(params["options"], remote=desk.host.is_remote())
    _check(desk, params, options, lists)
    loras, refused = _loras(desk, params, lists)
    settings = read_settings(params["settings"])
    listed = {one.name for one in lists.loras()}
    own = settings if params["name"] is not None else None
    finds = [
        _new_find(desk, lora, params, options, own or own_settings(lora, settings, listed), lists) for lora in loras
    ]
    specs = [_spec(desk, one, partial(find_job, desk, one), number, len(finds)) for number, one in enumerate(finds, 1)]
    jobs = desk.queue.add_all(specs)
    for job, one in zip(jobs, finds, strict=True):
        desk.finds.begin(job, one)
    return {"job": jobs[0] if jobs else None, "jobs": jobs, "refused": refused}


def _check(desk: Desk, params: Json, options: Options, lists: Snapshot) -> None:
    check_search(desk, params["target"], params["seeds"], options)
    if params["fit"]:
        check_can_fit(lists)
    check_reference([target_recipe({"retention": 1.0}, options)], options, lists)


def _loras(desk: Desk, params: Json, lists: Snapshot) -> tuple[Sequence[LoraFile], list[Json]]:
    if params["name"] is not None:
        return [lists.find(params["name"])], []
    return desk.look_up(params["names"], lists)


def _new_find(desk: Desk, lora: LoraFile, params: Json, options: Options, settings: Json, lists: Snapshot) -> Find:
    output_folder(lora.path, lists.lora_roots(), options.folder)  # fail now, not after the search
    source = desk.archives.source(lora)
    fit = read_fit({"settings": with_other_seeds(settings)}) if params["fit"] else None
    pair = original_pair(desk, lora, source, lists)
    seeds = tuple(seeds_from(settings["seed"], params["seeds"]))
    order = FindOrder(lora, source, float(params["target"]), seeds, options, fit, params["save"])
    return Find(order, Takes(desk.host, pair, settings))


def _spec(desk: Desk, one: Find, run: Callable[[Handle], Json], file: int = 1, files: int = 1) -> JobSpec:
    name = one.order.lora.name
    return JobSpec(
        kind="find",
        title=f"Find the smallest {name}",
        run=run,
        name=name,
        file=file,
        files=files,
        stop=desk.host.stop_generating,
    )


def find_more(desk: Desk, params: Json) -> Json:
    check_host(desk)
    one, direction = desk.finds.get(params["find"]), params["direction"]
    if not one.can_be(direction):
        name = one.order.lora.name
        if direction == "smaller":
            raise Fault("refused", f"{name}: no smaller file is possible.")
        raise Fault("refused", f"{name}: no larger file is possible.")
    one.stop.clear()
    job = desk.queue.add(_spec(desk, one, lambda handle: more_job(desk, one, direction, handle)))
    desk.finds.begin(job, one)
    return {"job": job}


def find_stop(desk: Desk, params: Json) -> Json:
    if not desk.queue.knows(params["job"]):
        raise Fault("gone", f"There is no job {params['job']!r}.")
    return {"stopped": desk.finds.stop(params["job"])}


def find_save(desk: Desk, params: Json) -> Json:
    one = desk.finds.get(params["find"])
    lora, recipe = one.order.lora, best_of(one).plan.recipe
    spec = JobSpec(
        kind="resize",
        title=f"{lora.name}: {recipe}",
        run=lambda handle: save_job(desk, one, handle),
        name=lora.name,
        bytes=size_of(lora),
        recipe=recipe,
    )
    job = desk.queue.add(spec)
    desk.finds.save(job, one)
    return {"job": job}


METHODS = {"find": find, "find_more": find_more, "find_stop": find_stop, "find_save": find_save}
