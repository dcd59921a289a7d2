"""LoRA files in folders, and the pictures beside them. Standard library only."""

from __future__ import annotations

import os
import time
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

from ..files.sidecars import PREVIEW_TYPES
from ..files.walk import names_in, walk

LORA_TYPES = (".safetensors", ".pt", ".ckpt")
TRASH = "Resize LoRA trash"
"""Folder of undone results, outside of the LoRA roots."""
INNER_TRASH = ".resize_lora_trash"
"""The same inside of a LoRA root, where no place outside can be used, and where earlier versions had it."""


def lora_paths(root: Path) -> Iterator[Path]:
    """LoRA files below a folder, links followed, each folder once, in order; nothing of our trash."""
    for found in walk(root, leave_out=(TRASH, INNER_TRASH)):
        for name in found.names:
            if name.lower().endswith(LORA_TYPES):
                yield found.path / name


def checkpoint_paths(root: Path) -> Iterator[Path]:
    """Safetensors files below a folder of base models, in order."""
    for found in walk(root):
        yield from (found.path / name for name in found.names if name.endswith(".safetensors"))


class Folders:
    """The names in folders, each read again only when it changed. Every method may be called from any thread."""

    _SETTLED = 2 * 10**9  # nanoseconds: a folder that changed so shortly before it was read is read again

    def __init__(self) -> None:
        self._known: dict[Path, tuple[int, frozenset[str]]] = {}

    def names(self, folder: Path) -> frozenset[str]:
        """The same object as long as nothing changed; empty for a folder that cannot be read."""
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
    def picture(path: Path, names: Container[str]) -> Path | None:
        """The picture of a LoRA, given the names in its folder."""
        found = next((name for name in _picture_names(path.stem) if name in names), None)
        return None if found is None else path.parent / found


def real_folders(paths: Iterable[str | os.PathLike[str] | None]) -> list[Path]:
    """The folders that exist, by their real paths, each once; one inside of another stays."""
    real = dict.fromkeys(Path(os.path.realpath(path)) for path in paths if path)
    return [folder for folder in real if folder.is_dir()]


def _picture_names(stem: str) -> Iterator[str]:
    for kind in PREVIEW_TYPES:
        yield f"{stem}.{kind}"
        yield f"{stem}.preview.{kind}"
