"""What a killed server left: half-written files are removed, half-done moves are finished. Run once, at the start."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from ..files.atomic import sweep
from ..hosts.host import Host
from .results import Results


def start(host: Host, results: Results) -> threading.Thread:
    """Does it in the background."""
    thread = threading.Thread(target=_recover, args=(host, results), name="resize-lora-recovery", daemon=True)
    thread.start()
    return thread


def _recover(host: Host, results: Results) -> None:
    with contextlib.suppress(Exception):  # the trash still has what could not be brought back
        results.recover()
    with contextlib.suppress(Exception):  # a folder that cannot be read keeps what is in it
        for root in [*host.lora_roots(), *host.trash_roots()]:
            for folder in _folders(root):
                sweep(folder)


def _folders(root: Path) -> Iterator[Path]:
    """A folder and all below it, each once, links followed as hosts do."""
    seen = set()
    for folder, below, _ in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back up
            below.clear()
            continue
        seen.add(real)
        yield Path(folder)
