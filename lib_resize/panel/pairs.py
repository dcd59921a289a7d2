"""The file that a call is about, its original, and their names in prompts."""

from __future__ import annotations

from dataclasses import dataclass

from ..archive.entries import Entry
from ..errors import FileError
from ..hosts.host import LoraFile
from .desk import Desk
from .names import Notes, notes_of
from .picturing.originals import hidden_name
from .picturing.prompting import ComparedFiles
from .protocol.types import Json
from .snapshot import Snapshot
from .versions import names_of, original


def compared_files(desk: Desk, params: Json, lists: Snapshot) -> ComparedFiles:
    """Return the file of `result` or `name` and its original. Raises Fault and FileError."""
    if params["result"] is None:
        lora = lists.find(params["name"])
        return _with_original(desk, lora, desk.library.facts(lora).source, lists)
    result = desk.results.get(params["result"])
    lists = desk.listing(result.path, lists)
    found = lists.loras().at(result.path)
    if found is None:
        raise FileError(f"{result.output}: is not in the list of {lists.name} any more. Refresh the list.")
    return _with_original(desk, found, result.source.stem if result.source else None, lists)


@dataclass(frozen=True)
class ComparedPair:
    """Two files to compare, and what this program recorded of the new one."""

    files: ComparedFiles
    result: str | None = None
    """Id of the result that the new file is, unchanged."""
    entry: Entry | None = None
    """The entry of the archive that has the original."""


def pair_of(desk: Desk, params: Json, lists: Snapshot) -> ComparedPair:
    """Return the file of `entry`, `result` or `name` and its original, which may be in the archive.

    Raises Fault and FileError.
    """
    entry = _entry(desk, params, lists)
    if entry is not None:
        return ComparedPair(_with_archived(entry, lists), entry=entry)
    if params["result"] is None:
        made = desk.results.at(lists.find(params["name"]).path)
    else:
        made = desk.results.at(desk.results.get(params["result"]).path)
    return ComparedPair(compared_files(desk, params, lists), None if made is None else made.id)


def _entry(desk: Desk, params: Json, lists: Snapshot) -> Entry | None:
    """Return `entry`, or that of a `name` that has an original in the archive; else None."""
    if params["entry"] is not None:
        return desk.archives.entry(params["entry"])
    if params["name"] is None:
        return None
    entry = desk.archives.at(lists.find(params["name"]).path)
    return entry if entry is not None and entry.is_there else None


def _with_archived(entry: Entry, lists: Snapshot) -> ComparedFiles:
    """Return a replaced file and its archived original, which the host knows for one image by a name of its own."""
    new = lists.loras().at(entry.home)
    if new is None or entry.original is None or not entry.is_there:
        raise FileError(f"{entry.name}: the original or the file that replaced it is not there any more.")
    old = hidden_name(new.name, lists.loras())
    others = names_of(lists.loras(), {new.name}) - {new.name}
    return ComparedFiles(old, new.name, others, notes_of(new.path), {old: entry.original})


def _with_original(desk: Desk, new: LoraFile, source: str | None, lists: Snapshot) -> ComparedFiles:
    loras = lists.loras()
    old = original(loras, source)
    members = {new.name, *desk.library.versions(source or new.path.stem)} | ({old.name} if old else set())
    others = names_of(loras, members, source)
    own = notes_of(new.path)
    notes = own if own != Notes() or old is None else notes_of(old.path)
    return ComparedFiles(old.name if old else source or new.name, new.name, others - {new.name}, notes)
