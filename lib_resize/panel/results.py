"""What was made, in this session and before, and the way back: undo, restore, and the trash.

A result is a record on the disk (`records`), an undone one is an item of the trash that names the record. Which state a
result is in is read from the disk each time, so that there is nothing that a kill could leave out of step.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import OutputError, ResizeError
from ..hosts.host import Host
from . import gathering, trash
from .faults import Fault
from .library import folder_of
from .marks import Mark, mark_of
from .names import inside
from .records import Facts, Ordered, Record, Records, new_id

THERE, TRASHED, GONE = "there", "trashed", "gone"
RECORDS = "results"
"""The folder of records, in the trash."""
MOST_TOLD = 500
"""Results of one answer."""

_UNRECORDED = "It could not be recorded on the disk, so that Undo works until the server is restarted."

Answer = dict[str, Any]


class Results:
    """All results that are recorded. Every method may be called from any thread."""

    def __init__(self, host: Host, session: str) -> None:
        self._host = host
        self._session = session
        self.records = Records(host.trash_root() / RECORDS, [root / RECORDS for root in host.trash_roots()])
        self._moving = threading.RLock()
        self._items: dict[Path, trash.Item] = {}

    def making(self, name: str, source: Path | None = None, order: Ordered | None = None) -> Making:
        """A file that is about to be made."""
        return Making(self.records, Record(new_id(), self._session, now(), name, "", Path(), 0, "", {}, source, order))

    def get(self, id: str) -> Record:
        """Raises Fault."""
        found = self.records.get(id)
        if found is None:
            raise Fault("gone", f"There is no result {id!r}. The list of results has those that can be undone.")
        return found

    def told(self, record: Record) -> Answer:
        """The Result of docs/panel-protocol.md."""
        return self._told(record, self._trashed_items())

    def answer(self, before: str | None = None, limit: int = MOST_TOLD) -> Answer:
        """The latest results, or those before a given one, oldest first; and how full the trash is. Raises Fault."""
        records = self.records.all()
        if before is not None:
            records = records[: _place(records, before)]
        told = records[max(0, len(records) - limit) :]
        items = self._trashed_items()
        trashed = self._listed_items()
        return {
            "results": [self._told(record, items) for record in told],
            "more": len(told) < len(records),
            "trash": {"items": len(trashed), "bytes": sum(item.bytes for item in trashed)},
        }

    def counts(self) -> Answer:
        """How many results and trashed ones there are."""
        return {"results": len(self.records.all()), "trashed": len(self._listed_items())}

    def made_by(self, order: Ordered) -> Record | None:
        """The result of the same order, of the same source, that is still there as it was written."""
        record = self.records.ordered(order.key)
        if record is None or record.order is None or record.file is None or record.order.stamp != order.stamp:
            return None
        if record.order.reference not in (None, order.reference):
            return None
        return record if record.file.looks_unchanged() else None

    # Undo and restore ------------------------------------------------------------------------------------------

    def undo(self, id: str) -> Answer:
        """Moves a result to the trash; what was changed since it was written stays. Raises Fault and OutputError."""
        with self._moving:
            record = self.get(id)
            if id in self._trashed_items() and self._recovered(id):
                raise Fault("gone", f"{record.output} is in the trash already.")
            if record.file is None or not os.path.lexists(record.path):
                raise Fault("gone", f"{record.output} is not there any more; it was moved or deleted.")
            self._check_inside(record.path)
            if not record.file.is_unchanged():
                raise OutputError(
                    f"{record.path}: was changed or replaced since it was made; nothing was moved. "
                    "Delete or move it yourself if you want it gone."
                )
            going, kept = self._sidecars(record)
            trash.trash(self._host.trash_root(record.path), record.output, [record.path, *going], result=id)
            return {"result": self.told(record), "kept": kept, "note": _kept_note(kept)}

    def _recovered(self, id: str) -> bool:
        """Whether a result is in the trash even after moves that failed before were finished."""
        self._recover_moves()
        return id in self._trashed_items()

    def _sidecars(self, record: Record) -> tuple[list[Path], list[str]]:
        """Those that go along, and the names of those that stay because they are not what we wrote any more."""
        going, kept = [], []
        for mark in record.sidecars:
            if mark.is_unchanged() and inside(mark.path.parent, self._host.lora_roots()):
                going.append(mark.path)
            elif os.path.lexists(mark.path):
                kept.append(mark.path.name)
        return going, kept

    def restore(self, id: str) -> Answer:
        """Moves a result back. Raises Fault and OutputError."""
        with self._moving:
            record = self.get(id)
            item = self._trashed_items().get(id)
            if item is None:
                raise Fault("gone", f"{record.output} is not in the trash.")
            self.restore_item(item.id)
            return self.told(record)

    def restore_item(self, id: str) -> str:
        """Moves anything in the trash back, also of earlier sessions; its name. Raises Fault and OutputError."""
        with self._moving:
            item = next((item for item in self._listed_items() if item.id == id), None)
            if item is None:
                raise Fault("gone", "That is not in the trash any more.")
            self._check_homes(item)
            trash.restore(item)
            self._clear_inner()
            return item.name

    def of_item(self, id: str) -> Record | None:
        """The result that an item of the trash is, if it is recorded."""
        item = next((item for item in self._listed_items() if item.id == id), None)
        return None if item is None or item.result is None else self.records.get(item.result)

    def trashed(self) -> list[Answer]:
        """What is in the trash."""
        return [
            {
                "item": item.id,
                "name": item.name,
                "bytes": item.bytes,
                "files": len(item.files),
                "trashed": item.trashed,
                "result": item.result,
            }
            for item in self._listed_items()
        ]

    def empty_trash(self) -> Answer:
        """Deletes for good. Raises OutputError."""
        with self._moving:
            emptied = [trash.empty(root) for root in self._host.trash_roots()]
            self._clear_inner()
            return {"files": sum(files for files, _ in emptied), "bytes": sum(size for _, size in emptied)}

    def trashed_names(self) -> set[str]:
        """Stems that a restore will need again."""
        return {file.home.stem for item in self._listed_items() for file in item.files}

    def recover(self) -> None:
        """Finishes what a killed server left half done, and drops old records; for the start of a service."""
        with self._moving:
            self._recover_moves()
            gathering.gather(self._host)
        self.records.prune(self._session, set(self._trashed_items()))

    # What is where ---------------------------------------------------------------------------------------------

    def _listed_items(self) -> list[trash.Item]:
        """The trash's items; each manifest is read once, as it never changes."""
        known = self._items
        places = [root / id for root in self._host.trash_roots() for id in trash.ids(root)]
        found = ((place, known.get(place) or trash.read(place.parent, place.name)) for place in places)
        self._items = {place: item for place, item in found if item is not None}
        return sorted(self._items.values(), key=lambda item: (item.trashed, item.id))

    def _recover_moves(self) -> None:
        for root in self._host.trash_roots():
            trash.recover(root, self._check_homes)

    def _clear_inner(self) -> None:
        """An empty folder in a folder of LoRAs is a button above the host's cards."""
        for root in self._host.trash_roots():
            gathering.remove_if_empty(root, self._host.lora_roots())

    def _trashed_items(self) -> dict[str, trash.Item]:
        """Result -> the item that it is."""
        return {item.result: item for item in self._listed_items() if item.result is not None}

    def _told(self, record: Record, trashed: Mapping[str, trash.Item]) -> Answer:
        there = os.path.lexists(record.path)
        state = TRASHED if record.id in trashed else THERE if there else GONE
        return {
            "result": record.id,
            "name": record.name,
            "output": record.output,
            "folder": folder_of(record.path, self._host.lora_roots()),
            "sidecars": len(record.sidecars),
            "state": state,
            "changed": state == THERE and record.file is not None and not record.file.looks_unchanged(),
            "earlier": record.session != self._session,
            **record.facts,
        }

    def _check_homes(self, item: trash.Item) -> None:
        for file in item.files:
            self._check_inside(file.home)

    def _check_inside(self, path: Path) -> None:
        if not inside(path.parent, self._host.lora_roots()):
            raise OutputError(f"{path}: is outside of the LoRA folders by now. Move it by hand.")


class Making:
    """One file on its way: recorded before it appears, and in full once it is there."""

    def __init__(self, records: Records, record: Record) -> None:
        self._records = records
        self._record = record
        self._recorded = True

    def announce(self, path: Path, bytes: int, facts: Facts) -> None:
        """The file is about to appear."""
        self._record = replace(
            self._record, began=now(), output=path.stem, path=path, bytes=bytes, recipe=facts["recipe"], facts=facts
        )
        self._write()

    def depends_on(self, reference: str | None) -> None:
        """Title of the checkpoint without which the file would be another."""
        if self._record.order is not None:
            self._record = replace(self._record, order=replace(self._record.order, reference=reference))

    def made(self, output: str, sidecars: Sequence[Path], facts: Facts) -> Record:
        """The file is there, under the host's name `output`. Raises OSError where it vanished at once."""
        file = mark_of(self._record.path)
        marks = tuple(_marks(sidecars))
        self._record = replace(self._record, output=output, file=file, sidecars=marks, facts=facts)
        self._write()
        if not self._recorded:
            self._record = replace(self._record, facts={**facts, "notes": [*facts["notes"], _UNRECORDED]})
            with contextlib.suppress(ResizeError):
                self._records.write(self._record)
        return self._record

    def __enter__(self) -> Making:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:  # the file will not appear
            self._records.remove(self._record.id)

    def _write(self) -> None:
        try:
            self._records.write(self._record)
            self._recorded = True
        except ResizeError:  # a disk that is full or read-only; whether the file itself fits is another question
            self._recorded = False


def _marks(paths: Sequence[Path]) -> list[Mark]:
    """Of those that are still there."""
    found = []
    for path in paths:
        with contextlib.suppress(OSError):
            found.append(mark_of(path))
    return found


def _kept_note(kept: Sequence[str]) -> str:
    return f"Changed since they were copied, or not readable, so they stay: {', '.join(kept)}." if kept else ""


def _place(records: Sequence[Record], id: str) -> int:
    found = next((place for place, record in enumerate(records) if record.id == id), None)
    if found is None:
        raise Fault("gone", f"There is no result {id!r} any more. Ask for the latest results.")
    return found


def now() -> float:
    return round(time.time(), 3)
