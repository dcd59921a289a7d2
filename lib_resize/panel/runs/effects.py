"""Figures of images that were compared, kept with the files of a run."""

from __future__ import annotations

from dataclasses import replace

from ...archive.entries import Entry
from ..faults import Fault
from ..protocol.types import Json
from .control import Runs


def keep_effect(runs: Runs, entry: Entry, effect: Json) -> None:
    """Keep an `Effect record` of the protocol with the file of a run that an entry of the archive belongs to.

    The size of that file is the one of the entry. Files that no run replaced keep none. Raises OutputError.
    """
    try:
        run = runs.get(entry.run)
    except Fault:
        return  # the command line replaced the file, or the run was dropped
    index = next((index for index, item in enumerate(run.items) if item.entry == entry.id), None)
    if index is not None:
        run.items[index] = replace(run.items[index], bytes_after=entry.bytes_after, effect=effect)
        runs.store.append(run.id, index, run.items[index])
