"""The file that a call is about, its original, and their names in prompts."""

from __future__ import annotations

from ..errors import FileError
from ..hosts.host import LoraFile
from .compare import ComparedFiles
from .desk import Desk
from .names import Notes, notes_of
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


def _with_original(desk: Desk, new: LoraFile, source: str | None, lists: Snapshot) -> ComparedFiles:
    loras = lists.loras()
    old = original(loras, source)
    members = {new.name, *desk.library.versions(source or new.path.stem)} | ({old.name} if old else set())
    others = names_of(loras, members, source)
    own = notes_of(new.path)
    notes = own if own != Notes() or old is None else notes_of(old.path)
    return ComparedFiles(old.name if old else source or new.name, new.name, others - {new.name}, notes)
