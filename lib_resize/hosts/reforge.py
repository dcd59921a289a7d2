"""reForge and older Forges: A1111's page, with patchers of the library ``ldm_patched`` around the model.

Written after its code as published; what differs from Forge is where the memory is managed and that what is selected
is loaded at once.
"""

from __future__ import annotations

from typing import Any

from .forge import ForgeHost
from .webui import cmd_options


class ReforgeHost(ForgeHost):
    """reForge."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "reForge"

    def _further_roots(self) -> list[str | None]:
        return [getattr(cmd_options(), "lyco_dir_backcompat", None)]

    def _memory(self) -> Any | None:
        try:
            from ldm_patched.modules import model_management
        except ImportError:
            return None
        return model_management
