"""The archive of a host's originals: where it is, what it has, and which file a LoRA is resized from."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from ..archive.entries import Entry, ids, plain_path, read_entry
from ..archive.place import Archive, default_archive, open_archive
from ..errors import OutputError, ResizeError
from ..files.moving import sha256_of
from ..hosts.host import Host, LoraFile
from .faults import Fault
from .preferences import read_preferences

_Stamp = tuple[int, int, int]
_Kept = tuple[_Stamp | None, Entry]


class Archives:
    """The archive of a host. Every method may be called from any thread."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._lock = threading.RLock()
        self._folder: Path | None = None
        self._known: dict[str, _Kept] = {}
        self._by_home: dict[Path, Entry] = {}

    def archive(self) -> Archive:
        """Return the archive, to replace files. Raises OutputError where it cannot be used."""
        roots = self._host.lora_roots()
        return open_archive(self._place(roots), roots, self._host.scanned_folders())

    def as_it_is(self) -> Archive:
        """Return the archive, to read and restore. Raises OutputError where the host has no LoRA folder."""
        roots = self._host.lora_roots()
        return Archive(self._place(roots), tuple(roots))

    def _place(self, roots: list[Path]) -> Path:
        chosen = read_preferences(self._host.settings()).archive
        if chosen:
            return Path(chosen)
        if not roots:
            raise OutputError(f"{self._host.name} has no LoRA folder, so there is no place for an archive.")
        return default_archive(roots[0], self._host.scanned_folders())

    def folder(self) -> str | None:
        """Return the folder for the page; None where it is served to other machines, or there is none."""
        if self._host.is_remote():
            return None
        try:
            return str(self.as_it_is().folder)
        except OutputError:
            return None

    def problem(self) -> str:
        """Return why files cannot be archived; else an empty text."""
        try:
            self.archive()
        except ResizeError as error:
            return str(error)
        return ""

    # Entries ---------------------------------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """Return all finished entries, oldest first. Only those that changed on the disk are read again."""
        with self._lock:
            self._read()
            return [self._known[id][1] for id in sorted(self._known)]

    def by_home(self) -> Mapping[Path, Entry]:
        """Return the newest entry of each file that has one, by its path with the folder's links resolved."""
        with self._lock:
            self._read()
            return dict(self._by_home)

    def at(self, path: Path) -> Entry | None:
        """Return the newest entry of a file."""
        with self._lock:
            self._read()
            return self._by_home.get(plain(path))

    def entry(self, id: str) -> Entry:
        """Return an entry. Raises Fault."""
        found = next((one for one in self.entries() if one.id == id), None)
        if found is None:
            raise Fault("gone", f"The archive has no entry {id!r} any more. Ask for the archive again.")
        return found

    def size(self) -> tuple[int, int]:
        """Return the number of entries, and the bytes of the originals that are there."""
        found = self.entries()
        return len(found), sum(one.bytes_before for one in found if one.is_there)

    def _read(self) -> None:
        try:
            archive = self.as_it_is()
        except OutputError:
            self._known, self._by_home = {}, {}
            return
        if archive.folder != self._folder:
            self._folder, self._known = archive.folder, {}
        stamps = {id: _stamp(archive.entries / f"{id}.json") for id in ids(archive)}
        if {id: stamp for id, (stamp, _) in self._known.items()} != stamps or not self._by_home:
            self._known = dict(self._read_again(archive, stamps))
            self._by_home = {entry.home: entry for _, (_, entry) in sorted(self._known.items())}

    def _read_again(self, archive: Archive, stamps: Mapping[str, _Stamp | None]) -> Iterator[tuple[str, _Kept]]:
        for id, stamp in stamps.items():
            before = self._known.get(id)
            entry = before[1] if before is not None and before[0] == stamp else read_entry(archive, id)
            if entry is not None:
                yield id, (stamp, entry)

    # Sources ---------------------------------------------------------------------------------------------------

    def sources(self, loras: Sequence[LoraFile]) -> list[LoraFile]:
        """Return the files that LoRAs are resized from: the archived original of each, or itself.

        It is itself where someone else replaced the file since, as far as its size shows that.
        """
        by_home = self.by_home()
        return [self._source(lora, by_home.get(plain(lora.path))) for lora in loras]

    def source(self, lora: LoraFile) -> LoraFile:
        """Return the same for one LoRA."""
        return self._source(lora, self.at(lora.path))

    @staticmethod
    def _source(lora: LoraFile, entry: Entry | None) -> LoraFile:
        if entry is None or not entry.is_there or entry.original is None:
            return lora
        try:
            expected = lora.path.stat().st_size in (entry.bytes_after, entry.bytes_before)
        except OSError:
            expected = False
        return replace(lora, path=entry.original) if expected else lora

    def checked_source(self, lora: LoraFile) -> LoraFile:
        """Return the same, after the content of the file was compared with that of the entry. Reads the file."""
        entry = self.at(lora.path)
        found = self._source(lora, entry)
        if found is lora or entry is None:
            return lora
        return found if sha256_of(lora.path) in (entry.sha256_after, entry.sha256_before) else lora


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino


def plain(path: Path) -> Path:
    """Return a path as entries have it, with the links of its folder resolved."""
    return _real_folder(path.parent) / path.name


@lru_cache(maxsize=4096)
def _real_folder(folder: Path) -> Path:
    return plain_path(folder / "x").parent
