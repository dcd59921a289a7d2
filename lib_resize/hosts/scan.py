"""Find LoRA files in folders, and the previews next to them. Standard library only."""

from __future__ import annotations

import os
import time
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

from ..files.sidecars import PREVIEW_TYPES
from ..files.walk import names_in, walk

LORA_TYPES = (".safetensors", ".pt", ".ckpt")
TRASH = "Resize LoRA trash"
"""Name of the trash folder outside of the LoRA folders."""
INNER_TRASH = ".resize_lora_trash"
"""Name of the trash folder inside of a LoRA folder: where no folder outside can be used, and of earlier versions."""


def lora_paths(root: Path) -> Iterator[Path]:
    """Yield LoRA files below a folder, sorted, links followed, each folder once; the trash is skipped."""
    for found in walk(root, leave_out=(TRASH, INNER_TRASH)):
        for name in found.names:
            if name.lower().endswith(LORA_TYPES):
                yield found.path / name


def checkpoint_paths(root: Path) -> Iterator[Path]:
    """Yield safetensors files below a folder of base models, sorted."""
    for found in walk(root):
        yield from (found.path / name for name in found.names if name.endswith(".safetensors"))


class Folders:
    """The names in folders. A folder is read again only after it changed. All methods are thread-safe."""

    _SETTLED = 2 * 10**9  # nanoseconds; a folder that changed less than this before it was read is read again

    def __init__(self) -> None:
        self._known: dict[Path, tuple[int, frozenset[str]]] = {}

    def names(self, folder: Path) -> frozenset[str]:
        """Return the names in a folder, the same object while nothing changed; empty where it cannot be read."""
        try:
            changed = folder.stat().st_mtime_ns
        except (OSError, ValueError):
            return frozenset()
        known = self._known.get(folder)
        if known is not None and known[0] == changed:
            return known[1]
        found = frozenset(names_in(folder))
        if known is not None and known[1] == found:
            found = known[1]
        settled = time.time_ns() - changed > self._SETTLED
        self._known[folder] = (changed if settled else -1, found)
        return found

    @staticmethod
    def preview(path: Path, names: Container[str]) -> Path | None:
        """Return the preview of a LoRA, given the names in its folder; None where there is none."""
        found = next((name for name in _preview_names(path.stem) if name in names), None)
        return None if found is None else path.parent / found


def real_folders(paths: Iterable[str | os.PathLike[str] | None]) -> list[Path]:
    """Return the real paths of the folders that exist, each once. A folder inside of another is kept."""
    real = dict.fromkeys(Path(os.path.realpath(path)) for path in paths if path)
    return [folder for folder in real if folder.is_dir()]


def _preview_names(stem: str) -> Iterator[str]:
    for kind in PREVIEW_TYPES:
        yield f"{stem}.{kind}"
        yield f"{stem}.preview.{kind}"
