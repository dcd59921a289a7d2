"""How a prompt refers to a LoRA that a search makes smaller files of."""

from __future__ import annotations

import itertools

from ...hosts.host import LoraFile, LoraList
from ..desk import Desk
from ..names import notes_of
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
    old = hidden_name(lora.name, lists.loras())
    return ComparedFiles(old, lora.name, others, notes, {old: source.path})


def hidden_name(name: str, loras: LoraList) -> str:
    """Return a name for an archived original that means no LoRA of the list."""
    wished = (f"{name} original{'' if number == 1 else f' {number}'}" for number in itertools.count(1))
    return next(one for one in wished if not loras.candidates(one))
