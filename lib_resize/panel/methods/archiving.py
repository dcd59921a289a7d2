"""The archive of replaced originals."""

from __future__ import annotations

from ..desk import Desk
from ..faults import Fault
from ..protocol.types import Json


def archive(_desk: Desk, _params: Json) -> Json:
    raise Fault("unavailable", "This version cannot resize in place yet.")


def restore_originals(_desk: Desk, _params: Json) -> Json:
    raise Fault("unavailable", "This version cannot resize in place yet.")


def purge(_desk: Desk, _params: Json) -> Json:
    raise Fault("unavailable", "This version cannot resize in place yet.")


METHODS = {"archive": archive, "restore_originals": restore_originals, "purge": purge}
