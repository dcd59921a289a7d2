"""Which checkpoint recipes compare with, as the page is told: from headers and what the host says, no weights read."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.model_index import read_base
from ..errors import ResizeError
from ..files.header import read_header
from ..hosts.host import LOADED_MODEL, CheckpointFile, Host, find_checkpoint
from .faults import Fault
from .options import LOADED, NONE

if TYPE_CHECKING:
    from ..hosts.live import OpenReference


@dataclass(frozen=True)
class ReferenceInfo:
    """Where base norms come from: `kind` is ``memory``, ``file``, ``cache`` or ``none``."""

    kind: str
    title: str | None = None
    family: str | None = None
    note: str = ""
    device: str = "cpu"
    """What computed the norms."""

    def as_json(self) -> dict[str, Any]:
        """As the page is told; the device is a field of results."""
        return {name: value for name, value in asdict(self).items() if name != "device"}

    def remembered(self) -> ReferenceInfo:
        """The same where nothing of it was read anew."""
        return self if self.kind == "none" else replace(self, kind="cache", note="", device="cpu")


NO_REFERENCE = ReferenceInfo("none")


def described(host: Host, choice: str) -> ReferenceInfo:
    """What a choice is as far as one can tell without opening it. Raises Fault for a title that is not listed."""
    if choice == NONE:
        return NO_REFERENCE
    if choice == LOADED:
        return _loaded(host)
    file = _listed(host, choice)
    if file is None:
        raise Fault("file", f"no checkpoint {choice!r} is in the list of {host.name}. Refresh it there.")
    return ReferenceInfo("file", file.title, family_of(file.path))


def told(opened: OpenReference) -> ReferenceInfo:
    """The same of one that was opened, and perhaps left the memory for the file meanwhile."""
    if opened.checkpoint is None:
        return ReferenceInfo("none", note=opened.note)
    family = opened.checkpoint.family
    return ReferenceInfo(opened.kind, opened.title, family.name if family else None, opened.note, opened.device)


def _loaded(host: Host) -> ReferenceInfo:
    loaded = host.loaded()
    if loaded is not None:
        family = loaded.family or (family_of(loaded.path) if loaded.path else None)
        reason = loaded.quantised()
        if reason is None:
            return ReferenceInfo("memory", loaded.title, family)
        return ReferenceInfo("file", loaded.title, family, f"in memory its weights are rounded by {reason}")
    pending = host.pending()
    file = _listed(host, pending) if pending else None
    if file is not None:
        return ReferenceInfo("file", file.title, family_of(file.path), "not in memory yet, so its file is read")
    if LOADED_MODEL not in host.features:
        return ReferenceInfo("none", note=f"{host.name} has no model in memory; a checkpoint file can be picked.")
    return ReferenceInfo("none", note="No checkpoint is loaded.")


def _listed(host: Host, title: str) -> CheckpointFile | None:
    return find_checkpoint(host.checkpoints(), title)


def family_of(path: Path) -> str | None:
    """Family of a checkpoint file, by its header; None where that cannot be read."""
    try:
        found = path.stat()
        return _family(path, found.st_size, found.st_mtime_ns)
    except (OSError, ResizeError):
        return None


@lru_cache(maxsize=256)
def _family(path: Path, size: int, changed: int) -> str | None:  # noqa: ARG001 - they make the key
    header = read_header(path)
    family = read_base({key: entry.shape for key, entry in header.entries.items()}).family
    return None if family is None else family.name
