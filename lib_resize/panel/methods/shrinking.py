"""Resizing in place, over a library: the plan and the start of a run."""

from __future__ import annotations

from ..desk import Desk
from ..faults import Fault
from ..protocol.types import Json


def estimate(_desk: Desk, _params: Json) -> Json:
    raise Fault("unavailable", "This version cannot resize in place yet.")


def shrink_plan(_desk: Desk, _params: Json) -> Json:
    raise Fault("unavailable", "This version cannot resize in place yet.")


def shrink(_desk: Desk, _params: Json) -> Json:
    raise Fault("unavailable", "This version cannot resize in place yet.")


METHODS = {"estimate": estimate, "shrink_plan": shrink_plan, "shrink": shrink}
