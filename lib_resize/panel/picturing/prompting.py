"""The prompts and settings of images that are compared."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..names import Notes, has_tag, replace_tags, tag, without_tags
from ..protocol.objects import IMAGE_SETTINGS
from ..protocol.types import Json, read_object


@dataclass(frozen=True)
class ComparedFiles:
    """The original and the new file, and how prompts refer to them."""

    old: str
    new: str
    others: frozenset[str]
    """Further names in the prompt that stand for either: aliases, other versions."""
    notes: Notes
    files: Mapping[str, Path] = field(default_factory=dict)
    """Names that are not in the list, and their files, which the host knows for one image."""

    @property
    def names(self) -> frozenset[str]:
        return self.others | {self.old, self.new}


def read_settings(values: Mapping[str, Any]) -> Json:
    """Return the settings that were given, with a seed. Raises Fault for settings and values that no host accepts."""
    checked = read_object(dict(values), IMAGE_SETTINGS.fields, "settings")
    found = {name: value for name, value in checked.items() if value not in (None, "")}
    if found.get("seed", -1) < 0:
        found["seed"] = secrets.randbelow(2**32)
    return {"prompt": "", **found}


def seeds_from(first: int, count: int) -> list[int]:
    """Return the seeds of a comparison: the first one and those that follow it."""
    return list(range(first, first + count))


@dataclass(frozen=True)
class Prompts:
    """One prompt for the original, for any other file in its place, and for neither."""

    pair: ComparedFiles
    with_tag: str

    @classmethod
    def of(cls, pair: ComparedFiles, prompt: str) -> Prompts:
        """Return the prompts of a text; where it has no tag of the LoRA, the tag and its activation text are added."""
        if not has_tag(prompt, pair.names):
            words = ", ".join(part for part in (prompt.strip(), pair.notes.activation) if part)
            prompt = f"{words} {tag(pair.old, pair.notes.weight)}".strip()
        return cls(pair, prompt)

    @property
    def original(self) -> str:
        return replace_tags(self.with_tag, self.pair.names, self.pair.old)

    @property
    def without(self) -> str:
        return without_tags(self.with_tag, self.pair.names)

    def of_file(self, name: str) -> str:
        """Return the prompt with another file in place of the LoRA."""
        return replace_tags(self.with_tag, self.pair.names, name)
