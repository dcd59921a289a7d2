"""How a prompt refers to a LoRA that a search makes smaller files of."""

from __future__ import annotations

from ...hosts.host import LoraFile
from ..desk import Desk
from ..names import free_name, notes_of
from ..snapshot import Snapshot
from ..versions import names_of
from .prompting import ComparedFiles


def original_pair(desk: Desk, lora: LoraFile, source: LoraFile, lists: Snapshot) -> ComparedFiles:
    """Return the names of a LoRA and its versions. An archived original has a name of its own for one image."""
    members = {lora.name, *desk.library.versions(lora.path.stem)}
    others = names_of(lists.loras(), members, lora.path.stem)
    notes = notes_of(lora.path)
    if source.path == lora.path:
        return ComparedFiles(lora.name, lora.name, others, notes)
    old = free_name(lora.name, {one.name for one in lists.loras()})
    return ComparedFiles(old, lora.name, others, notes, {old: source.path})
