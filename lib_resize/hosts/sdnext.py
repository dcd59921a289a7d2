"""SD.Next: A1111's page and extensions, around pipelines of diffusers and a LoRA loader of its own."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from . import sdnext_caches
from .access import Access, access_of_sdnext
from .guard import attempt_list, guarded, host_module, read
from .host import IGNORES_TEXT_ENCODERS, PARTS_IN_TAGS, CheckpointFile, LoadedModel, find_checkpoint
from .listing import ListedLoras
from .sdnext_images import SdnextImages, SdnextProgress, applies_text_encoders
from .sdnext_list import SdnextNames
from .sdnext_model import checkpoint_path, loaded_pipeline
from .webui import WebUI
from .webui_modules import cmd_options, loaded_model, networks, shared


class SdnextHost(WebUI):
    """SD.Next."""

    name = "SD.Next"
    lora_options = ("lora_dir",)
    image_generator = SdnextImages
    host_progress = SdnextProgress

    def __init__(self) -> None:
        super().__init__()
        self._names = SdnextNames()

    @property
    def features(self) -> frozenset[str]:
        found = super().features | {PARTS_IN_TAGS}
        return found if applies_text_encoders() else found | {IGNORES_TEXT_ENCODERS}

    # Files ------------------------------------------------------------------------------------------------

    def _listed(self) -> ListedLoras:
        listed, names = (read(networks(), table) for table in ("available_networks", "available_network_aliases"))
        if not isinstance(listed, Mapping):
            return super()._listed()
        names = names if isinstance(names, Mapping) else {}
        return self._complete_list.look(self._names.of(self._hidden.without(listed), self._hidden.without(names)))

    def checkpoints(self) -> list[CheckpointFile]:
        """Return files, and folders of diffusers that are on this machine."""
        known = read(host_module("modules.sd_checkpoint"), "checkpoints_list")
        found = []
        for info in attempt_list("checkpoints", known.values()) if isinstance(known, Mapping) else ():
            title, path = read(info, "title"), checkpoint_path(info)
            if title and path is not None:
                found.append(CheckpointFile(str(title), path))
        return sorted(found, key=lambda checkpoint: checkpoint.title.lower())

    def replaced(self, paths: Collection[Path]) -> None:
        with self._lock.shared():
            sdnext_caches.forget_files(paths)
            super().replaced(paths)

    def refresh(self) -> None:
        """Read the folders again, and let the pages of cards be made again when they are shown."""
        super().refresh()
        for page in attempt_list("the pages of cards", shared("extra_networks")):
            if str(read(page, "name", "")).lower() == "lora":
                with guarded("the pages of cards"):
                    page.page_time = page.refresh_time = 0

    # The model --------------------------------------------------------------------------------------------

    def _loaded(self) -> LoadedModel | None:
        return loaded_pipeline(self.device)

    def _pending(self) -> str | None:
        """Return the selected checkpoint while no model is in memory: SD.Next can be set to load it with an image."""
        selected = read(shared("opts"), "sd_model_checkpoint")
        if loaded_model() is not None or not isinstance(selected, str):
            return None
        found = find_checkpoint(self.checkpoints(), selected)
        return None if found is None else found.title

    def busy(self) -> str | None:
        """Return also that a model is loaded, which another lock protects at the start."""
        found = super().busy()
        locked = read(read(read(host_module("modules.sd_models"), "model_data"), "lock"), "locked")
        if found is None and callable(locked) and locked():
            return "the WebUI is generating an image or loading a model"
        return found

    # The page ---------------------------------------------------------------------------------------------

    def add_card_button(self) -> bool:
        """Return False: cards have no place for a button. Their menu opens with a right-click."""
        return False

    def xyz_script(self) -> Any | None:
        """Return None: axes of SD.Next's plot are of another kind."""
        return None

    def access(self) -> Access | None:
        options = cmd_options()
        return access_of_sdnext(options, os.environ) if read(options, "resize_lora_api", False) else None
