"""Runs over a library."""

from __future__ import annotations

from ..desk import Desk
from ..faults import Fault
from ..protocol.types import Json


def runs(_desk: Desk, _params: Json) -> Json:
    raise Fault("unavailable", "This version cannot resize in place yet.")


def run(_desk: Desk, _params: Json) -> Json:
    raise Fault("unavailable", "This version cannot resize in place yet.")


def run_control(_desk: Desk, _params: Json) -> Json:
    raise Fault("unavailable", "This version cannot resize in place yet.")


METHODS = {"runs": runs, "run": run, "run_control": run_control}
