"""Images with the original and with the new file."""

from __future__ import annotations

import base64

from .. import compare as images
from ..desk import Desk
from ..faults import Fault
from ..jobs import JobSpec
from ..keeping import keep_figure
from ..pairs import ComparedPair, pair_of
from ..picturing.orders import check_host
from ..picturing.prompting import read_settings
from ..protocol.types import Json
from ..queue import Handle


def compare(desk: Desk, params: Json) -> Json:
    check_host(desk)
    lists = desk.snapshot()
    pair = pair_of(desk, params, lists)
    files, wish = pair.files, images.Wish(read_settings(params["settings"]), params["without"], params["seeds"])
    if files.old == files.new or (files.old not in files.files and all(one.name != files.old for one in lists.loras())):
        raise Fault("file", f"The original of {files.new} is not in the list, so there is nothing to compare with.")
    spec = JobSpec(
        kind="compare",
        title=f"{files.old} and {files.new}",
        run=lambda handle: _compared(desk, pair, wish, handle),
        name=files.new,
        stop=desk.host.stop_generating,
    )
    return {"job": desk.queue.add(spec)}


def _compared(desk: Desk, pair: ComparedPair, wish: images.Wish, handle: Handle) -> Json:
    found = images.compare(desk.host, pair.files, wish, handle, desk.images)
    if found.record is None:
        return found.answer
    return {**found.answer, "note": keep_figure(desk, pair, found.record, handle)}


def picture(desk: Desk, params: Json) -> Json:
    found = desk.finds.picture(params["id"])
    if found is None:
        return desk.images.answer(params["id"])
    return {"png": base64.b64encode(found).decode("ascii")}


METHODS = {"compare": compare, "picture": picture}
