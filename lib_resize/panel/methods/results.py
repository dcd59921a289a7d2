"""Results, undo, and the trash."""

from __future__ import annotations

from ..desk import Desk
from ..faults import Fault
from ..protocol.types import Json


def results(desk: Desk, params: Json) -> Json:
    return desk.results.answer(params["before"], params["limit"])


def undo(desk: Desk, params: Json) -> Json:
    answer = desk.results.undo(params["result"])
    desk.files_moved()
    return answer


def restore(desk: Desk, params: Json) -> Json:
    result: Json | None
    if params["result"] is not None:
        result = desk.results.restore(params["result"])
        name = str(result["output"])
    else:
        name, result = desk.results.restore_item(params["item"])
    desk.files_moved()
    return {"result": result, "name": name}


def trash(desk: Desk, _params: Json) -> Json:
    return {"items": desk.results.trash.to_json()}


def empty_trash(desk: Desk, params: Json) -> Json:
    if not params["confirm"]:
        raise Fault("confirm", "This deletes the contents of the trash for good. Confirm it.")
    return desk.results.empty_trash()


METHODS = {"results": results, "undo": undo, "restore": restore, "trash": trash, "empty_trash": empty_trash}
