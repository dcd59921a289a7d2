"""Images with the original and with the new file."""

from __future__ import annotations

import base64

from ...hosts.host import GENERATE
from .. import compare as images
from ..desk import Desk
from ..faults import Fault
from ..jobs import JobSpec
from ..pairs import archived_files, compared_files
from ..picturing.prompting import read_settings
from ..protocol.types import Json


def compare(desk: Desk, params: Json) -> Json:
    if GENERATE not in desk.host.features:
        raise Fault("unavailable", f"{desk.host.name} cannot generate images from here.")
    lists = desk.snapshot()
    files = archived_files(desk, params, lists) or compared_files(desk, params, lists)
    settings = read_settings(params["settings"])
    if files.old == files.new or (files.old not in files.files and all(one.name != files.old for one in lists.loras())):
        raise Fault("file", f"The original of {files.new} is not in the list, so there is nothing to compare with.")
    spec = JobSpec(
        kind="compare",
        title=f"{files.old} and {files.new}",
        run=lambda handle: images.compare(desk.host, files, settings, params["without"], handle, desk.images),
        name=files.new,
        stop=desk.host.stop_generating,
    )
    return {"job": desk.queue.add(spec)}


def picture(desk: Desk, params: Json) -> Json:
    found = desk.finds.picture(params["id"])
    if found is None:
        return desk.images.answer(params["id"])
    return {"png": base64.b64encode(found).decode("ascii")}


METHODS = {"compare": compare, "picture": picture}
