"""Replace a LoRA by a smaller file under its name, and keep the original in the archive."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace as changed
from pathlib import Path

from ..errors import OutputError
from ..files import drafts
from ..files.atomic import in_plain_words
from ..files.moving import remove_empty
from .entries import CLOSED, Entry, plain_path, write_entry
from .exchanging import bring_back, hold, hold_copy, put_data, put_staged
from .journal import Journal, close_journal, journals, open_journal
from .place import Archive, turn
from .planning import Replacement as Replacement
from .planning import planned


def staged_path(source: Path) -> Path:
    """Return a temporary name in the folder of a source that no host lists.

    If the process dies, `files.atomic.sweep` of the folder removes the file.
    """
    return drafts.staged_path(plain_path(source).parent)


def replace(archive: Archive, replacement: Replacement) -> Entry:
    """Replace a file, and return the entry of its original.

    A file that was replaced before keeps its archived original. JSON sidecars that describe the file are updated, and
    their earlier versions kept. Without `keep_original` nothing is kept, and the entry is not stored.

    Raises OutputError where the file changed, is a link, or cannot be replaced; nothing changed then.
    """
    staged = replacement.staged
    try:
        with turn(archive), in_plain_words(replacement.source):
            plan = planned(archive, replacement)
            return plan if isinstance(plan, Entry) else _carried_out(archive, plan)
    finally:
        if not _is_needed(archive, staged):
            with contextlib.suppress(OSError):
                staged.unlink()


def complete(archive: Archive, journal: Journal) -> Entry:
    """Finish a replacement whose LoRA has its new content. Can be repeated. Raises OutputError and OSError."""
    foreign = {one.home for one in journal.exchanges[1:] if not put_data(one)}
    kept = tuple(
        changed(one, after=None) if one.home in foreign else one
        for one in journal.entry.sidecars
        if one.kept.is_file() or one.home not in foreign
    )
    entry = changed(journal.entry, sidecars=kept, step=CLOSED)
    if entry.original is not None or kept:
        write_entry(archive, entry)
    with contextlib.suppress(OSError, OutputError):  # what is left here is removed at the next start
        kept_paths = {entry.original, *(one.kept for one in kept)}
        for one in journal.exchanges:
            if one.hold not in kept_paths:
                one.hold.unlink(missing_ok=True)
        journal.staged.unlink(missing_ok=True)
        close_journal(archive, journal)
    return entry


def revert(archive: Archive, journal: Journal) -> bool:
    """Undo a replacement, the LoRA first. Can be repeated. Raises OutputError and OSError.

    Return False where another file has the name of the LoRA: it stays, and so do the original and the journal.
    """
    lora, *sidecars = journal.exchanges
    if not bring_back(lora, journal.staged):
        return False
    for one in sidecars:
        bring_back(one, journal.staged)
    journal.staged.unlink(missing_ok=True)
    for one in journal.exchanges:
        remove_empty(one.hold.parent, archive.originals)
    close_journal(archive, journal)
    return True


def _carried_out(archive: Archive, journal: Journal) -> Entry:
    lora, *sidecars = journal.exchanges
    stamp = _stamp(lora.home)
    open_journal(archive, journal)
    try:
        for one in sidecars:
            hold_copy(one)
        hold(lora)
        if os.path.lexists(lora.home) and _stamp(lora.home) != stamp:
            raise OutputError(f"{lora.home}: changed while it was being replaced, so it stays. Resize it again.")
        put_staged(journal.staged, lora.home)
        return complete(archive, journal)
    except BaseException:
        with contextlib.suppress(OSError, OutputError):  # where that fails too, the next start does it
            revert(archive, journal)
        raise


def _stamp(path: Path) -> tuple[int, ...]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _is_needed(archive: Archive, staged: Path) -> bool:
    """Return whether an unfinished replacement still needs its staged file."""
    return any(journal.staged == staged for journal in journals(archive))
