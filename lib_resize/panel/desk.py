"""The parts of a service, as its methods use them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ResizeError
from ..hosts.host import Host, LoraFile
from .analyses import Analyses
from .archives import Archives
from .estimates import Estimates
from .faults import error_json
from .fitting import Fits
from .hiding import KnownFolders
from .images import Images
from .library import Library
from .picturing.finds import Finds
from .previews import Previews
from .protocol.types import Json
from .queue import Queue
from .refreshing import Refresher
from .results import Results
from .runs.control import Runs
from .snapshot import Snapshot
from .versions import Versions


@dataclass(frozen=True)
class Desk:
    """A host, and what the service keeps of it. Every part may be used from any thread."""

    host: Host
    session: str
    """Id of the service. A page with another one is older than the server."""
    library: Library
    versions: Versions
    analyses: Analyses
    queue: Queue
    results: Results
    images: Images
    previews: Previews
    folders: KnownFolders
    refresher: Refresher
    archives: Archives
    runs: Runs
    estimates: Estimates
    finds: Finds
    recovered: threading.Event
    """Set once what a killed server left half done is completed or reverted."""
    adding: threading.Lock = field(default_factory=threading.Lock)
    """Held while orders are compared with the queue and added to it."""
    fits: Fits = field(default_factory=Fits)

    def snapshot(self) -> Snapshot:
        """Return the lists of the host for one call."""
        return Snapshot(self.host)

    def error(self, error: BaseException) -> Json:
        """Return the `Error` of the protocol, without folders of the disk."""
        return hidden(error, self.folders)

    def look_up(self, names: Sequence[str], lists: Snapshot) -> tuple[list[LoraFile], list[Json]]:
        """Return the LoRAs of the names, and the `Refused file`s of those that are unknown."""
        loras, refused = [], []
        for name in names:
            try:
                loras.append(lists.find(name))
            except ResizeError as error:
                refused.append({"name": name, **self.error(error)})
        return loras, refused

    def listing(self, path: Path, lists: Snapshot) -> Snapshot:
        """Return lists that have a file: those given, or where the file is new to them, those after a refresh."""
        if lists.loras().at(path) is None and path.exists():
            self.refresher.now()
            return self.snapshot()
        return lists

    def files_moved(self) -> None:
        """Let the host and the library list files that were added or moved."""
        self.refresher.changed(more=self.queue.has_waiting(1))
        self.library.touch()


def hidden(error: BaseException, folders: KnownFolders) -> Json:
    """Return the `Error` of the protocol, with files by their names alone."""
    answer = error_json(error)
    with contextlib.suppress(Exception):  # the host may fail to list its folders
        answer["message"] = folders.without(answer["message"])
    return answer


def size_of(lora: LoraFile) -> int:
    """Return the size of a file in bytes; 0 where it cannot be read, which its job reports."""
    try:
        return lora.path.stat().st_size
    except OSError:
        return 0
