"""A host without a WebUI: folders of LoRAs, and optionally checkpoints, from the command line."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ..errors import FileError, HostError
from .host import CheckpointFile, GeneratedImage, ImageWatch, LoadedModel, LoraFile, LoraList
from .listing import ListedLora, LoraListCache, find
from .locks import SharedLock
from .scan import checkpoint_paths, lora_paths, real_folders
from .trash_places import TrashPlaces


class FolderFiles:
    """Implements `host.HostFiles` with folders on this machine.

    Raises ``FileError`` where a folder or checkpoint does not exist.
    """

    def __init__(self, lora_dirs: Sequence[Path], checkpoints: Sequence[Path], presets: Path | None) -> None:
        self._roots = real_folders(lora_dirs)
        self._checkpoints = list(_checkpoint_files(checkpoints))
        self._presets = presets
        self._cache = LoraListCache()
        self._listed: dict[str, ListedLora] = {}
        missing = [str(folder) for folder in lora_dirs if not Path(folder).is_dir()]
        if missing or not self._roots:
            raise FileError(f"{', '.join(missing) or 'no folder'}: a folder of LoRAs was expected. Check --lora-dir.")

    def lora_roots(self) -> list[Path]:
        return list(self._roots)

    def loras(self) -> LoraList:
        paths = list(self._paths())
        counts = Counter(path.stem for path, _ in paths)
        listed = {_name(path, root, counts): ListedLora(path) for path, root in reversed(paths)}
        self._listed = listed if listed != self._listed else self._listed
        return self._cache.of(self._listed)

    def resolve(self, name: str) -> LoraFile:
        return find(self.loras(), name)

    def checkpoints(self) -> list[CheckpointFile]:
        return list({path.name: CheckpointFile(path.name, path) for path in reversed(self._checkpoints)}.values())[::-1]

    def refresh(self) -> None:
        """Do nothing: folders are read at each call."""

    def replaced(self, paths: Collection[Path]) -> None:
        """Do nothing: no file is kept in memory."""

    def scanned_folders(self) -> list[Path]:
        places = self._trash_places()
        return [*places.roots, *places.scanned]

    def trash_root(self, path: Path | None = None) -> Path:
        return self._trash_places().of(path)

    def trash_roots(self) -> list[Path]:
        return self._trash_places().all()

    def _trash_places(self) -> TrashPlaces:
        return TrashPlaces(self._roots, real_folders(checkpoint.parent for checkpoint in self._checkpoints))

    def block_presets(self) -> Path | None:
        """Return the file from the command line."""
        return self._presets

    def _paths(self) -> Iterator[tuple[Path, Path]]:
        seen: set[Path] = set()
        for root in self._roots:
            for path in lora_paths(root):
                if path not in seen:
                    seen.add(path)
                    yield path, root


class StandaloneHost(FolderFiles):
    """A `host.Host` without a model and without images."""

    name = "Resize LoRA"

    def __init__(
        self,
        lora_dirs: Sequence[Path],
        checkpoints: Sequence[Path] = (),
        *,
        device: str = "cpu",
        remote: bool = False,
        presets: Path | None = None,
    ) -> None:
        super().__init__(lora_dirs, checkpoints, presets)
        self._device = device
        self._remote = remote
        self._lock = SharedLock(threading.Lock())

    @property
    def features(self) -> frozenset[str]:
        return frozenset()

    def loaded(self) -> LoadedModel | None:
        return None

    def pending(self) -> str | None:
        """Return the first checkpoint from the command line, which counts as the selected one."""
        return self._checkpoints[0].name if self._checkpoints else None

    def lock(self) -> AbstractContextManager[None]:
        return self._lock.shared()

    def busy(self) -> str | None:
        return None

    def is_wanted(self) -> bool:
        """Return False: nobody else uses the lock."""
        return False

    def device(self) -> str:
        return self._device

    def make_room(self, bytes: int) -> None:
        """Do nothing: no model is in memory."""

    def tidy(self) -> None:
        """Do nothing: torch frees its cache when memory is needed, or at exit."""

    def is_remote(self) -> bool:
        return self._remote

    def settings(self) -> Mapping[str, Any]:
        """Return nothing: there is no settings page."""
        return {}

    def begin_job(self, title: str) -> None:
        """Do nothing: the page shows the progress."""

    def progress(self, done: int, total: int, text: str) -> None:
        """Do nothing: the page shows the progress."""

    def end_job(self) -> None:
        """Do nothing: the page shows the progress."""

    def generate(self, request: Mapping[str, Any], watch: ImageWatch | None = None) -> GeneratedImage:  # noqa: ARG002
        raise HostError("Images can be compared only inside of a WebUI; this page runs without one.")

    def stop_generating(self) -> None:
        """Do nothing: no image is ever generated."""


def _name(path: Path, root: Path, counts: Mapping[str, int]) -> str:
    """Return the stem where it is unique, else with its folder, in the format of ComfyUI."""
    return path.stem if counts[path.stem] == 1 else path.relative_to(root).with_suffix("").as_posix()


def _checkpoint_files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from (one for one in checkpoint_paths(path) if one.is_file())
        elif path.is_file():
            yield path
        else:
            raise FileError(f"{path}: no such checkpoint. Check --checkpoint.")
