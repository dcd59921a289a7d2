"""A place for files, as the work needs it: a local folder, or any store that fsspec knows.

Names in a place are relative to it, with ``/`` between folders. A file appears whole or not at all. All faults are
``OSError``: `FileNotFoundError` and `PermissionError` where they fit, `StoreError` for the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

STATE = ".resize-lora"
"""Folder for markers, manifests and temporary files in the output; listings leave it out."""


class StoreError(OSError):
    """A store or its connection failed. The same call may succeed later."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of a place."""

    name: str
    size: int
    """In bytes."""
    tag: str
    """Changes when the content does: the store's checksum, or size and modification time."""


class StorePlace(Protocol):
    """A folder of a store."""

    @property
    def url(self) -> str:
        """The URL, or the absolute path of a local folder, without a slash at the end."""
        ...

    @property
    def folder(self) -> Path | None:
        """The local folder; None where files must be fetched."""
        ...

    def files(self) -> Iterator[StoredFile]:
        """Yield all files, also of folders below, in any order. Nothing where the folder does not exist."""
        ...

    def names(self, beginning: str) -> list[str]:
        """Return the names that begin with a text and are in the same folder."""
        ...

    def find(self, name: str) -> StoredFile | None:
        """Return one file; None where there is none."""
        ...

    def read(self, name: str) -> bytes:
        """Return the contents of a small file."""
        ...

    def fetch(self, name: str, target: Path) -> None:
        """Copy a file to a local path."""
        ...

    def publish(self, source: Path, name: str) -> None:
        """Give a finished local file its name in the place, in one step. It replaces; `source` may be gone after."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Write a small file in one step. It replaces."""
        ...


def is_url(text: str) -> bool:
    """Return whether a text is a URL of a store, such as ``s3://bucket/loras``."""
    scheme, colon, _ = text.partition("://")
    return bool(colon) and scheme.replace("+", "").replace("-", "").replace(":", "").isalnum()


def open_place(url: str) -> StorePlace:
    """Open a folder by its URL or local path. Raises UsageError where the library for its store is not installed."""
    if is_url(url) and not url.startswith(("file://", "local://")):
        from .fsspec_store import FsspecPlace

        return FsspecPlace(url)
    from .local_store import LocalPlace

    return LocalPlace(Path(url.partition("://")[2] if is_url(url) else url))


def joined(*parts: str) -> str:
    """Return parts of a name or URL with a slash between them; empty parts are left out."""
    return "/".join(part for part in parts if part)
