"""Sizes of all LoRAs by preset, estimated from samples of their layers while nothing else is to be done."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..engine.runtime import cpu_runtime
from ..hosts.host import Host
from ..studies.catalogue import Stamp
from ..studies.survey import estimated_entry
from ..studies.survey_store import SurveyStore
from .archives import Archives, plain
from .jobs import JobSpec
from .library import Library, ListedFile
from .preferences import read_preferences
from .protocol.types import Json
from .queue import Handle, Queue
from .snapshot import HostLists


@dataclass
class _Work:
    """What a job has done so far; it gives way to every other job and goes on later."""

    files: Sequence[ListedFile]
    known: int = 0
    done: int = 0
    bytes: int = 0
    """Of the files that are done."""
    estimated: int = 0
    failed: int = 0

    def to_json(self) -> Json:
        """Return the `Estimates` of the protocol."""
        return {"files": self.estimated, "known": self.known, "failed": self.failed}


@dataclass
class Estimates:
    """The estimates of a host's LoRAs. Every method may be called from any thread."""

    host: Host
    library: Library
    queue: Queue
    archives: Archives
    _tried: set[tuple[Path, Stamp]] = field(default_factory=set)
    _job: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, files: Sequence[ListedFile]) -> str:
        """Add the job for these files; return its id. Raises Fault."""
        todo = self._open(files)
        failed = sum(one.facts.problem is not None for one in files)
        return self._add(_Work(todo, known=len(files) - len(todo) - failed, failed=failed))

    def _add(self, work: _Work) -> str:
        todo = work.files
        spec = JobSpec(
            kind="estimate",
            title=f"Estimate {todo[0].lora.name}" if len(todo) == 1 else f"Estimate {len(todo)} LoRAs",
            run=lambda handle: self._all(work, handle),
            name=todo[0].lora.name if todo else "",
            files=max(1, len(todo)),
            bytes=sum(one.stamp[0] for one in todo),
            background=True,
            idle=True,
        )
        return self.queue.add(spec) if todo else self.queue.add_done(spec, work.to_json())

    def start_if_due(self, lists: HostLists) -> None:
        """Estimate what is not known yet, once all headers are read and where the user wants it."""
        if not self.library.is_complete() or not read_preferences(lists.settings()).estimate:
            return
        with self._lock:
            if self._job and self.queue.knows(self._job, active=True):
                return
            files = self.library.listed(lists).values()
            due = self._open(one for one in files if (one.lora.path, one.stamp) not in self._tried)
            if due:
                self._job = self._add(_Work(due))

    def _open(self, files: Iterable[ListedFile]) -> list[ListedFile]:
        """Return the files of unknown size that can be estimated; those that replaced their originals are left out."""
        unknown = [file for file in files if file.predicted is None and file.facts.problem is None]
        replaced = self.archives.by_home() if unknown else {}
        return [file for file in unknown if plain(file.lora.path) not in replaced]

    def _all(self, work: _Work, handle: Handle) -> Json:
        store = SurveyStore(self.library.cache)
        total = sum(one.stamp[0] for one in work.files) or 1
        try:
            while work.done < len(work.files):
                file = work.files[work.done]
                handle.give_way()
                handle.wait_for_host()
                handle.file(work.done + 1, file.lora.name)
                handle.portion(work.bytes / total, file.stamp[0] / total)
                self._one(work, file, store, handle)
                work.done, work.bytes = work.done + 1, work.bytes + file.stamp[0]
        finally:
            with contextlib.suppress(Exception):  # it saves time, and nothing depends on it
                store.save()
        return work.to_json()

    def _one(self, work: _Work, file: ListedFile, store: SurveyStore, handle: Handle) -> None:
        self._tried.add((file.lora.path, file.stamp))
        with cpu_runtime(handle) as tools:
            entry = estimated_entry(file.lora.path, store, tools)
        if entry.figures is None:
            work.failed += 1
            return
        work.estimated += 1
        self.library.predict(file.lora, entry.stamp, dict(entry.figures.presets), estimated=not entry.figures.exact)
