"""Complete or revert what a killed process, or a failing disk, left half done."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import OutputError
from ..files.atomic import explain
from ..files.drafts import sweep
from ..files.moving import sha256_of
from .exchanging import hold_copy, put_staged
from .journal import PURGING, RESTORING, Exchange, Journal, is_under_way, journals, sweep_after
from .place import Archive, turn
from .purging import complete_purge
from .replacing import complete, revert
from .restoring import cancel, complete_restore

COMPLETED, REVERTED, BLOCKED = "completed", "reverted", "blocked"
_IN_THE_WAY = "{home}: another file has this name now and is not overwritten. Rename or move it, then start again."


@dataclass(frozen=True)
class Recovered:
    """A step that was under way when its process ended."""

    name: str
    home: Path
    direction: str
    """``completed``, ``reverted``, or ``blocked`` where something is in the way."""
    message: str


def recover(archive: Archive) -> list[Recovered]:
    """Complete or revert every step that is not finished, and say which. Raises OutputError for a read-only archive."""
    for folder in (archive.folder, archive.entries):
        sweep(folder)
    if not is_under_way(archive):
        return []
    with turn(archive):
        return [_recovered(archive, journal) for journal in journals(archive)]


def _recovered(archive: Archive, journal: Journal) -> Recovered:
    entry = journal.entry
    sweep_after(journal)
    try:
        direction, message = _settled(archive, journal)
    except OutputError as error:
        direction, message = BLOCKED, str(error)
    except OSError as error:
        direction, message = BLOCKED, explain(error, entry.home)
    return Recovered(entry.name, entry.home, direction, message)


def _settled(archive: Archive, journal: Journal) -> tuple[str, str]:
    home = journal.entry.home
    if journal.step == PURGING:
        complete_purge(archive, journal)
        return COMPLETED, f"{home}: the deletion of its original was completed."
    if journal.step == RESTORING:
        return _restore(archive, journal)
    return _replacement(archive, journal)


def _restore(archive: Archive, journal: Journal) -> tuple[str, str]:
    entry = journal.entry
    found = sha256_of(entry.home)
    is_missing = not os.path.lexists(entry.home)
    if entry.is_there and found != entry.sha256_before and not is_missing:
        cancel(archive, journal)
        return REVERTED, f"{entry.home}: the restore had not begun; the original is still in the archive."
    complete_restore(archive, journal)
    return COMPLETED, f"{entry.home}: the restore was completed."


def _replacement(archive: Archive, journal: Journal) -> tuple[str, str]:
    lora = journal.exchanges[0]
    home = lora.home
    if not os.path.lexists(home) and sha256_of(journal.staged) == lora.new:
        put_staged(journal.staged, home)
    if sha256_of(home) == lora.new:
        _hold_all(journal.exchanges[1:])
        complete(archive, journal)
        return COMPLETED, f"{home}: the replacement was completed."
    if not revert(archive, journal):
        return BLOCKED, _IN_THE_WAY.format(home=home)
    return REVERTED, f"{home}: the replacement was reverted; the file is the original."


def _hold_all(sidecars: tuple[Exchange, ...]) -> None:
    for one in sidecars:
        if sha256_of(one.home) == one.was:
            hold_copy(one)
