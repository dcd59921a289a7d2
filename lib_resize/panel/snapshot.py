"""The lists of a host, asked for once in a call, however many parts of the answer need them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from ..hosts.host import CheckpointFile, Host, LoadedModel, LoraFile, LoraList
from ..hosts.listing import find


class HostLists(Protocol):
    """The part of a host that says what it has. `Host` and `Snapshot` are of this kind."""

    @property
    def name(self) -> str: ...

    @property
    def features(self) -> frozenset[str]: ...

    def lora_roots(self) -> list[Path]: ...

    def loras(self) -> LoraList: ...

    def checkpoints(self) -> list[CheckpointFile]: ...

    def loaded(self) -> LoadedModel | None: ...

    def pending(self) -> str | None: ...

    def settings(self) -> Mapping[str, Any]: ...


class Snapshot:
    """The lists of a host as they are when first asked for. For one call, in one thread."""

    def __init__(self, host: Host) -> None:
        self.name = host.name
        self.features = host.features
        self.lora_roots: Callable[[], list[Path]] = cache(host.lora_roots)
        self.loras: Callable[[], LoraList] = cache(host.loras)
        self.checkpoints: Callable[[], list[CheckpointFile]] = cache(host.checkpoints)
        self.loaded: Callable[[], LoadedModel | None] = cache(host.loaded)
        self.pending: Callable[[], str | None] = cache(host.pending)
        self.settings: Callable[[], Mapping[str, Any]] = cache(host.settings)

    def find(self, name: str) -> LoraFile:
        """Return the LoRA of a name or alias. Raises FileError where there is none."""
        return find(self.loras(), name)
