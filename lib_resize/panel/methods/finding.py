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
from ..picturing.prompting import read_settings
from ..protocol.types import Json
from ..queue import Handle
from ..snapshot import Snapshot


def find(desk: Desk, params: Json) -> Json:
    lists, options = desk.snapshot(), read_options(params["options"], remote=desk.host.is_remote())
    _check(desk, params, options, lists)
    loras, refused = _loras(desk, params, lists)
    for lora in {lora.path.parent: lora for lora in loras}.values():  # fail now, not after the search
        output_folder(lora.path, lists.lora_roots(), options.folder)
    settings = read_settings(params["settings"])
    finds = [Find(_order(lora, params, options, settings)) for lora in loras]
    specs = [_spec(desk, one, partial(find_job, desk, one), number, len(finds)) for number, one in enumerate(finds, 1)]
    jobs = desk.queue.add_all(specs)
    desk.finds.begin(dict(zip(jobs, finds, strict=True)))
    return {"job": jobs[0] if jobs else None, "jobs": jobs, "refused": refused}


def _check(desk: Desk, params: Json, options: Options, lists: Snapshot) -> None:
    check_search(desk, params["target"], options)
    if params["fit"]:
        check_can_fit(lists)
    check_reference([target_recipe({"retention": 1.0}, options)], options, lists)


def _loras(desk: Desk, params: Json, lists: Snapshot) -> tuple[Sequence[LoraFile], list[Json]]:
    if params["name"] is not None:
        return [lists.find(params["name"])], []
    return desk.look_up(params["names"], lists)


def _order(lora: LoraFile, params: Json, options: Options, settings: Json) -> FindOrder:
    """Return what one job searches for. No file is opened here: a call may be about thousands of LoRAs."""
    return FindOrder(
        lora=lora,
        target=float(params["target"]),
        count=params["seeds"],
        settings=settings,
        options=options,
        is_template=params["name"] is None,
        fit=read_fit({"settings": with_other_seeds(settings)}) if params["fit"] else None,
        save=params["save"],
    )


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
    desk.finds.begin({job: one})
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
