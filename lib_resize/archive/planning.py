"""What a replacement will exchange, decided before the first change."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..errors import OutputError
from ..files import drafts
from ..files.moving import sha256_of
from ..files.sidecars import SidecarFacts, updates_in_place
from .checking import verified
from .entries import Entry, KeptSidecar, entries_of, new_id, plain_path
from .journal import REPLACING, Exchange, Journal, journals
from .links import left_alone
from .place import Archive


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
    replaced: float | None = None
    """When the original was replaced, in seconds since 1970, where only the smaller file changes; None: now."""


@dataclass(frozen=True)
class _Contents:
    """The file that is replaced: where it is, and the SHA-256 of the old and the new content."""

    home: Path
    was: str
    new: str


@dataclass(frozen=True)
class _Update:
    """A JSON sidecar that describes the file: its old and its new bytes."""

    home: Path
    old: bytes
    new: bytes

    @property
    def hashes(self) -> tuple[str, str]:
        """Return the SHA-256 of both, hex."""
        return sha256(self.old).hexdigest(), sha256(self.new).hexdigest()


def planned(archive: Archive, asked: Replacement) -> Journal | Entry:
    """Return what has to be done, or the entry where the file has the new content already.

    Raises OutputError where the file cannot be replaced, and OSError.
    """
    home = plain_path(asked.source)
    _check(archive, home)
    found = sha256_of(home)
    if found is None:
        raise OutputError(f"{home}: is not a file any more, so it is not replaced.")
    earlier = next((one for one in entries_of(archive, home) if one.is_there and found in one.contents), None)
    allowed = {found} if earlier is None else set(earlier.contents)
    if asked.source_sha256 not in allowed:
        raise OutputError(f"{home}: changed while it was being resized, so it is not replaced. Resize it again.")
    new = verified(asked.staged, allowed)
    if new == found and earlier is not None:
        return earlier
    contents = _Contents(home, found, new)
    updates = _updates(contents, asked.staged)
    if earlier is not None:
        return _again(asked, contents, updates, earlier)
    return _first(archive, asked, contents, updates)


def _check(archive: Archive, home: Path) -> None:
    reason = left_alone(home)
    if reason is not None:
        raise OutputError(f"{home}: {reason.message}. It is left alone.")
    if any(journal.entry.home == home for journal in journals(archive)):
        raise OutputError(f"{home}: an earlier replacement is not finished. Run `resize-lora archive list` to see why.")


def _updates(lora: _Contents, staged: Path) -> list[_Update]:
    """Return the sidecars that the new content changes. The staged file gets the permissions that it will have."""
    shutil.copymode(lora.home, staged)
    os.utime(staged)  # hosts compare times, and must see a newer file
    found = staged.stat()
    facts = SidecarFacts(found.st_size, lora.new, lora.was, found.st_mtime)
    return [_Update(*one) for one in updates_in_place(lora.home, facts)]


def _first(archive: Archive, asked: Replacement, lora: _Contents, updates: Sequence[_Update]) -> Journal:
    """Return the journal of a file that has no entry: its original and its sidecars go to the archive."""
    now = time.time()
    place = _free_place(archive, lora.home, [lora.home.name, *(one.home.name for one in updates)])
    original = place / lora.home.name
    exchanges, sidecars = [Exchange(lora.home, original, lora.was, lora.new)], []
    for one in updates:
        was, new = one.hashes
        exchanges.append(Exchange(one.home, place / one.home.name, was, new, one.new))
        sidecars.append(KeptSidecar(one.home, place / one.home.name, was, new))
    if not asked.keep_original:
        exchanges = [replace(one, hold=aside(lora.home)) for one in exchanges]
    entry = Entry(
        id=new_id(lora.home, now),
        run=asked.run,
        step=REPLACING,
        name=asked.name,
        home=lora.home,
        original=original if asked.keep_original else None,
        bytes_before=lora.home.stat().st_size,
        bytes_after=asked.staged.stat().st_size,
        sha256_before=lora.was,
        sha256_after=lora.new,
        sidecars=tuple(sidecars) if asked.keep_original else (),
        replaced=now,
        facts=dict(asked.facts),
    )
    return Journal(entry, asked.staged, tuple(exchanges))


def _again(asked: Replacement, lora: _Contents, updates: Sequence[_Update], earlier: Entry) -> Journal:
    """Return the journal of a file whose original is in the archive, where it stays: the smaller file is exchanged."""
    pairs = [_sidecar_again(one, earlier) for one in updates]
    sidecars = {one.home: one for one in (*earlier.sidecars, *(kept for _, kept in pairs if kept is not None))}
    entry = replace(
        earlier,
        run=asked.run,
        step=REPLACING,
        name=asked.name,
        bytes_after=asked.staged.stat().st_size,
        sha256_after=lora.new,
        sidecars=tuple(sidecars.values()),
        replaced=time.time() if asked.replaced is None else asked.replaced,
        facts=dict(asked.facts),
    )
    lora_exchange = Exchange(lora.home, aside(lora.home), lora.was, lora.new)
    return Journal(entry, asked.staged, (lora_exchange, *(one for one, _ in pairs)))


def _sidecar_again(update: _Update, earlier: Entry) -> tuple[Exchange, KeptSidecar | None]:
    """Return how a sidecar is exchanged, and what the entry says of it. A version of someone else is never replaced by
    the kept one: `after` is then None."""
    was, new = update.hashes
    exchange = Exchange(update.home, aside(earlier.home), was, new, update.new)
    known = next((one for one in earlier.sidecars if one.home == update.home), None)
    if known is None:
        return exchange, None
    is_ours = known.after is not None and was in (known.before, known.after)
    return exchange, replace(known, after=new if is_ours else None)


def aside(lora: Path) -> Path:
    """Return a name next to a LoRA for old content during a step; only the end of the step removes the file."""
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
