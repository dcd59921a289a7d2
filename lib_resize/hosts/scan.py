"""LoRA files in folders, and the pictures beside them. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..files.sidecars import PREVIEW_TYPES
from ..files.walk import walk

LORA_TYPES = (".safetensors", ".pt", ".ckpt")
TRASH = ".resize_lora_trash"
"""Folder of undone results, below a LoRA root."""


def lora_paths(root: Path) -> Iterator[Path]:
    """LoRA files below a folder, links followed, each folder once, in order; nothing of our trash."""
    for found in walk(root, leave_out=TRASH):
        for name in found.names:
            if name.lower().endswith(LORA_TYPES):
                yield found.path / name


def checkpoint_paths(root: Path) -> Iterator[Path]:
    """Safetensors files below a folder of base models, in order."""
    for found in walk(root):
        yield from (found.path / name for name in found.names if name.endswith(".safetensors"))


def previews(paths: Iterable[Path]) -> dict[Path, Path]:
    """LoRA file -> the picture beside it, where there is one; each folder is read once."""
    names: dict[Path, set[str]] = {}
    found = {}
    for path in paths:
        if path.parent not in names:
            names[path.parent] = _names_in(path.parent)
        picture = next((name for name in _picture_names(path.stem) if name in names[path.parent]), None)
        if picture is not None:
            found[path] = path.parent / picture
    return found


def real_folders(paths: Iterable[str | os.PathLike[str] | None]) -> list[Path]:
    """The folders that exist, by their real paths, each once; one inside of another stays."""
    real = dict.fromkeys(Path(os.path.realpath(path)) for path in paths if path)
    return [folder for folder in real if folder.is_dir()]


def _picture_names(stem: str) -> Iterator[str]:
    for kind in PREVIEW_TYPES:
        yield f"{stem}.{kind}"
        yield f"{stem}.preview.{kind}"


def _names_in(folder: Path) -> set[str]:
    try:
        return {entry.name for entry in folder.iterdir()}
    except OSError:
        return set()
