"""Runs over a library: the list, one run with its files, pause, continue and stop."""

from __future__ import annotations

from ..desk import Desk
from ..fitting import check_can_fit
from ..picturing.orders import check_host
from ..protocol.types import Json
from ..runs.document import RunOrder
from ..runs.working import begin


def runs(desk: Desk, _params: Json) -> Json:
    return desk.runs.answer()


def run(desk: Desk, params: Json) -> Json:
    found = desk.runs.get(params["run"])
    return {"run": desk.runs.to_json(found), "items": [item.to_json() for item in desk.runs.items(found)]}


def run_control(desk: Desk, params: Json) -> Json:
    id, action = params["run"], params["action"]
    if action == "continue":
        run = desk.runs.check(id, action)
        _check(desk, run.order)
        with desk.adding:
            begin(desk, run)
    else:
        desk.runs.halt(id, action)
    return {"run": desk.runs.to_json(desk.runs.get(id))}


def _check(desk: Desk, order: RunOrder) -> None:
    """Raise Fault where the host cannot make the images of a run, such as before it has loaded a model."""
    if order.effect is not None:
        check_host(desk)
    if order.fit is not None:
        check_can_fit(desk.host)


METHODS = {"runs": runs, "run": run, "run_control": run_control}
