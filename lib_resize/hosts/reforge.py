"""reForge and older Forges: A1111's page, with patchers of the library ``ldm_patched`` around the model.

Written after its code as published; what differs from Forge is where the memory is managed and that what is selected
is loaded at once.
"""

from __future__ import annotations

from typing import Any

from .forge import ForgeHost
from .guard import host_module


class ReforgeHost(ForgeHost):
    """reForge."""

    lora_options = (*ForgeHost.lora_options, "lyco_dir_backcompat")

    def __init__(self) -> None:
        super().__init__()
        self.name = "reForge"

    def _memory(self) -> Any | None:
        return host_module("ldm_patched.modules.model_management")
