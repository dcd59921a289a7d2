"""Replace a LoRA by a smaller file under its name, and keep the original in the archive."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from dataclasses import replace as changed
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..errors import OutputError
from ..files import drafts
from ..files.atomic import in_plain_words
from ..files.moving import remove_empty, sha256_of
from ..files.sidecars import SidecarFacts, updates_in_place
from .checking import verified
from .entries import CLOSED, Entry, KeptSidecar, entries_of, new_id, plain_path, write_entry
from .exchanging import bring_back, hold, hold_copy, put_data, put_staged
from .journal import REPLACING, Exchange, Journal, close_journal, journals, open_journal
from .links import left_alone
from .place import Archive, turn


@dataclass(frozen=True)
class Replacement:
    """A file, and the complete smaller file that takes its name."""

    source: Path
    staged: Path
    """In the folder of the source, with a name of `staged_path`; it is gone afterwards, also after an error."""
    source_sha256: str
    """Of the file that the staged one was made from, hex: the source, or its archived original."""
    run: str
    name: str
    keep_original: bool = True
    facts: Mapping[str, Any] = field(default_factory=dict)
    """JSON values for the entry."""


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
            plan = _planned(archive, replacement)
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


# Planning -------------------------------------------------------------------------------------------------------


def _planned(archive: Archive, asked: Replacement) -> Journal | Entry:
    """Return what has to be done, or the entry where the file has this content already."""
    home = plain_path(asked.source)
    reason = left_alone(home)
    if reason is not None:
        raise OutputError(f"{home}: {reason.message}. It is left alone.")
    if any(journal.entry.home == home for journal in journals(archive)):
        raise OutputError(f"{home}: an earlier replacement is not finished. Run `resize-lora archive list` to see why.")
    found = sha256_of(home)
    if found is None:
        raise OutputError(f"{home}: is not a file any more, so it is not replaced.")
    earlier = next((one for one in entries_of(archive, home) if one.is_there and found in _contents(one)), None)
    allowed = {found} if earlier is None else set(_contents(earlier))
    if asked.source_sha256 not in allowed:
        raise OutputError(f"{home}: changed while it was being resized, so it is not replaced. Resize it again.")
    new = verified(asked.staged, allowed)
    if new == found and earlier is not None:
        return earlier
    return _journal(archive, asked, _Contents(home, found, new), earlier)


def _contents(entry: Entry) -> tuple[str, str]:
    return entry.sha256_before, entry.sha256_after


@dataclass(frozen=True)
class _Contents:
    """The file that is replaced: where it is, and the SHA-256 of the old and the new content."""

    home: Path
    was: str
    new: str


def _journal(archive: Archive, asked: Replacement, lora: _Contents, earlier: Entry | None) -> Journal:
    now = time.time()
    with in_plain_words(asked.staged):
        shutil.copymode(lora.home, asked.staged)
        os.utime(asked.staged)  # hosts compare times, and must see a newer file
        size, modified = asked.staged.stat().st_size, asked.staged.stat().st_mtime
    updates = updates_in_place(lora.home, SidecarFacts(size, lora.new, lora.was, modified))
    names = [lora.home.name, *(path.name for path, _, _ in updates)]
    place = earlier.original.parent if earlier and earlier.original else _free_place(archive, lora.home, names)
    keeps = asked.keep_original or earlier is not None
    plans = [_sidecar(lora.home, place if keeps else None, earlier, *update) for update in updates]
    planned = {one.home for _, one in plans if one is not None}
    sidecars = [one for one in (earlier.sidecars if earlier else ()) if one.home not in planned]
    original = place / lora.home.name if keeps else None
    entry = Entry(
        id=earlier.id if earlier else new_id(lora.home, now),
        run=asked.run,
        step=REPLACING,
        name=asked.name,
        home=lora.home,
        original=earlier.original if earlier else original,
        bytes_before=earlier.bytes_before if earlier else lora.home.stat().st_size,
        bytes_after=size,
        sha256_before=earlier.sha256_before if earlier else lora.was,
        sha256_after=lora.new,
        sidecars=(*sidecars, *(one for _, one in plans if one is not None)),
        replaced=now,
        facts=dict(asked.facts),
    )
    aside = earlier is not None or original is None
    held = _aside(lora.home) if aside or original is None else original
    exchange = Exchange(lora.home, held, lora.was, lora.new)
    return Journal(entry, asked.staged, (exchange, *(one for one, _ in plans)))


def _sidecar(
    lora: Path, place: Path | None, earlier: Entry | None, path: Path, old: bytes, new: bytes
) -> tuple[Exchange, KeptSidecar | None]:
    """Return how a sidecar is exchanged, and what the entry says of it."""
    was, after = sha256(old).hexdigest(), sha256(new).hexdigest()
    known = next((one for one in earlier.sidecars if one.home == path), None) if earlier else None
    if known is not None:
        is_ours = known.after is not None and was in (known.before, known.after)
        return Exchange(path, _aside(lora), was, after, new), changed(known, after=after if is_ours else None)
    if place is None:
        return Exchange(path, _aside(lora), was, after, new), None
    kept = place / path.name
    if os.path.lexists(kept):  # left from an earlier restore
        return Exchange(path, _aside(lora), was, after, new), None
    return Exchange(path, kept, was, after, new), KeptSidecar(path, kept, was, after)


def _aside(lora: Path) -> Path:
    """Return a name next to a LoRA for its old content during a step; nothing but the journal removes it."""
    return drafts.staged_path(lora.parent).with_suffix(".aside")


def _free_place(archive: Archive, home: Path, names: list[str]) -> Path:
    """Return a folder of the archive that mirrors that of a file, and has none of the names."""
    return next(place for place in _places(archive, home) if not any(os.path.lexists(place / name) for name in names))


def _places(archive: Archive, home: Path) -> Iterator[Path]:
    roots = [root for root in archive.roots if root in home.parents]
    root = max(roots, key=lambda one: len(one.parts), default=home.parent)
    below = home.parent.relative_to(root)
    number = 1
    while True:
        top = (root.name or "root") + ("" if number == 1 else f" ({number})")
        yield archive.originals / top / below
        number += 1


# Carrying out ---------------------------------------------------------------------------------------------------


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
