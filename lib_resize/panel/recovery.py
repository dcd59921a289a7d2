"""Clean up after a killed server, once at the start: remove half-written files and finish half-done moves."""

from __future__ import annotations

import contextlib
import threading

from ..files.atomic import sweep
from ..files.walk import walk
from ..hosts.host import Host
from .results import Results


def start(host: Host, results: Results) -> threading.Thread:
    """Recover in the background; return the thread."""
    thread = threading.Thread(target=_recover, args=(host, results), name="resize-lora-recovery", daemon=True)
    thread.start()
    return thread


def _recover(host: Host, results: Results) -> None:
    with contextlib.suppress(Exception):  # what could not be restored is still in the trash
        results.recover()
    with contextlib.suppress(Exception):  # a folder that cannot be read is left alone
        for root in [*host.lora_roots(), *host.trash_roots()]:
            for folder in walk(root):
                sweep(folder.path)
