"""Keep the figure of a comparison: with the result or the file of a run that it is about, and in that file itself."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from ..archive.entries import Entry
from ..archive.replacing import Replacement, replace, staged_path
from ..errors import OutputError, ResizeError
from ..files.atomic import explain
from ..files.effect_record import EffectRecord
from ..files.recording import StagedCopy, copy_with_effect
from .desk import Desk
from .pairs import ComparedPair
from .protocol.types import Json
from .queue import Handle
from .results import effect_json
from .runs.effects import keep_effect

Put = Callable[[StagedCopy], str]
"""Replaces a file by its copy; returns a note, or an empty text. Raises ResizeError."""


def keep_figure(desk: Desk, pair: ComparedPair, record: EffectRecord, handle: Handle) -> str:
    """Keep a figure; return a note where it is not in the file, else an empty text.

    A file that this program has no record of is left alone. What cannot be recorded either, such as on a full disk, is
    in the answer of the comparison. Raises Cancelled while the file waits for the host; the figure is kept then.
    """
    effect = effect_json(record)
    if pair.result is not None:
        return _keep_with_result(desk, pair.result, record, effect, handle)
    if pair.entry is not None:
        return _keep_with_entry(desk, pair.entry, record, effect, handle)
    return ""


def _keep_with_result(desk: Desk, id: str, record: EffectRecord, effect: Json, handle: Handle) -> str:
    with contextlib.suppress(ResizeError):
        desk.results.keep_effect(id, effect)
    path = desk.results.get(id).path

    def put(copied: StagedCopy) -> str:
        behind = desk.results.put_copy(id, copied, effect)
        if not behind:
            return ""
        return f"{', '.join(behind)}: could not be updated; it has the size and hash of the file without the figure."

    if desk.results.is_source(path):
        return _refused(desk, OutputError(f"{path}: another file was made of it. It is left alone."))
    return _put(desk, path, record, put, handle)


def _keep_with_entry(desk: Desk, entry: Entry, record: EffectRecord, effect: Json, handle: Handle) -> str:
    with contextlib.suppress(ResizeError):
        keep_effect(desk.runs, entry, effect)

    def put(copied: StagedCopy) -> str:
        if copied.was != entry.sha256_after:
            raise OutputError(f"{entry.home}: was changed or replaced since it was made. It is left alone.")
        same = (entry.sha256_before, entry.run, entry.name)
        again = Replacement(entry.home, copied.staged, *same, facts=entry.facts, replaced=entry.replaced)
        now = replace(desk.archives.archive(), again)
        with contextlib.suppress(ResizeError):
            keep_effect(desk.runs, now, effect)
        return ""

    return _put(desk, entry.home, record, put, handle)


def _put(desk: Desk, path: Path, record: EffectRecord, put: Put, handle: Handle) -> str:
    """Write the figure into a file, while no image is made; return a note. Raises Cancelled."""
    staged = staged_path(path)
    try:
        copied = copy_with_effect(path, staged, record)
        if copied is None:
            return ""
        handle.wait_for_host()
        with _replacing(desk, path):
            return desk.folders.without(put(copied))
    except OSError as error:
        return _refused(desk, OutputError(explain(error, path)))
    except ResizeError as error:
        return _refused(desk, error)
    finally:
        with contextlib.suppress(OSError):
            staged.unlink(missing_ok=True)


@contextlib.contextmanager
def _replacing(desk: Desk, path: Path) -> Iterator[None]:
    """Keep the host from making images while a file is replaced, and let it read the new one."""
    with desk.host.lock():
        if sys.platform == "win32":  # the host itself may have the file open, which Windows does not replace
            desk.host.replaced([path])
            gc.collect()
        yield
        desk.host.replaced([path])
    desk.library.touch()


def _refused(desk: Desk, error: ResizeError) -> str:
    message = desk.folders.without(str(error))
    return f"The figure is not in the file. {message}"
