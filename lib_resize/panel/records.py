"""Records of results on the disk, one small file each, so that undo works after a restart.

A record is written twice: before the new file appears, with its path ("begun"), and afterwards, with its exact content
("made"). A crash between the two leaves a begun record. Where its file exists, complete and with the metadata of this
program, the next start completes the record; else the record is void and not listed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import ResizeError
from ..files.atomic import write_whole
from ..files.header import MODEL_HASH, read_header
from ..files.metadata import RECORD
from .marks import Mark, mark_of, model_hash, read_mark
from .restamping import settled

VERSION = 1
MOST = 5000
"""Records that are kept; the oldest are dropped first. Their files stay."""

_NAME = re.compile(r"([0-9a-f]{16})\.json")
_VOID_SECONDS = 24 * 3600
_CLOCK_SECONDS = 3.0  # FAT keeps times to two seconds

Facts = dict[str, Any]


@dataclass(frozen=True)
class Ordered:
    """An order, so that the same one is recognised when it comes again."""

    key: str
    """Source, recipe and options."""
    stamp: tuple[int, int]
    """Size and time of the source."""
    reference: str | None = None
    """Title of the checkpoint that the result depends on; None where it depends on none."""


@dataclass(frozen=True)
class Record:
    """A file that was made, or is about to be."""

    id: str
    session: str
    began: float
    name: str
    """The source's name in the host's list."""
    output: str
    """The new file's name."""
    path: Path
    bytes: int
    recipe: str
    facts: Facts
    """Fields of the `Result` of the protocol."""
    source: Path | None = None
    order: Ordered | None = None
    file: Mark | None = None
    """The new file once it exists; None before."""
    sidecars: tuple[Mark, ...] = ()
    next: tuple[Mark, ...] = ()
    """The new file, first, and its sidecars, with the contents that a step under way gives them."""

    def to_json(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            **{name: getattr(self, name) for name in _PLAIN},
            "path": str(self.path),
            "source": None if self.source is None else str(self.source),
            "order": None if self.order is None else asdict(self.order),
            "file": None if self.file is None else self.file.to_json(),
            "sidecars": [one.to_json() for one in self.sidecars],
            "next": [one.to_json() for one in self.next],
        }


_PLAIN = ("id", "session", "began", "name", "output", "bytes", "recipe", "facts")


def new_id() -> str:
    """Return an id that is never used again, by any server."""
    return secrets.token_hex(8)


@dataclass
class Records:
    """The records of a folder, which several servers may share. Every method may be called from any thread."""

    folder: Path
    """Where records are written."""
    others: Sequence[Path] = ()
    """Where earlier versions and settings may have left records."""
    most: int = MOST
    _known: dict[str, Record] = field(default_factory=dict)
    _ordered: dict[str, str] = field(default_factory=dict)
    """Order key -> id of the latest record of it."""
    _listed_once: bool = False
    _last: float = 0.0
    """The last `moment`."""
    _lock: Any = field(default_factory=threading.RLock)

    def moment(self) -> float:
        """Return the time in milliseconds, but never one twice: the order of results is that of their times."""
        with self._lock:
            now = round(time.time(), 3)
            if now <= self._last < now + 1:  # further ahead, the clock was set back
                now = round(self._last + 0.001, 3)
            self._last = now
        return now

    def write(self, record: Record) -> None:
        """Write a record, in place of the one of this id. Raises OutputError; it is known nevertheless."""
        with self._lock:
            self._keep(record)
        text = json.dumps(record.to_json(), ensure_ascii=True, indent=1)
        write_whole(self._file(record.id), text.encode(), overwrite=True)

    def remove(self, id: str) -> None:
        """Remove a record. The result's file stays."""
        with self._lock:
            record = self._known.pop(id, None)
            if record is not None and record.order is not None and self._ordered.get(record.order.key) == id:
                del self._ordered[record.order.key]
        for file in self._files(id):
            with contextlib.suppress(OSError):
                file.unlink()

    def get(self, id: str) -> Record | None:
        """Return the record of a file that was made; None for others."""
        if _NAME.fullmatch(f"{id}.json") is None:
            return None
        with self._lock:
            record = self._known.get(id)
            if record is None or (record.file is not None and record.file.looks_replaced()):
                self._read(id)  # another server may have changed file and record
            record = self._known.get(id)
        return record if record is not None and record.file is not None else None

    def all(self) -> list[Record]:
        """Return the records of files that were made, oldest first."""
        with self._lock:
            for id in self._listed():
                if id not in self._known or self._known[id].file is None:  # another server may have finished it
                    self._read(id)
            self._listed_once = True
            made = [record for record in self._known.values() if record.file is not None]
        return sorted(made, key=lambda record: (record.began, record.id))

    def ordered(self, key: str) -> Record | None:
        """Return the latest record of an order."""
        if not self._listed_once:
            self.all()
        with self._lock:
            id = self._ordered.get(key)
        return None if id is None else self.get(id)

    def prune(self, session: str, trashed: set[str]) -> None:
        """Drop records of earlier sessions whose files are deleted, not `trashed`, and the oldest beyond `most`."""
        records = self.all()
        for record in records[: max(0, len(records) - self.most)]:
            self.remove(record.id)
        for record in self.all():
            if record.session != session and record.id not in trashed and _is_gone(record.path):
                self.remove(record.id)
        with self._lock:
            begun = [one for one in self._known.values() if one.file is None and one.session != session]
        for record in begun:
            if time.time() - record.began > _VOID_SECONDS:
                self.remove(record.id)

    def _keep(self, record: Record) -> None:
        self._known[record.id] = record
        if record.order is not None and record.file is not None:
            before = self._known.get(self._ordered.get(record.order.key, ""))
            if before is None or before.began <= record.began:
                self._ordered[record.order.key] = record.id

    def _read(self, id: str) -> None:
        try:
            file = next(file for file in self._files(id) if file.exists())
            record = _parsed(json.loads(file.read_text("ascii")), id)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, StopIteration):
            return
        found = _completed(record) if record.file is None else settled(record)
        if found is not None and found != record:
            record = found
            with contextlib.suppress(ResizeError):
                self.write(record)
        self._keep(record)

    def _listed(self) -> list[str]:
        names: list[str] = []
        for folder in dict.fromkeys((self.folder, *self.others)):
            with contextlib.suppress(OSError):
                names += [entry.name for entry in os.scandir(folder)]
        return [found[1] for name in names if (found := _NAME.fullmatch(name)) is not None]

    def _file(self, id: str) -> Path:
        return self.folder / f"{id}.json"

    def _files(self, id: str) -> list[Path]:
        return [folder / f"{id}.json" for folder in dict.fromkeys((self.folder, *self.others))]


def _parsed(document: Mapping[str, Any], id: str) -> Record:
    if not _is_record(document, id):
        raise ValueError("not a record of this program")
    path, source, order, file = (document[name] for name in ("path", "source", "order", "file"))
    return Record(
        **{name: document[name] for name in _PLAIN if name not in ("began", "bytes")},
        began=float(document["began"]),
        bytes=int(document["bytes"]),
        path=Path(path),
        source=None if source is None else Path(source),
        order=None if order is None else _parsed_order(order),
        file=None if file is None else read_mark(file),
        sidecars=tuple(map(read_mark, document["sidecars"])),
        next=tuple(map(read_mark, document.get("next", ()))),  # records of earlier versions have none
    )


def _is_record(document: Mapping[str, Any], id: str) -> bool:
    if document["version"] != VERSION or document["id"] != id or not Path(document["path"]).is_absolute():
        return False
    are_texts = all(isinstance(document[name], str) for name in ("session", "name", "output", "recipe"))
    return are_texts and isinstance(document["facts"], dict)


def _parsed_order(document: Mapping[str, Any]) -> Ordered:
    size, modified = document["stamp"]
    reference = document["reference"]
    return Ordered(str(document["key"]), (int(size), int(modified)), None if reference is None else str(reference))


def _completed(record: Record) -> Record | None:
    """Return a begun record completed, if its file exists, complete, by this program and with its recipe; else None."""
    try:
        if record.path.is_symlink() or record.path.stat().st_size != record.bytes:
            return None
        if record.path.stat().st_mtime < record.began - _CLOCK_SECONDS:
            return None
        metadata = read_header(record.path).metadata
        note = json.loads(metadata.get(RECORD, "null"))
        if not isinstance(note, dict) or note.get("recipe") != record.recipe:
            return None
        if metadata.get(MODEL_HASH) != model_hash(record.path):
            return None
        return replace(record, file=mark_of(record.path))
    except (OSError, ResizeError, ValueError, RecursionError):
        return None


def _is_gone(path: Path) -> bool:
    """Return whether a file was deleted; False where its folder cannot be reached, as a drive may come back."""
    if not path.parent.is_dir():
        return False
    try:
        os.lstat(path)
    except FileNotFoundError:
        return True
    except OSError:  # a disk that reports an error proves nothing
        return False
    return False
