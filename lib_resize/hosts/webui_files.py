"""The LoRAs, checkpoints and folders of A1111's family of WebUIs; the part of `WebUI` that follows `host.HostFiles`."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..prompts.lookup import PRESET_FILE
from .guard import attempt_list, guarded, host_module, read
from .hidden_loras import HiddenLoras
from .host import CheckpointFile, LoraFile, LoraList
from .listing import CompleteList, ListedLora, ListedLoras, LoraListCache, find
from .scan import lora_paths, real_folders
from .trash_places import TrashPlaces
from .webui_modules import (
    checkpoint_file,
    data_folder,
    extension_folders,
    listed_options,
    networks,
    usual_lora_folder,
)


class WebUIFiles:
    """Implements `host.HostFiles`."""

    lora_options: tuple[str, ...] = ("lora_dir", "lora_dirs")
    """Command line options of the host that name folders of LoRAs."""

    def __init__(self) -> None:
        self._complete_list = CompleteList(self._on_disk)
        self._cache = LoraListCache()
        self._refreshing = threading.Lock()
        self._trash: TrashPlaces | None = None
        self._hidden = HiddenLoras()

    def lora_roots(self) -> list[Path]:
        return real_folders(listed_options(*self.lora_options)) or real_folders([usual_lora_folder()])

    def loras(self) -> LoraList:
        return self._cache.of(self._listed())

    def resolve(self, name: str) -> LoraFile:
        return find(self.loras(), name)

    def _listed(self) -> ListedLoras:
        """Return the host's list, or the files in its folders if its Lora extension is disabled."""
        listed = read(networks(), "available_networks")
        if isinstance(listed, Mapping):
            return self._complete_list.look(self._hidden.without(listed))
        return {path.stem: ListedLora(path) for path in self._on_disk()}

    def _on_disk(self) -> Iterator[Path]:
        return (path for root in self.lora_roots() for path in lora_paths(root))

    def checkpoints(self) -> list[CheckpointFile]:
        known = read(host_module("modules.sd_models"), "checkpoints_list")
        infos = attempt_list("checkpoints", known.values()) if isinstance(known, Mapping) else ()
        found = [file for file in map(checkpoint_file, infos) if file is not None]
        return sorted(found, key=lambda checkpoint: checkpoint.title.lower())

    def refresh(self) -> None:
        refresh = read(networks(), "list_available_networks")
        if refresh is not None:
            with self._refreshing, guarded("refreshing the list of LoRAs"):
                refresh()

    def scanned_folders(self) -> list[Path]:
        places = self._trash_places()
        return [*places.roots, *places.scanned]

    def trash_root(self, path: Path | None = None) -> Path:
        return self._trash_places().of(path)

    def trash_roots(self) -> list[Path]:
        return self._trash_places().all()

    def _trash_places(self) -> TrashPlaces:
        """Return the same object while the folders of LoRAs are the same, because results are recorded there."""
        roots = self.lora_roots()
        if self._trash is None or self._trash.roots != roots:
            models = read(host_module("modules.sd_models"), "model_path")
            checkpoint_folders = {checkpoint.path.parent for checkpoint in self.checkpoints()}
            named = listed_options("ckpt_dir", "ckpt_dirs", "embeddings_dir", "vae_dir", "vae_dirs")
            scanned = real_folders([*named, models if isinstance(models, str) else None, *checkpoint_folders])
            data = data_folder()
            self._trash = TrashPlaces(roots, scanned, None if data is None else Path(os.path.realpath(data)))
        return self._trash

    def block_presets(self) -> Path | None:
        files = (folder / "scripts" / PRESET_FILE for folder in extension_folders())
        return next((file for file in files if file.is_file()), None)
