"""reForge and older versions of Forge: A1111's page, with patchers of the library ``ldm_patched`` around the model.

Written from its published code. It differs from Forge in the module that manages memory, and in that a selected
checkpoint is loaded immediately.
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
