"""Give a result new metadata: its file, its sidecars and its record change in one step, which a crash does not break.

The record is written first, with the old and the new contents. Then the copy takes the place of the file, and the
sidecars get its size and hash. The record is written again at the end. After a crash in between, the content of the
file decides: `settled` finishes the step where it is the new one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..archive.exchanging import put_staged
from ..archive.links import left_alone
from ..errors import OutputError, ResizeError
from ..files.atomic import in_plain_words, write_whole
from ..files.recording import StagedCopy
from ..files.sidecars import SidecarFacts, updates_in_place
from .marks import Mark, mark_at

if TYPE_CHECKING:
    from .records import Record


class _Records(Protocol):
    def write(self, record: Record) -> None: ...


def put_copy(records: _Records, record: Record, copied: StagedCopy, facts: Mapping[str, Any]) -> tuple[str, ...]:
    """Replace the file of a record by its copy, and add `facts` to the record.

    Return the names of sidecars that could not be updated; they are unchanged. Raises OutputError where the file
    changed or cannot be replaced: it is unchanged then.
    """
    path, file = record.path, record.file
    reason = left_alone(path)
    if reason is not None:
        raise OutputError(f"{path}: {reason.message}. It is left alone.")
    if file is None or file.sha256 != copied.was or not file.looks_unchanged():
        raise OutputError(f"{path}: was changed or replaced since it was made. It is left alone.")
    with in_plain_words(path):
        planned = _planned(record, file, copied, facts)
    done = planned
    try:
        records.write(planned)
        with in_plain_words(path):
            put_staged(copied.staged, path)
    finally:
        done = settled(planned)
        if done is planned and file.looks_unchanged():  # where that cannot be read, both contents stay in the record
            done = replace(done, next=())
        with contextlib.suppress(ResizeError):  # the next start finishes it
            records.write(done)
    wanted = {one.path: one.sha256 for one in planned.next}
    return tuple(one.path.name for one in done.sidecars if wanted.get(one.path, one.sha256) != one.sha256)


def settled(record: Record) -> Record:
    """Return a record with the contents that its files have, after a step that may have been cut off.

    Sidecars that are still the old ones are updated. What cannot be read now keeps both contents. Never raises.
    """
    if record.file is None or not record.next or not record.next[0].is_unchanged():
        return record
    written: set[Path] = set()
    with contextlib.suppress(OSError, ResizeError):
        written = _update_sidecars(record, record.file, record.next[0])
    return _adopted(record, written)


def _adopted(record: Record, written: Collection[Path]) -> Record:
    """Return a record with the new file, and with the sidecars that were written or are the new ones."""
    new, *others = record.next
    done = {one.path: one for one in others if one.path in written or one.is_unchanged()}
    sidecars = tuple(done.get(one.path, one) for one in record.sidecars)
    old = {one.path: one for one in record.sidecars}
    unknown = [one for one in others if one.path in old and one.path not in done and not old[one.path].is_unchanged()]
    facts = {**record.facts, **_sizes(record.facts, new.bytes)}
    return replace(
        record, file=new, bytes=new.bytes, sidecars=sidecars, facts=facts, next=(new, *unknown) if unknown else ()
    )


def _sizes(facts: Mapping[str, Any], size: int) -> dict[str, Any]:
    before = facts.get("bytes_before")
    if not isinstance(before, int) or before <= 0:
        return {}
    return {"bytes_after": size, "saved": 1.0 - size / before}


def _planned(record: Record, file: Mark, copied: StagedCopy, facts: Mapping[str, Any]) -> Record:
    """Return the record of a step that begins. Raises OSError."""
    new = mark_at(record.path, copied.staged, copied.new)
    later = [_mark(path, data) for path, _, data in _own_updates(record, file, new)]
    return replace(record, facts={**record.facts, **facts}, next=(new, *later))


def _mark(path: Path, data: bytes) -> Mark:
    """Return the mark of a sidecar that will be written; only its content counts."""
    return Mark(path, len(data), 0, sha256(data).hexdigest())


def _own_updates(record: Record, file: Mark, new: Mark) -> Iterator[tuple[Path, bytes, bytes]]:
    """Yield the sidecars of a result that are unchanged and describe its file: path, old and new bytes.

    Raises OSError.
    """
    ours = {one.path: one.sha256 for one in record.sidecars}
    facts = SidecarFacts(new.bytes, new.sha256, file.sha256, new.modified / 1e9)
    for path, old, data in updates_in_place(record.path, facts):
        if ours.get(path) == sha256(old).hexdigest():
            yield path, old, data


def _update_sidecars(record: Record, file: Mark, new: Mark) -> set[Path]:
    """Write the sidecars anew; return those that are written. Raises OSError where they cannot be read."""
    written = set()
    for path, _, data in _own_updates(record, file, new):
        with contextlib.suppress(OSError, ResizeError):
            mode = path.stat().st_mode
            write_whole(path, data, overwrite=True)
            written.add(path)
            path.chmod(mode & 0o7777)
    return written
