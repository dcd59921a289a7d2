"""Detect the host by its modules, not by names or versions. Nothing is imported for it."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from .guard import attempt
from .webui import WebUI
from .webui_modules import SDNEXT_LIST

_FAMILY_MODULES = ("modules.shared", "modules.call_queue", "modules.script_callbacks")
"""Modules of the whole family; a fork may lack some of them."""


def detect() -> WebUI | None:
    """Return the WebUI that this process is; None where it is none.

    The modules that manage the model show the kind: ``backend`` (Forge, Forge Neo), ``ldm_patched`` (reForge, older
    versions of Forge), a loader of LoRAs in ``modules`` (SD.Next), or none of these (A1111 and its close forks).
    """
    if not any(map(_exists, _FAMILY_MODULES)):
        return None
    return attempt("the loaded model", _own_kind, None) or WebUI()


def _own_kind() -> WebUI | None:
    if _exists("backend.memory_management"):
        from .forge import ForgeHost

        return ForgeHost()
    if _exists("ldm_patched.modules"):
        from .reforge import ReforgeHost

        return ReforgeHost()
    if _exists(SDNEXT_LIST):
        from .sdnext import SdnextHost

        return SdnextHost()
    from .a1111 import A1111Host

    return A1111Host()


def _exists(name: str) -> bool:
    if name in sys.modules:
        return True
    try:
        return find_spec(name) is not None
    except Exception:  # its package fails to import
        return False
