"""The base model of a resize in a WebUI: the model in memory, a checkpoint file, or none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..base.checkpoint import Checkpoint
from ..base.store import open_store
from ..errors import FileError, UnsupportedError
from .host import Host, LoadedModel, find_checkpoint
from .live_checkpoint import FILE, LiveCheckpoint, MemoryOnlyCheckpoint

CACHE, NONE = "cache", "none"
"""Sources of norms besides `MEMORY` and `FILE`."""
LOADED = "loaded"
"""The choice of the model that the host has in memory."""


@dataclass
class OpenReference:
    """The base model of a resize, and where its weights come from."""

    title: str = ""
    checkpoint: Checkpoint | None = None
    remarks: list[str] = field(default_factory=list)
    """Messages for the user about the choice; sentences."""

    @property
    def kind(self) -> str:
        """Where the norms came from so far: ``memory``, ``file``, ``cache`` or ``none``.

        Before any norm was requested, where they will be read from unless the cache has them.
        """
        if self.checkpoint is None:
            return NONE
        if self.checkpoint.remembered:
            return CACHE
        return self.checkpoint.source if isinstance(self.checkpoint, LiveCheckpoint) else FILE

    @property
    def device(self) -> str:
        """The device that measured the norms, as torch names it."""
        if self.checkpoint is None or self.kind == CACHE:
            return "cpu"
        return self.checkpoint.device if isinstance(self.checkpoint, LiveCheckpoint) else self.checkpoint.measured_on

    @property
    def note(self) -> str:
        """All messages for the user, joined."""
        own = self.checkpoint.notes if isinstance(self.checkpoint, LiveCheckpoint) else []
        return " ".join([*self.remarks, *own])

    def close(self) -> None:
        """Close the file."""
        if self.checkpoint is not None:
            self.checkpoint.close()


def open_reference(host: Host, choice: str = LOADED) -> OpenReference:
    """Open the base model of a resize.

    `choice` is "loaded" (the model in memory, or the file of the selected checkpoint where none is in memory), "none",
    or the title of a checkpoint in the host's list. Raises ``FileError`` where a title is not in the list, and what
    `Checkpoint` raises.
    """
    if choice == NONE:
        return OpenReference()
    if choice != LOADED:
        return OpenReference(choice, Checkpoint(_path_of(host, choice)))
    loaded = host.loaded()
    if loaded is not None:
        return OpenReference(loaded.title, _live(host, loaded), list(_remark_on_pending(host)))
    selected = host.pending()
    if selected is None:
        return OpenReference(remarks=["No checkpoint is loaded."])
    remark = f"{selected} is selected but not in memory; its file is read."
    return OpenReference(selected, Checkpoint(_path_of(host, selected)), [remark])


def _live(host: Host, loaded: LoadedModel) -> LiveCheckpoint:
    if loaded.path is None:
        return MemoryOnlyCheckpoint(host, loaded, "The host does not know which file it came from.")
    try:
        open_store(loaded.path).close()
    except (FileError, UnsupportedError) as error:
        return MemoryOnlyCheckpoint(host, loaded, str(error))
    return LiveCheckpoint(host, loaded)


def _remark_on_pending(host: Host) -> Iterator[str]:
    selected = host.pending()
    if selected is not None:
        yield f"{selected} is selected, but the model in memory is still the previous one."


def _path_of(host: Host, title: str) -> Path:
    found = find_checkpoint(host.checkpoints(), title)
    if found is None:
        raise FileError(f"{title}: no checkpoint of this title is in the host's list. Choose another reference.")
    return found.path
