"""Which files are replaced by smaller ones, from which file each is made, and which are left alone and why."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..archive.entries import Entry, entries, plain_path
from ..archive.links import Reason, left_alone
from ..archive.place import Archive
from ..errors import DamagedFileError, ResizeError, UnsupportedError, UsageError
from ..files.header import read_header
from ..files.metadata import has_resize_record
from ..files.moving import sha256_of
from ..files.walk import Skip, ignore, is_folder
from ..prompts.sources import expand, files_below


@dataclass(frozen=True)
class Subject:
    """A file that is replaced."""

    home: Path
    source: Path
    """The file that the smaller one is made from: itself, or its archived original."""


@dataclass(frozen=True)
class Left:
    """A file that is left alone."""

    home: Path
    reason: Reason


def files_of(arguments: Sequence[str], on_skip: Skip = ignore) -> list[Path]:
    """Return the LoRA files that the arguments name, each once, links in folders included.

    Raises UsageError for merges, and as `prompts.sources.expand`.
    """
    found: dict[Path, Path] = {}
    for argument in arguments:
        for path in _files(argument, on_skip):
            found.setdefault(plain_path(path), path)
    return list(found.values())


def _files(argument: str, on_skip: Skip) -> Iterable[Path]:
    sources = expand([argument], on_skip)
    if not all(source.is_plain for source in sources):
        raise UsageError(f"{argument!r}: a merge cannot replace its files. Name one file, or omit --replace.")
    if is_folder(Path(argument)):
        return files_below(Path(argument), on_skip)
    return [source.members[0].path for source in sources]


class Subjects:
    """Decides for one file after the other, in the order of a run. It reads headers, and hashes files of equal size."""

    def __init__(self, archive: Archive, paths: Sequence[Path], facts: Mapping[str, Any]) -> None:
        """`facts` say how the new files are made; a file that was made so already is left alone."""
        self._facts = dict(facts)
        known = entries(archive)
        self._entries: dict[Path, list[Entry]] = {}
        for entry in known:
            self._entries.setdefault(entry.home, []).append(entry)
        self._originals = {entry.sha256_before: entry.home for entry in known if entry.is_there}
        self._sizes: dict[int, int] = {}
        for size in [*map(_size, paths), *(entry.bytes_before for entry in known)]:
            self._sizes[size] = self._sizes.get(size, 0) + 1

    def of(self, path: Path) -> Subject | Left:
        """Return what is done with a file. Raises FileError where it cannot be read."""
        reason = left_alone(path)
        if reason is not None:
            return Left(path, reason)
        home = plain_path(path)
        entry = self._entry(home)
        if entry is not None and entry.original is not None:
            if all(entry.facts.get(key) == value for key, value in self._facts.items()):
                return Left(path, Reason("resized", "was replaced with this recipe before"))
            return Subject(path, entry.original)
        if has_resize_record(read_header(path).metadata):
            return Left(path, Reason("resized", "is a result of Resize LoRA, and its original is not in the archive"))
        twin = self._twin(home)
        if twin is not None:
            return Left(path, Reason("copy", f"is a copy of {twin}"))
        return Subject(path, path)

    def _entry(self, home: Path) -> Entry | None:
        """Return the entry whose smaller file is at home now, if its original is there."""
        candidates = [one for one in self._entries.get(home, ()) if one.is_there and one.bytes_after == _size(home)]
        digest = sha256_of(home) if candidates else None
        return next((one for one in reversed(candidates) if one.sha256_after == digest), None)

    def _twin(self, home: Path) -> Path | None:
        """Return another file with the same content, seen before or in the archive; remember this one otherwise."""
        if self._sizes.get(_size(home), 0) < 2:
            return None
        digest = sha256_of(home)
        if digest is None:
            return None
        first = self._originals.setdefault(digest, home)
        return None if first == home else first


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 - also for names that Path refuses
    except (OSError, ValueError):
        return -1


def reason_of(error: ResizeError, path: Path) -> Reason | None:
    """Return why a file of this error is left alone; None where the error is a failure."""
    kinds = (("broken", DamagedFileError), ("kind", UnsupportedError))
    kind = next((kind for kind, one in kinds if isinstance(error, one)), None)
    return None if kind is None else Reason(kind, str(error).removeprefix(f"{path}: "))
