"""Delete archived originals for good."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..files.atomic import in_plain_words
from ..files.moving import remove_empty
from .entries import Entry, read_entry
from .journal import PURGING, Journal, close_journal, open_journal, under_way
from .place import Archive, turn

_DAY = 24 * 3600.0


def older_than(entries: Iterable[Entry], days: float) -> list[Entry]:
    """Return the entries whose originals were replaced more than so many days ago."""
    limit = time.time() - days * _DAY
    return [entry for entry in entries if entry.replaced < limit]


def purge(archive: Archive, entries: Sequence[Entry]) -> tuple[int, int]:
    """Delete originals and their sidecars; return how many originals and how many bytes.

    Raises OutputError at the first one that cannot be deleted.
    """
    files = size = 0
    for entry in entries:
        with turn(archive), in_plain_words(archive.folder):
            current = read_entry(archive, entry.id)
            if current is not None:
                size += _bytes(current)
                files += current.is_there
                _purge(archive, current)
    return files, size


def complete_purge(archive: Archive, journal: Journal) -> None:
    """Finish the deletion of an original. Can be repeated. Raises OutputError."""
    entry = journal.entry
    for path in kept_files(entry):
        with in_plain_words(path):
            path.unlink(missing_ok=True)
        remove_empty(path.parent, archive.originals)
    with in_plain_words(archive.entries):
        (archive.entries / f"{entry.id}.json").unlink(missing_ok=True)
    close_journal(archive, journal)


def kept_files(entry: Entry) -> list[Path]:
    """Return the files of an entry in the archive."""
    sidecars = [one.kept for one in entry.sidecars]
    return sidecars if entry.original is None else [*sidecars, entry.original]


def _purge(archive: Archive, entry: Entry) -> None:
    journal = Journal(under_way(entry, PURGING), entry.home)
    open_journal(archive, journal)
    complete_purge(archive, journal)


def _bytes(entry: Entry) -> int:
    return sum(path.stat().st_size for path in kept_files(entry) if path.is_file())
