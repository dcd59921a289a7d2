"""Move an original back to its name, byte for byte, with its sidecars."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import OutputError
from ..files import drafts
from ..files.atomic import in_plain_words, write_whole
from ..files.moving import make_folders, remove_empty, sha256_of
from .entries import Entry, KeptSidecar, read_entry
from .exchanging import bring, discard
from .journal import RESTORING, Journal, close_journal, journals, open_journal, under_way
from .place import Archive, turn


@dataclass(frozen=True)
class Restored:
    """A restored file."""

    name: str
    path: Path
    changed: tuple[Path, ...] = ()
    """Earlier versions of sidecars that stay in the archive, because the ones at home were changed since."""


def restore(archive: Archive, entry: Entry) -> Restored:
    """Move an original and its sidecars back; the smaller file is deleted, and so is the entry.

    Raises OutputError where the archive does not have the original any more, or something else has its name; nothing
    changed then.
    """
    with turn(archive), in_plain_words(entry.home):
        current = _checked(archive, entry)
        journal = Journal(under_way(current, RESTORING), drafts.staged_path(current.home.parent))
        open_journal(archive, journal)
        try:
            return complete_restore(archive, journal)
        except BaseException:
            with contextlib.suppress(OSError, OutputError):
                if sha256_of(current.home) != current.sha256_before:  # nothing changed yet
                    cancel(archive, journal)
            raise


def complete_restore(archive: Archive, journal: Journal) -> Restored:
    """Finish a restore. Can be repeated. Raises OutputError and OSError."""
    entry = journal.entry
    original = entry.original
    if original is not None and original.is_file():
        if sha256_of(entry.home) == entry.sha256_before:
            discard(original, entry.sha256_before)
        else:
            os.utime(original)  # hosts compare times, and must see a newer file
            bring(original, entry.home, journal.staged)
    stays = tuple(one.kept for one in entry.sidecars if not _restored(one))
    with in_plain_words(archive.entries):
        (archive.entries / f"{entry.id}.json").unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        journal.staged.unlink(missing_ok=True)
    with contextlib.suppress(OutputError):  # the next start removes it
        close_journal(archive, journal)
    for path in (original, *(one.kept for one in entry.sidecars)):
        if path is not None:
            remove_empty(path.parent, archive.originals)
    return Restored(entry.name, entry.home, stays)


def cancel(archive: Archive, journal: Journal) -> None:
    """Give up a restore before the original has moved. Raises OutputError and OSError."""
    journal.staged.unlink(missing_ok=True)
    close_journal(archive, journal)


def _checked(archive: Archive, entry: Entry) -> Entry:
    """Return the entry as it is on the disk. Raises OutputError where it cannot be restored."""
    current = read_entry(archive, entry.id)
    if current is None:
        raise OutputError(f"{entry.home}: the archive has no original of this file any more.")
    if any(journal.entry.id == entry.id for journal in journals(archive)):
        raise OutputError(f"{entry.home}: an earlier step is not finished. Run `resize-lora archive list` to see why.")
    if not current.is_there:
        raise OutputError(f"{entry.home}: its original is not in the archive any more ({current.original}).")
    if sha256_of(current.original or current.home) != current.sha256_before:
        raise OutputError(f"{current.original}: was changed in the archive, so it is not restored. Copy it by hand.")
    found = sha256_of(current.home)
    if found not in current.contents and os.path.lexists(current.home):
        raise OutputError(
            f"{current.home}: another file has this name now, not the one that replaced the original. It is not "
            "overwritten. Rename or move it, then restore again."
        )
    _check_root(archive, current.home)
    return current


def _check_root(archive: Archive, home: Path) -> None:
    for root in archive.roots:
        if root in home.parents and not root.is_dir():
            raise OutputError(f"{home}: the folder {root} does not exist. Check that the drive is connected.")


def _restored(one: KeptSidecar) -> bool:
    """Put an earlier sidecar back. Return False where it stays in the archive, because the one at home was changed."""
    if not one.kept.is_file():
        return True
    found = sha256_of(one.home)
    if found == one.before:
        one.kept.unlink()
        return True
    if os.path.lexists(one.home) and (one.after is None or found != one.after):
        return False
    make_folders(one.home.parent)
    mode = one.kept.stat().st_mode
    write_whole(one.home, one.kept.read_bytes(), overwrite=True)
    with contextlib.suppress(OSError):
        one.home.chmod(mode & 0o7777)
    one.kept.unlink()
    return True
