"""Facts of a result by which its own sidecars are recognised."""

from __future__ import annotations

from pathlib import Path

from ..files.reader import SafeFile
from ..files.sidecars import SidecarFacts, has_sidecars
from ..files.walk import exists
from .settings import Settings


def facts_of_replaced(target: Path, settings: Settings) -> SidecarFacts | None:
    """Return the facts of the result that is about to be replaced, by which its own sidecars are recognised."""
    if not (settings.sidecars and settings.overwrite and exists(target) and has_sidecars(target)):
        return None
    return facts_of(target)


def facts_of(path: Path) -> SidecarFacts:
    """Return size, SHA-256 and modification time of a result. Raises FileError where it cannot be read."""
    with SafeFile(path) as file:
        return SidecarFacts(file.header.file_bytes, file.sha256(), modified=path.stat().st_mtime)
