"""Runs over a library: the list, one run with its files, pause, continue and stop."""

from __future__ import annotations

from ..desk import Desk
from ..protocol.types import Json
from ..runs.working import begin


def runs(desk: Desk, _params: Json) -> Json:
    return desk.runs.answer()


def run(desk: Desk, params: Json) -> Json:
    found = desk.runs.get(params["run"])
    return {"run": desk.runs.to_json(found), "items": [item.to_json() for item in desk.runs.items(found)]}


def run_control(desk: Desk, params: Json) -> Json:
    id, action = params["run"], params["action"]
    if action == "continue":
        with desk.adding:
            begin(desk, desk.runs.check(id, action))
    else:
        desk.runs.halt(id, action)
    return {"run": desk.runs.to_json(desk.runs.get(id))}


METHODS = {"runs": runs, "run": run, "run_control": run_control}
