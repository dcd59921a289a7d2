"""LoRA files that a WebUI knows during one image, and that no list shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import HostError, UsageError
from . import webui_caches as caches
from .guard import guarded, read
from .listing import copy_of
from .sdnext_caches import forget_files
from .webui_modules import networks, own_class


class HiddenLoras:
    """The names that are hidden from this program's list at the moment."""

    def __init__(self) -> None:
        self._names: frozenset[str] = frozenset()

    def without(self, listed: Mapping[Any, Any]) -> Mapping[Any, Any]:
        """Return the host's list without the hidden names; the same object where there are none."""
        hidden = self._names
        if not hidden:
            return listed
        return {name: entry for name, entry in copy_of(listed).items() if name not in hidden}

    @contextmanager
    def known(self, files: Mapping[str, Path]) -> Iterator[None]:
        """Let the host know files under these names in the block, and forget them afterwards, also after an error.

        Call it under the host's lock. Raises UsageError where a name is taken, HostError where the host has no list.
        """
        if not files:
            yield
            return
        make, listed = own_class("network", "NetworkOnDisk"), read(networks(), "available_networks")
        if make is None or not isinstance(listed, Mapping):
            raise HostError("This WebUI has no list of LoRAs, so a file of the archive cannot be used in an image.")
        known = caches.all_names()
        taken = [name for name in files if name in known]
        if taken:
            raise UsageError(f"{', '.join(taken)}: a LoRA of this name is in the list.")
        before = caches.by_hash()
        try:
            self._names = frozenset(files)
            _put_all(make, files)
            yield
        finally:
            _drop_all(files, before)
            self._names = frozenset()


def _put_all(make: Any, files: Mapping[str, Path]) -> None:
    for name, path in files.items():
        try:
            caches.put(name, make(name, str(path)))
        except Exception as error:  # hosts raise anything
            raise HostError(f"The WebUI cannot use {path.name}: {type(error).__name__}: {error}") from error


def _drop_all(files: Mapping[str, Path], before: Mapping[Any, Any]) -> None:
    """Remove the entries, and all that the host keeps of them: the same name may be another file next time."""
    paths = {str(path) for path in files.values()}
    with guarded("the LoRAs of an image"):
        caches.drop_all(lambda entry: read(entry, "filename") in paths, before)
    caches.forget(files)
    forget_files(list(files.values()))
