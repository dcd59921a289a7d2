"""Previews and descriptions of a source, copied to the name of its result."""

from __future__ import annotations

from pathlib import Path

from ..files.sidecars import SidecarFacts, copy_sidecars, foreign_sidecars, has_sidecars
from .settings import Settings
from .sidecar_facts import facts_of


def copy(
    lora: Path, target: Path, settings: Settings, replaced: SidecarFacts | None
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Copy the sidecars of `lora` to the name of `target`.

    Returns those that were written and, with `settings.overwrite`, those of others that are kept.
    """
    if not settings.sidecars or not has_sidecars(lora):
        return (), ()
    facts = facts_of(target)
    written = copy_sidecars(lora, target, facts=facts, replaced=replaced)
    kept = foreign_sidecars(lora, target, facts=facts) if settings.overwrite else []
    return tuple(written), tuple(kept)
