"""Orders of smaller files."""

from __future__ import annotations

from collections.abc import Sequence

from ...engine.settings import check_can_be_fitted
from ...recipe.grammar import Recipe
from ..desk import Desk, size_of
from ..faults import Fault
from ..fitting import check_can_fit, read_fit
from ..jobs import JobSpec
from ..making import check_reference, make
from ..names import output_folder
from ..options import Options, read_options, read_recipes
from ..orders import FileOrder, file_orders, new_and_same
from ..picturing.refining import refine_for
from ..protocol.types import Json
from ..queue import Handle, check_amount
from ..references import reference_info
from ..resizing import BeforeWriting, NewFile, ResizeOrder, write
from ..snapshot import Snapshot


def resize(desk: Desk, params: Json) -> Json:
    names, lists = params["names"], desk.snapshot()
    options = read_options(params["options"], remote=desk.host.is_remote())
    recipes = read_recipes(params, options)
    check_amount(len(names) * len(recipes))
    check_reference(recipes, options, lists)
    fit = _fit(params["fit"], recipes, lists)
    loras, refused = desk.look_up(names, lists)
    for lora in {lora.path.parent: lora for lora in loras}.values():  # fail now, not after hours of work
        output_folder(lora.path, lists.lora_roots(), options.folder)
    reference = reference_info(lists, options.reference).title
    orders = file_orders(loras, recipes, options, reference, params["fit"])
    with desk.adding:
        new, same = (orders, []) if params["again"] else new_and_same(orders, desk.queue.orders(), desk.results)
        specs = [_spec(desk, one, options, fit, number, len(new)) for number, one in enumerate(new, 1)]
        return {"jobs": desk.queue.add_all(specs), "same": same, "refused": refused}


def _fit(values: Json | None, recipes: Sequence[Recipe], lists: Snapshot) -> Json | None:
    """Return a checked `Fit`, with one seed for all files; None for none. Raises Fault where nothing can be fitted."""
    if values is None:
        return None
    check_can_fit(lists)
    for recipe in recipes:
        check_can_be_fitted(recipe)
    return read_fit(values)


def _spec(desk: Desk, one: FileOrder, options: Options, fit: Json | None, file: int, files: int) -> JobSpec:
    return JobSpec(
        kind="resize",
        title=f"{one.lora.name}: {one.recipe.text or one.recipe}",
        run=lambda handle: _resize_one(desk, one, options, fit, handle),
        name=one.lora.name,
        file=file,
        files=files,
        bytes=size_of(one.lora),
        recipe=str(one.recipe),
        key=one.order.key,
        stop=None if fit is None else desk.host.stop_generating,
    )


def _resize_one(desk: Desk, one: FileOrder, options: Options, fit: Json | None, handle: Handle) -> Json:
    source = desk.archives.checked_source(one.lora)
    order = ResizeOrder(one.lora, source, one.recipe, options, frozenset(desk.results.trash.names()))
    refine = None if fit is None else refine_for(desk, one.lora, source, fit, desk.snapshot())
    making = desk.results.making(one.lora.name, one.lora.path, one.order)

    def write_file(before_writing: BeforeWriting) -> NewFile:
        new = write(desk.analyses, desk.host, order, handle, before_writing, refine=refine)
        making.depends_on(new.reference.title)
        return new

    return make(desk, making, options, write_file, {"batch": handle.batch})


def cancel(desk: Desk, params: Json) -> Json:
    ids = params["jobs"] or [params["job"]]
    if len(ids) == 1 and not desk.queue.knows(ids[0]):
        raise Fault("gone", f"There is no job {ids[0]!r}.")
    met = [(job.id, job.spec) for job in desk.queue.cancel(ids)]
    return {"cancelled": [{"job": id, "kind": spec.kind, "name": spec.name, "recipe": spec.recipe} for id, spec in met]}


METHODS = {"resize": resize, "cancel": cancel}
