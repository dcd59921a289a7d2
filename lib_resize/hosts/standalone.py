"""No WebUI around us: folders of LoRAs, and perhaps checkpoints, as named on the command line."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ..errors import FileError, HostError
from .host import CheckpointFile, LoadedModel, LoraFile, LoraList, SharedLock
from .listing import ListedLora, LoraListCache, find
from .scan import checkpoint_paths, lora_paths, real_folders
from .trash_places import TrashPlaces


class StandaloneHost:
    """Folders on this machine. Raises FileError where a folder or checkpoint is not there."""

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
        self._roots = real_folders(lora_dirs)
        self._checkpoints = list(_checkpoint_files(checkpoints))
        self._device = device
        self._remote = remote
        self._presets = presets
        self._turn = SharedLock(threading.Lock())
        self._listing = LoraListCache()
        self._entries: dict[str, ListedLora] = {}
        missing = [str(folder) for folder in lora_dirs if not Path(folder).is_dir()]
        if missing or not self._roots:
            raise FileError(f"{', '.join(missing) or 'no folder'}: a folder of LoRAs was expected. Check --lora-dir.")

    @property
    def features(self) -> frozenset[str]:
        return frozenset()

    def lora_roots(self) -> list[Path]:
        return list(self._roots)

    def loras(self) -> LoraList:
        paths = list(self._paths())
        counts = Counter(path.stem for path, _ in paths)
        entries = {_name(path, root, counts): ListedLora(path) for path, root in reversed(paths)}
        self._entries = entries if entries != self._entries else self._entries
        return self._listing.of(self._entries)

    def resolve(self, name: str) -> LoraFile:
        return find(self.loras(), name)

    def checkpoints(self) -> list[CheckpointFile]:
        return list({path.name: CheckpointFile(path.name, path) for path in reversed(self._checkpoints)}.values())[::-1]

    def loaded(self) -> LoadedModel | None:
        return None

    def pending(self) -> str | None:
        """The first checkpoint named is the one selected."""
        return self._checkpoints[0].name if self._checkpoints else None

    def lock(self) -> AbstractContextManager[None]:
        return self._turn.shared()

    def busy(self) -> str | None:
        return None

    def device(self) -> str:
        return self._device

    def make_room(self, bytes: int) -> None:
        """Nothing else is here that could make room."""

    def tidy(self) -> None:
        """torch frees what it cached when another program asks for it, or at the end."""

    def refresh(self) -> None:
        """Folders are read at each question."""

    def is_remote(self) -> bool:
        return self._remote

    def settings(self) -> Mapping[str, Any]:
        """There is no page for them."""
        return {}

    def trash_root(self, path: Path | None = None) -> Path:
        return self._trash_places().of(path)

    def trash_roots(self) -> list[Path]:
        return self._trash_places().all()

    def _trash_places(self) -> TrashPlaces:
        return TrashPlaces(self._roots, real_folders(checkpoint.parent for checkpoint in self._checkpoints))

    def block_presets(self) -> Path | None:
        """The file that was named on the command line."""
        return self._presets

    def begin_job(self, title: str) -> None:
        """The panel shows its own progress."""

    def progress(self, done: int, total: int, text: str) -> None:
        """The panel shows its own progress."""

    def end_job(self) -> None:
        """The panel shows its own progress."""

    def generate(self, request: Mapping[str, Any]) -> Any:  # noqa: ARG002
        raise HostError("Pictures can be compared only inside of a WebUI; this panel runs without one.")

    def stop_generating(self) -> None:
        """No picture is ever under way."""

    def _paths(self) -> Iterator[tuple[Path, Path]]:
        seen: set[Path] = set()
        for root in self._roots:
            for path in lora_paths(root):
                if path not in seen:
                    seen.add(path)
                    yield path, root


def _name(path: Path, root: Path, counts: Mapping[str, int]) -> str:
    """The bare name where it is the only one, else with its folder, as ComfyUI writes it."""
    return path.stem if counts[path.stem] == 1 else path.relative_to(root).with_suffix("").as_posix()


def _checkpoint_files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from (one for one in checkpoint_paths(path) if one.is_file())
        elif path.is_file():
            yield path
        else:
            raise FileError(f"{path}: no such checkpoint. Check --checkpoint.")
