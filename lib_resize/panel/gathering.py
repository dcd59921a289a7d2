"""Undone results of earlier versions are inside of the folders of LoRAs; they are moved to where the trash is now."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from ..files.atomic import sync_folder
from ..hosts.host import Host
from . import trash


def gather(host: Host) -> None:
    """Moves whole items, each at once. What cannot be moved stays, and is listed where it is."""
    roots = host.lora_roots()
    for old in host.trash_roots():
        new = host.trash_root(old / "x")
        if _is_inner(old, roots) and new != old:
            for id in trash.ids(old):
                _move(old / id, new / id)
            remove_if_empty(old, roots)


def remove_if_empty(folder: Path, roots: Sequence[Path]) -> None:
    """Of trash folders inside of folders of LoRAs."""
    if _is_inner(folder, roots):
        with contextlib.suppress(OSError):
            folder.rmdir()


def _is_inner(folder: Path, roots: Sequence[Path]) -> bool:
    return any(root in folder.parents for root in roots)


def _move(old: Path, new: Path) -> None:
    """On one disk only: a folder on another one would be half copied for a while."""
    with contextlib.suppress(OSError):
        new.parent.mkdir(parents=True, exist_ok=True)
        if not new.exists():
            old.rename(new)
            sync_folder(new.parent)
