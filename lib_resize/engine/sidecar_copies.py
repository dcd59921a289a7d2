"""Previews and descriptions of a source, copied to the name of its result."""

from __future__ import annotations

from pathlib import Path

from ..files.reader import SafeFile
from ..files.sidecars import SidecarFacts, copy_sidecars, foreign_sidecars, has_sidecars
from ..files.walk import exists
from .settings import Settings


def facts_of_replaced(target: Path, settings: Settings) -> SidecarFacts | None:
    """Return the facts of the result that is about to be replaced, by which its own sidecars are recognised."""
    if not (settings.sidecars and settings.overwrite and exists(target) and has_sidecars(target)):
        return None
    return _facts(target)


def copy(
    lora: Path, target: Path, settings: Settings, replaced: SidecarFacts | None
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Copy the sidecars of `lora` to the name of `target`.

    Returns those that were written and, with `settings.overwrite`, those of others that are kept.
    """
    if not settings.sidecars or not has_sidecars(lora):
        return (), ()
    facts = _facts(target)
    written = copy_sidecars(lora, target, facts=facts, replaced=replaced)
    kept = foreign_sidecars(lora, target, facts=facts) if settings.overwrite else []
    return tuple(written), tuple(kept)


def _facts(path: Path) -> SidecarFacts:
    with SafeFile(path) as file:
        return SidecarFacts(file.header.file_bytes, file.sha256(), modified=path.stat().st_mtime)
