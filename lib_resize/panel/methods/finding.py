"""The search for the smallest file that draws the same images."""

from __future__ import annotations

from ..desk import Desk
from ..faults import Fault
from ..protocol.types import Json


def _not_yet(desk: Desk, _: Json) -> Json:
    raise Fault("unavailable", f"{desk.host.name} cannot search yet.")


def find(desk: Desk, params: Json) -> Json:
    return _not_yet(desk, params)


def find_more(desk: Desk, params: Json) -> Json:
    return _not_yet(desk, params)


def find_stop(desk: Desk, params: Json) -> Json:
    return _not_yet(desk, params)


def find_save(desk: Desk, params: Json) -> Json:
    return _not_yet(desk, params)


METHODS = {"find": find, "find_more": find_more, "find_stop": find_stop, "find_save": find_save}
