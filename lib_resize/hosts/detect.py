"""Which host is around us. Features are looked for, not names or versions, and nothing is imported to look."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from .guard import attempt
from .webui import WebUI

_MARKS = ("modules.shared", "modules.call_queue", "modules.script_callbacks")
"""Modules of the whole family; one of them may be missing in a fork."""


def detect() -> WebUI | None:
    """The WebUI whose process this is; None where there is none.

    Each kind is known by where it keeps its model: ``backend`` (Forge, Forge Neo), ``ldm_patched`` (reForge, older
    Forges), or neither (A1111 and its near forks).
    """
    if not any(map(_is_there, _MARKS)):
        return None
    return attempt("the loaded model", _own_kind, None) or WebUI()


def _own_kind() -> WebUI | None:
    if _is_there("backend.memory_management"):
        from .forge import ForgeHost

        return ForgeHost()
    if _is_there("ldm_patched.modules"):
        from .reforge import ReforgeHost

        return ReforgeHost()
    from .a1111 import A1111Host

    return A1111Host()


def _is_there(name: str) -> bool:
    if name in sys.modules:
        return True
    try:
        return find_spec(name) is not None
    except Exception:  # its package fails to import
        return False
