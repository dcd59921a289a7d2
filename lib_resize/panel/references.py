"""Which checkpoint recipes compare with, from headers and what the host says; no weights are read."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..base.model_index import read_base
from ..errors import ResizeError
from ..files.header import read_header
from ..hosts.host import LOADED_MODEL, CheckpointFile, find_checkpoint
from .faults import Fault
from .protocol.objects import LOADED, NONE
from .protocol.types import Json
from .snapshot import HostLists

if TYPE_CHECKING:
    from ..hosts.live import OpenReference


@dataclass(frozen=True)
class ReferenceInfo:
    """Where base norms come from; the `Reference` of the protocol."""

    kind: str
    title: str | None = None
    family: str | None = None
    note: str = ""
    device: str = "cpu"
    """What computed the norms."""

    def to_json(self) -> Json:
        """Return the `Reference` of the protocol; `device` is a field of results."""
        return {name: value for name, value in asdict(self).items() if name != "device"}

    def remembered(self) -> ReferenceInfo:
        """Return the same for norms that were known already."""
        return self if self.kind == "none" else replace(self, kind="cache", note="", device="cpu")


NO_REFERENCE = ReferenceInfo("none")


def reference_info(host: HostLists, choice: str) -> ReferenceInfo:
    """Describe a choice as far as that is possible without opening it. Raises Fault for a title that is not listed."""
    if choice == NONE:
        return NO_REFERENCE
    if choice == LOADED:
        return _loaded(host)
    file = _listed(host, choice)
    if file is None:
        raise Fault("file", f"no checkpoint {choice!r} is in the list of {host.name}. Refresh the list there.")
    return ReferenceInfo("file", file.title, family_of(file.path))


def opened_info(opened: OpenReference) -> ReferenceInfo:
    """Describe a reference that was opened; it may be read from its file by now, though it was in memory before."""
    if opened.checkpoint is None:
        return ReferenceInfo("none", note=opened.note)
    family = opened.checkpoint.family
    return ReferenceInfo(opened.kind, opened.title, family.name if family else None, opened.note, opened.device)


def loaded_info(host: HostLists) -> ReferenceInfo:
    """Describe the loaded model. Never raises: a host that fails here has none."""
    try:
        return reference_info(host, LOADED)
    except Exception as error:
        return ReferenceInfo("none", note=f"The host cannot say which checkpoint is loaded ({type(error).__name__}).")


def _loaded(host: HostLists) -> ReferenceInfo:
    loaded = host.loaded()
    if loaded is not None:
        family = loaded.family or (family_of(loaded.path) if loaded.path else None)
        reason = loaded.quantised()
        if reason is None:
            return ReferenceInfo("memory", loaded.title, family)
        return ReferenceInfo("file", loaded.title, family, f"in memory its weights are changed by {reason}")
    pending = host.pending()
    file = _listed(host, pending) if pending else None
    if file is not None:
        return ReferenceInfo("file", file.title, family_of(file.path), "not in memory yet, so its file is read")
    if LOADED_MODEL not in host.features:
        return ReferenceInfo("none", note=f"{host.name} has no model in memory; choose a checkpoint file.")
    return ReferenceInfo("none", note="No checkpoint is loaded.")


def _listed(host: HostLists, title: str) -> CheckpointFile | None:
    return find_checkpoint(host.checkpoints(), title)


def family_of(path: Path) -> str | None:
    """Return the family of a checkpoint file, by its header; None where that cannot be read."""
    try:
        found = path.stat()
        return _family(path, found.st_size, found.st_mtime_ns)
    except (OSError, ResizeError):
        return None


@lru_cache(maxsize=256)
def _family(path: Path, size: int, changed: int) -> str | None:  # noqa: ARG001 - size and time are part of the key
    header = read_header(path)
    family = read_base({key: entry.shape for key, entry in header.entries.items()}).family
    return None if family is None else family.name
