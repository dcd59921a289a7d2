"""Files with the name of another LoRA. A host lists one file for each name; the others are on the disk unused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..hosts.host import LoraFile, same_file
from ..hosts.scan import lora_paths
from .protocol.types import Json


@dataclass(frozen=True)
class SameName:
    """A file that the host does not use, because it uses another one of this name."""

    path: Path
    bytes: int
    """Size of the file, in bytes."""

    def to_json(self, folder: str) -> Json:
        """Return the `Same name` of the protocol."""
        return {"folder": folder, "bytes": self.bytes}


def same_names(loras: Iterable[LoraFile], roots: Sequence[Path]) -> dict[str, tuple[SameName, ...]]:
    """Return name of a listed LoRA -> the other files below the roots that have its file name.

    Links to the listed file itself are left out. Files that cannot be read are left out, too.
    """
    listed = {lora.path.stem: lora for lora in loras}
    known = {lora.path for lora in listed.values()}
    found: dict[str, list[SameName]] = {}
    for path in dict.fromkeys(path for root in roots for path in lora_paths(root) if path not in known):
        lora = listed.get(path.stem)
        if lora is None or same_file(path, lora.path):
            continue
        try:
            found.setdefault(lora.name, []).append(SameName(path, path.stat().st_size))
        except OSError:
            continue
    return {name: tuple(others) for name, others in found.items()}
