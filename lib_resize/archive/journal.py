"""What is under way: written to the disk before the first change, removed after the last.

A replacement exchanges the content of some files at once: the LoRA, first, and JSON sidecars. For each file the journal
has the SHA-256 of the old and the new content, and where the old content is held meanwhile. The content of the LoRA
under its own name decides after a crash: the new one, and the replacement is completed; the old one, and it is
reverted.
"""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..files.atomic import in_plain_words
from ..files.drafts import sweep
from .entries import Entry, as_document, entry_from, ids, read_document, write_document
from .place import Archive

REPLACING, RESTORING, PURGING = "replacing", "restoring", "purging"
OPEN = ".open"


@dataclass(frozen=True)
class Exchange:
    """One file whose content is exchanged."""

    home: Path
    hold: Path
    """Where the old content is meanwhile: in the archive, or next to the file."""
    was: str
    """SHA-256 of the old content, hex."""
    new: str
    """SHA-256 of the new content, hex."""
    data: bytes | None = None
    """The new content of a sidecar; that of the LoRA is in the staged file."""


@dataclass(frozen=True)
class Journal:
    """A step that is under way."""

    entry: Entry
    """As it will be after a replacement, and as it is before a restore and a purge."""
    staged: Path
    """The complete new file of a replacement, or the copy from another disk of a restore."""
    exchanges: tuple[Exchange, ...] = ()
    """Of a replacement; the LoRA first."""

    @property
    def step(self) -> str:
        """Return ``replacing``, ``restoring`` or ``purging``."""
        return self.entry.step


def open_journal(archive: Archive, journal: Journal) -> None:
    """Write a journal, whole and on the disk. Raises OutputError."""
    document = {
        "version": 1,
        "entry": as_document(archive, journal.entry),
        "staged": str(journal.staged),
        "exchanges": [_as_json(archive, one) for one in journal.exchanges],
    }
    write_document(_path(archive, journal.entry.id), document)


def close_journal(archive: Archive, journal: Journal) -> None:
    """Remove a journal. Raises OutputError."""
    path = _path(archive, journal.entry.id)
    with in_plain_words(path):
        path.unlink(missing_ok=True)


def open_ids(archive: Archive) -> list[str]:
    """Return the ids of the entries that are under way, oldest first."""
    return ids(archive, OPEN)


def journals(archive: Archive) -> Iterator[Journal]:
    """Yield what is under way, oldest first; files that are no journals are left alone."""
    for id in open_ids(archive):
        document = read_document(_path(archive, id))
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            yield _parsed(archive, id, document)


def under_way(entry: Entry, step: str) -> Entry:
    """Return an entry with another step."""
    return replace(entry, step=step)


def sweep_after(journal: Journal) -> None:
    """Remove incomplete copies of a killed process next to the files of a journal. Never raises."""
    holds = {one.hold.parent for one in journal.exchanges}
    kept = {one.kept.parent for one in journal.entry.sidecars}
    for folder in {journal.entry.home.parent, *holds, *kept}:
        sweep(folder)


def _path(archive: Archive, id: str) -> Path:
    return archive.entries / f"{id}{OPEN}"


def _as_json(archive: Archive, one: Exchange) -> dict[str, Any]:
    hold = os.path.relpath(one.hold, archive.folder) if archive.folder in one.hold.parents else str(one.hold)
    data = None if one.data is None else base64.b64encode(one.data).decode("ascii")
    return {"home": str(one.home), "hold": hold, "was": one.was, "new": one.new, "data": data}


def _parsed(archive: Archive, id: str, document: Mapping[str, Any]) -> Journal:
    return Journal(
        entry_from(archive, id, document["entry"]),
        Path(document["staged"]),
        tuple(_exchange(archive, one) for one in document["exchanges"]),
    )


def _exchange(archive: Archive, document: Mapping[str, Any]) -> Exchange:
    data = document["data"]
    return Exchange(
        Path(document["home"]),
        archive.folder / document["hold"],
        str(document["was"]),
        str(document["new"]),
        None if data is None else base64.b64decode(data),
    )


def is_under_way(archive: Archive) -> bool:
    """Return whether a step is not finished."""
    return bool(open_ids(archive))
