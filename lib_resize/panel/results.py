"""The results of this session and of earlier ones, with undo and restore.

A result is a record on the disk (`records`); an undone one is also an item of the trash, which has the result's id.
The state of a result is read from the disk each time, so that a crash leaves nothing out of step.
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

from ..errors import OutputError, ResizeError
from ..files.effect_record import EffectRecord
from ..files.recording import StagedCopy
from ..hosts.host import Host
from . import gathering, trash
from .faults import Fault
from .library import folder_of
from .marks import Mark, mark_of, stamp_at
from .names import inside
from .protocol.methods import MOST_RESULTS
from .protocol.types import Json
from .records import Facts, Ordered, Record, Records, new_id
from .restamping import put_copy
from .trash_items import TrashItems

THERE, TRASHED, GONE = "there", "trashed", "gone"
RECORDS = "results"
"""The folder of records, in the trash."""
_UNRECORDED = "It could not be recorded on the disk: Undo works only until the server is restarted."


class Results:
    """All results that are recorded. Every method may be called from any thread."""

    def __init__(self, host: Host, session: str) -> None:
        self._host = host
        self._session = session
        self.records = Records(host.trash_root() / RECORDS, [root / RECORDS for root in host.trash_roots()])
        self.trash = TrashItems(host)
        self._moving = threading.RLock()

    def making(self, name: str, source: Path | None = None, order: Ordered | None = None) -> Making:
        """Return the record of a file that is about to be made."""
        began = self.records.moment()
        return Making(self.records, Record(new_id(), self._session, began, name, "", Path(), 0, "", {}, source, order))

    def get(self, id: str) -> Record:
        """Return the record of a result. Raises Fault."""
        found = self.records.get(id)
        if found is None:
            raise Fault("gone", f"There is no result {id!r}. The list of results shows those that can be undone.")
        return found

    def to_json(self, record: Record) -> Json:
        """Return the `Result` of the protocol."""
        return self._to_json(record, self.trash.by_result())

    def answer(self, before: str | None = None, limit: int = MOST_RESULTS) -> Json:
        """Return the answer of `results`: the latest, or those older than a given one. Raises Fault."""
        records = self.records.all()
        if before is not None:
            records = records[: _place(records, before)]
        listed = records[max(0, len(records) - limit) :]
        items = self.trash.all()
        by_result = {item.result: item for item in items if item.result is not None}
        return {
            "results": [self._to_json(self.records.get(one.id) or one, by_result) for one in listed],
            "more": len(listed) < len(records),
            "trash": {"items": len(items), "bytes": sum(item.bytes for item in items)},
        }

    def counts(self) -> Json:
        """Return the number of results and of items in the trash."""
        return {"results": len(self.records.all()), "trashed": len(self.trash.all())}

    def made_by(self, order: Ordered) -> Record | None:
        """Return the result of the same order, of the same source, that still exists unchanged."""
        record = self.records.ordered(order.key)
        if record is None or record.order is None or record.file is None or record.order.stamp != order.stamp:
            return None
        if record.order.reference not in (None, order.reference):
            return None
        return record if record.file.looks_unchanged() else None

    def at(self, path: Path) -> Record | None:
        """Return the latest result that is the file at a path, unchanged; None for other files."""
        found = [one for one in self.records.all() if one.path == path and one.file is not None]
        record = self.records.get(found[-1].id) if found else None
        return record if record is not None and record.file is not None and record.file.looks_unchanged() else None

    def keep_effect(self, id: str, effect: Json) -> None:
        """Keep an `Effect record` of the protocol with a result, in place of an earlier one.

        A result that is not listed any more keeps none. Raises OutputError; it is kept for this session nevertheless.
        """
        with self._moving:
            record = self.records.get(id)
            if record is not None:
                self.records.write(replace(record, facts={**record.facts, "effect": effect}))

    def is_source(self, path: Path) -> bool:
        """Return whether the file at a path, as it is now, is what another result was made of."""
        made = [one for one in self.records.all() if one.source == path and os.path.lexists(one.path)]
        return any(one.order is None or one.order.stamp == stamp_at(path) for one in made)

    def put_copy(self, id: str, copied: StagedCopy, effect: Json) -> tuple[str, ...]:
        """Replace a result by its copy with a figure; return the names of sidecars that could not be updated.

        Raises Fault, and OutputError where the result is left unchanged.
        """
        with self._moving:
            return put_copy(self.records, self.get(id), copied, {"effect": effect})

    # Undo and restore ------------------------------------------------------------------------------------------

    def undo(self, id: str) -> Json:
        """Move a result to the trash; what was changed since it was written stays. Raises Fault and OutputError."""
        with self._moving:
            record = self.get(id)
            if id in self.trash.by_result() and self._is_trashed(id):
                raise Fault("gone", f"{record.output} is in the trash already.")
            if record.file is None or not os.path.lexists(record.path):
                raise Fault("gone", f"{record.output} does not exist any more; it was moved or deleted.")
            self.trash.check_inside(record.path)
            if not record.file.is_unchanged():
                raise OutputError(
                    f"{record.path}: was changed or replaced since it was made; nothing was moved. "
                    "Delete or move it yourself if you want to remove it."
                )
            going, kept = self._sidecars(record)
            trash.trash(self._host.trash_root(record.path), record.output, [record.path, *going], result=id)
            return {"result": self.to_json(record), "kept": kept, "note": _kept_note(kept)}

    def _is_trashed(self, id: str) -> bool:
        """Return whether a result is in the trash even after moves that failed before were finished."""
        self.trash.recover_moves()
        return id in self.trash.by_result()

    def _sidecars(self, record: Record) -> tuple[list[Path], list[str]]:
        """Return the sidecars to move, and the names of those that stay because they were changed."""
        going, kept = [], []
        for mark in record.sidecars:
            if mark.is_unchanged() and inside(mark.path.parent, self._host.lora_roots()):
                going.append(mark.path)
            elif os.path.lexists(mark.path):
                kept.append(mark.path.name)
        return going, kept

    def restore(self, id: str) -> Json:
        """Move a result back. Raises Fault and OutputError."""
        with self._moving:
            record = self.get(id)
            item = self.trash.by_result().get(id)
            if item is None:
                raise Fault("gone", f"{record.output} is not in the trash.")
            self.trash.restore(item.id)
            return self.to_json(record)

    def restore_item(self, id: str) -> tuple[str, Json | None]:
        """Move any item of the trash back; return its name, and its result where it has one.

        Raises Fault and OutputError.
        """
        with self._moving:
            item = self.trash.get(id)
            record = None if item is None or item.result is None else self.records.get(item.result)
            name = self.trash.restore(id)
            return name, None if record is None else self.to_json(record)

    def empty_trash(self) -> Json:
        """Delete all items for good. Raises OutputError."""
        with self._moving:
            return self.trash.empty()

    def recover(self) -> None:
        """Finish what a killed server left half done, and drop old records; for the start of a service."""
        with self._moving:
            self.trash.recover_moves()
            gathering.gather(self._host)
        self.records.prune(self._session, set(self.trash.by_result()))

    def _to_json(self, record: Record, trashed: Mapping[str, trash.Item]) -> Json:
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
            "effect": None,
            **record.facts,
        }


class Making:
    """The record of one new file: begun before the file appears, completed afterwards."""

    def __init__(self, records: Records, record: Record) -> None:
        self._records = records
        self._record = record
        self._recorded = True

    def begin(self, path: Path, bytes: int, facts: Facts) -> None:
        """Record that the file is about to appear."""
        began, recipe = self._records.moment(), facts["recipe"]
        self._record = replace(
            self._record, began=began, output=path.stem, path=path, bytes=bytes, recipe=recipe, facts=facts
        )
        self._write()

    def depends_on(self, reference: str | None) -> None:
        """Record the title of the checkpoint that the result depends on."""
        if self._record.order is not None:
            self._record = replace(self._record, order=replace(self._record.order, reference=reference))

    def made(self, output: str, sidecars: Sequence[Path], facts: Facts) -> Record:
        """Complete the record; `output` is the host's name of the file. Raises OSError where the file was deleted."""
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
        except ResizeError:  # a disk that is full or read-only; writing the file itself fails by its own error
            self._recorded = False


def _marks(paths: Sequence[Path]) -> list[Mark]:
    """Return the marks of the files that exist."""
    found = []
    for path in paths:
        with contextlib.suppress(OSError):
            found.append(mark_of(path))
    return found


def _kept_note(kept: Sequence[str]) -> str:
    return f"Not moved, because they were changed or cannot be read: {', '.join(kept)}." if kept else ""


def _place(records: Sequence[Record], id: str) -> int:
    found = next((place for place, record in enumerate(records) if record.id == id), None)
    if found is None:
        raise Fault("gone", f"There is no result {id!r} any more. Ask for the latest results.")
    return found


def now() -> float:
    return round(time.time(), 3)


def effect_json(record: EffectRecord) -> Json:
    """Return the `Effect record` of the protocol, with this moment."""
    return {**record.as_json(), "made": now()}
