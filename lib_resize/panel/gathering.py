"""Move undone results of earlier versions, which are inside of LoRA folders, to the trash of today."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from ..files.atomic import sync_folder
from ..hosts.host import Host
from . import trash


def gather(host: Host) -> None:
    """Move all items, each at once. What cannot be moved stays, and is listed where it is."""
    roots = host.lora_roots()
    for old in host.trash_roots():
        new = host.trash_root(old / "x")
        if _is_inner(old, roots) and new != old:
            for id in trash.ids(old):
                _move(old / id, new / id)
            remove_if_empty(old, roots)


def remove_if_empty(folder: Path, roots: Sequence[Path]) -> None:
    """Remove a trash folder inside of a LoRA folder, if it is empty."""
    if _is_inner(folder, roots):
        with contextlib.suppress(OSError):
            folder.rmdir()


def _is_inner(folder: Path, roots: Sequence[Path]) -> bool:
    return any(root in folder.parents for root in roots)


def _move(old: Path, new: Path) -> None:
    """Move a folder on one disk only: another disk would have half a copy for a while."""
    with contextlib.suppress(OSError):
        new.parent.mkdir(parents=True, exist_ok=True)
        if not new.exists():
            old.rename(new)
            sync_folder(new.parent)
