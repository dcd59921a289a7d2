"""Clean up after a killed server, once at the start: remove half-written files, finish half-done moves."""

from __future__ import annotations

import contextlib
import threading

from ..archive.recovery import recover
from ..files.atomic import sweep
from ..files.walk import walk
from .desk import Desk
from .picturing.candidates import sweep as sweep_trials


def start(desk: Desk) -> threading.Thread:
    """Recover in the background; return the thread."""
    thread = threading.Thread(target=_recover, args=(desk,), name="resize-lora-recovery", daemon=True)
    thread.start()
    return thread


def _recover(desk: Desk) -> None:
    host = desk.host
    try:
        with contextlib.suppress(Exception):  # what is half done is tried again at the next start
            _recover_archive(desk)
    finally:
        desk.recovered.set()
    with contextlib.suppress(Exception):  # what could not be restored is still in the trash
        desk.results.recover()
    with contextlib.suppress(Exception):  # files of a search, which no list shows
        sweep_trials(desk.library.cache.parent, host)
    with contextlib.suppress(Exception):  # a folder that cannot be read is left alone
        for root in [*host.lora_roots(), *host.trash_roots()]:
            for folder in walk(root):
                sweep(folder.path)


def _recover_archive(desk: Desk) -> None:
    """Complete or revert replacements, before files of dead processes are removed: one may be needed for it."""
    found = recover(desk.archives.as_it_is())
    if found:
        desk.runs.recovered([desk.folders.without(one.message) for one in found])
        desk.host.replaced([one.home for one in found])
        desk.files_moved()
