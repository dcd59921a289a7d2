"""The archive of replaced originals: listed, restored, purged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...archive.entries import Entry
from ...archive.purging import older_than
from ...archive.purging import purge as purge_entries
from ...archive.restoring import restore
from ...errors import ResizeError
from ..archives import plain
from ..desk import Desk
from ..faults import Fault
from ..jobs import JobSpec
from ..library import folder_of
from ..protocol.types import Json
from ..queue import Handle


def archive(desk: Desk, _params: Json) -> Json:
    roots = desk.host.lora_roots()
    entries = desk.archives.entries()
    rows = [_entry_json(entry, roots) for entry in entries]
    return {
        "folder": desk.archives.folder(),
        "entries": rows,
        "bytes": sum(row["bytes"] for row in rows if row["there"]),
        "problem": desk.folders.without(desk.archives.problem()),
    }


def _entry_json(entry: Entry, roots: Sequence[Path]) -> Json:
    return {
        "entry": entry.id,
        "run": entry.run,
        "name": entry.name,
        "folder": folder_of(entry.home, roots),
        "bytes": entry.bytes_before,
        "bytes_after": entry.bytes_after,
        "replaced": entry.replaced,
        "there": entry.is_there,
    }


def _chosen(desk: Desk, params: Json) -> list[Entry]:
    """Return the entries that a call is about. Raises Fault."""
    entries = desk.archives.entries()
    if params["entries"] is not None:
        return [desk.archives.entry(id) for id in params["entries"]]
    if params["run"] is not None:
        return [entry for entry in entries if entry.run == params["run"]]
    if params.get("older_days") is not None:
        return older_than(entries, params["older_days"])
    if params.get("names") is not None:
        return _of_names(desk, params["names"])
    if not params["all"]:
        raise Fault("request", "params: all must be true; leave it out to choose entries.")
    return entries


def _of_names(desk: Desk, names: Sequence[str]) -> list[Entry]:
    lists, by_home = desk.snapshot(), desk.archives.by_home()
    found = []
    for name in names:
        entry = by_home.get(plain(lists.find(name).path))
        if entry is None:
            raise Fault("gone", f"{name}: the archive has no original of this LoRA.")
        found.append(entry)
    return found


# Restore -------------------------------------------------------------------------------------------------------


@dataclass
class _Restored:
    restored: list[str] = field(default_factory=list)
    refused: list[Json] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    bytes: int = 0


def restore_originals(desk: Desk, params: Json) -> Json:
    entries = _chosen(desk, params)
    if not entries:
        raise Fault("gone", "The archive has no such original.")
    spec = JobSpec(
        kind="restore_originals",
        title=f"Restore {entries[0].name}" if len(entries) == 1 else f"Restore {len(entries)} originals",
        run=lambda handle: _restore_all(desk, entries, handle),
        name=entries[0].name,
        files=len(entries),
        bytes=sum(entry.bytes_before for entry in entries),
    )
    return {"job": desk.queue.add(spec, first=True)}


def _restore_all(desk: Desk, entries: Sequence[Entry], handle: Handle) -> Json:
    desk.recovered.wait()
    done = _Restored()
    try:
        for number, entry in enumerate(entries, 1):
            handle.check()
            handle.file(number, entry.name)
            handle.wait_for_host()
            handle.portion((number - 1) / len(entries), 1 / len(entries))
            _restore_one(desk, entry, done)
    finally:
        desk.files_moved()
        desk.library.revise()
    return {"restored": done.restored, "refused": done.refused, "notes": done.notes, "bytes": done.bytes}


def _restore_one(desk: Desk, entry: Entry, done: _Restored) -> None:
    try:
        with desk.host.lock():
            found = restore(desk.archives.as_it_is(), entry)
            desk.host.replaced([entry.home])
    except (ResizeError, OSError) as error:
        done.refused.append({"name": entry.name, "message": desk.error(error)["message"]})
        return
    desk.analyses.forget(entry.name)
    done.restored.append(entry.name)
    done.bytes += entry.bytes_before
    if found.changed:
        kept = ", ".join(path.name for path in found.changed)
        done.notes.append(f"{entry.name}: {kept} was changed since, so it was not restored.")


# Purge ---------------------------------------------------------------------------------------------------------


def purge(desk: Desk, params: Json) -> Json:
    entries = _chosen(desk, params)
    if not params["confirm"]:
        there = [entry for entry in entries if entry.is_there]
        return {"files": len(there), "bytes": sum(entry.bytes_before for entry in there), "done": False}
    try:
        files, size = purge_entries(desk.archives.as_it_is(), entries)
    finally:
        desk.library.revise()
    return {"files": files, "bytes": size, "done": True}


METHODS = {"archive": archive, "restore_originals": restore_originals, "purge": purge}
