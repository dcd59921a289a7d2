"""The entries of an archive: one JSON file for each finished replacement, whole or not there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files.atomic import write_whole
from .place import Archive

VERSION = 1
CLOSED = "closed"
_HOME_DIGITS = 12
_ID = re.compile(r"[0-9]{8}-[0-9]{9}-[0-9a-f]{12}-[0-9a-f]{6}")


@dataclass(frozen=True)
class KeptSidecar:
    """A JSON file about a LoRA, whose facts were updated, and of which the earlier version is kept."""

    home: Path
    kept: Path
    before: str
    """SHA-256 of the version in the archive, hex."""
    after: str | None
    """SHA-256 of the version at home, hex; None where someone else changed it since, so that it stays."""


@dataclass(frozen=True)
class Entry:
    """One replaced file."""

    id: str
    run: str
    """The run that replaced it."""
    step: str
    """``closed``; of an entry under way ``replacing``, ``restoring`` or ``purging``."""
    name: str
    """Name of the LoRA for messages."""
    home: Path
    original: Path | None
    """Where the original is kept; None where it was not kept."""
    bytes_before: int
    bytes_after: int
    sha256_before: str
    """Of the original, hex."""
    sha256_after: str
    """Of the file that replaced it, hex."""
    sidecars: tuple[KeptSidecar, ...] = ()
    replaced: float = 0.0
    """Seconds since 1970."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """JSON values for those who read the entry: recipe, retention and so on."""

    @property
    def contents(self) -> tuple[str, str]:
        """Return the SHA-256 of the original and of the smaller file."""
        return self.sha256_before, self.sha256_after

    @property
    def is_there(self) -> bool:
        """Return whether the archive still has the original."""
        return self.original is not None and self.original.is_file() and not self.original.is_symlink()


def new_id(home: Path, now: float) -> str:
    """Return a new id, from which the entries of a file can be found."""
    moment = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
    return f"{moment}{int(now * 1000) % 1000:03}-{_home_digits(home)}-{secrets.token_hex(3)}"


def entries(archive: Archive) -> list[Entry]:
    """Return the finished entries, oldest first. Files that are no entries are left alone."""
    return [entry for id in ids(archive) if (entry := read_entry(archive, id)) is not None]


def entry_of(archive: Archive, home: Path) -> Entry | None:
    """Return the newest finished entry of a file; None where it was never replaced."""
    return next(entries_of(archive, home), None)


def entries_of(archive: Archive, home: Path) -> Iterator[Entry]:
    """Yield the finished entries of a file, newest first."""
    home = plain_path(home)
    digits = _home_digits(home)
    for id in reversed(ids(archive)):
        if digits in id:
            entry = read_entry(archive, id)
            if entry is not None and entry.home == home:
                yield entry


def plain_path(path: Path) -> Path:
    """Return a path with its folder's links resolved, which is how entries name files."""
    return Path(os.path.realpath(path.parent)) / path.name


def ids(archive: Archive, suffix: str = ".json") -> list[str]:
    """Return the ids of the entries with a suffix, oldest first."""
    try:
        names = [entry.name for entry in os.scandir(archive.entries)]
    except OSError:
        return []
    found = [name.removesuffix(suffix) for name in names if name.endswith(suffix)]
    return sorted(id for id in found if _ID.fullmatch(id))


def read_entry(archive: Archive, id: str) -> Entry | None:
    """Return a finished entry; None where it is not whole, which only a foreign hand can have done."""
    document = read_document(archive.entries / f"{id}.json")
    if document is None:
        return None
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
        return entry_from(archive, id, document)
    return None


def read_document(path: Path) -> Any:
    """Return a JSON file's content; None where it cannot be read."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def write_entry(archive: Archive, entry: Entry) -> None:
    """Write a finished entry, whole and on the disk. Raises OutputError."""
    write_document(archive.entries / f"{entry.id}.json", as_document(archive, entry))


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON file, whole and on the disk; it replaces an earlier version. Raises OutputError."""
    write_whole(path, json.dumps(document, ensure_ascii=True, indent=1).encode(), overwrite=True)


def as_document(archive: Archive, entry: Entry) -> dict[str, Any]:
    """Return an entry as JSON values; paths in the archive are relative to it, so that it can be moved."""
    return {
        "version": VERSION,
        "run": entry.run,
        "step": entry.step,
        "name": entry.name,
        "home": str(entry.home),
        "original": None if entry.original is None else _relative(archive, entry.original),
        "bytes_before": entry.bytes_before,
        "bytes_after": entry.bytes_after,
        "sha256_before": entry.sha256_before,
        "sha256_after": entry.sha256_after,
        "sidecars": [
            {"home": str(one.home), "kept": _relative(archive, one.kept), "before": one.before, "after": one.after}
            for one in entry.sidecars
        ],
        "replaced": entry.replaced,
        "facts": dict(entry.facts),
    }


def entry_from(archive: Archive, id: str, document: Mapping[str, Any]) -> Entry:
    """Return the entry of a document. Raises ValueError, KeyError or TypeError for one that we never wrote."""
    if document["version"] != VERSION:
        raise ValueError("another version")
    original = document["original"]
    return Entry(
        id=id,
        run=str(document["run"]),
        step=str(document["step"]),
        name=str(document["name"]),
        home=_absolute(document["home"]),
        original=None if original is None else _inside(archive, original),
        bytes_before=int(document["bytes_before"]),
        bytes_after=int(document["bytes_after"]),
        sha256_before=str(document["sha256_before"]),
        sha256_after=str(document["sha256_after"]),
        sidecars=tuple(_sidecar(archive, one) for one in document["sidecars"]),
        replaced=float(document["replaced"]),
        facts=dict(document["facts"]),
    )


def _sidecar(archive: Archive, document: Mapping[str, Any]) -> KeptSidecar:
    after = document["after"]
    kept = _inside(archive, document["kept"])
    return KeptSidecar(
        _absolute(document["home"]), kept, str(document["before"]), None if after is None else str(after)
    )


def _relative(archive: Archive, path: Path) -> str:
    return path.relative_to(archive.folder).as_posix()


def _inside(archive: Archive, text: str) -> Path:
    parts = text.split("/")
    if parts[0] != archive.originals.name or len(parts) < 2 or any(part in ("", ".", "..") for part in parts):
        raise ValueError("not a path of this archive")
    return archive.folder.joinpath(*parts)


def _absolute(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute():
        raise ValueError("not an absolute path")
    return path


def _home_digits(home: Path) -> str:
    return hashlib.sha256(os.fsencode(home)).hexdigest()[:_HOME_DIGITS]
