"""The base model of a run, on a node: norms that come with the output, or a checkpoint that is fetched once."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

from ..base.checkpoint import Checkpoint
from ..files.locks import file_turn
from ..files.user_cache import cache_folder
from .order import OrderBase
from .stores import StorePlace, is_url


class BaseHolder:
    """Opens the base model of an order on first use, once a process."""

    def __init__(self, base: OrderBase | None, output: StorePlace, places: Callable[[str], StorePlace]) -> None:
        self._base = base
        self._output = output
        self._places = places
        self._lock = threading.Lock()
        self._open: Checkpoint | None = None

    def opened(self) -> Checkpoint | None:
        """Return the base model; None where the order has none. Raises ``OSError`` and what `Checkpoint` raises."""
        if self._base is None:
            return None
        with self._lock:
            if self._open is None:
                self._open = Checkpoint(self._local(self._base))
            return self._open

    def close(self) -> None:
        """Close the base model."""
        with self._lock:
            if self._open is not None:
                self._open.close()
                self._open = None

    def _local(self, base: OrderBase) -> Path:
        if base.norms_only:
            return once_a_node(self._output, base.source, base.identity)
        if not is_url(base.source):
            return Path(base.source)
        folder, _, name = base.source.rpartition("/")
        return once_a_node(self._places(folder), name, base.identity)


def once_a_node(place: StorePlace, name: str, identity: str) -> Path:
    """Return the local path of a file that all processes of a machine share: the first one fetches it, others wait."""
    folder = cache_folder() / "base" / hashlib.sha256(identity.encode()).hexdigest()[:32]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name.rpartition("/")[2]
    with file_turn(folder / "lock"):
        if not path.exists():
            part = folder / f"{path.name}.part"
            place.fetch(name, part)
            part.replace(path)
    return path
