"""The unit of work: one LoRA file, from its store to its results and its marker. No engine of a cluster is in it.

Look for the marker, fetch, resize in a private folder, publish, write the marker. Any number of workers may do the
same piece of work, one after the other or at once, and die at any point: the results have the same names and bytes,
and the marker comes after them.
"""

from __future__ import annotations

import filecmp
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import __version__
from ..adapters.write.style import Style
from ..engine.batch import resize
from ..engine.settings import Outcome, Settings
from ..engine.sidecar_facts import facts_of
from ..errors import (
    DamagedFileError,
    InternalError,
    LayerError,
    OutputError,
    PairingError,
    ResizeError,
    UnsupportedError,
    UsageError,
)
from ..files import private_folders
from ..files.alike import Layouts
from ..files.header import read_header
from ..files.metadata import has_resize_record
from ..files.sidecars import SidecarFacts, copy_sidecars
from ..prompts.sources import Member, Source
from .bases import BaseHolder
from .order import Order, WorkItem, failed_name, key_of, marker_name
from .stores import STATE, StoreError, StorePlace, joined, open_place

Line = dict[str, Any]
"""What became of one file, as JSON values: see `Worker.do`."""

OUTCOMES = (DamagedFileError, UnsupportedError, LayerError, PairingError)
"""Errors that come from the content of a file: they get a marker, and are not tried again."""
LASTING = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)
"""Faults that are not tried again in this run, and get no marker."""


class UnfinishedError(ResizeError):
    """A file could not be done, for a reason that is not in it; it gets no marker."""


@dataclass
class _Scratch:
    """Private folders for one file."""

    stack: ExitStack
    results: Path
    fetched: Path | None = None
    """Made when it is needed: a local source is read where it is."""


@dataclass
class _Clock:
    """Seconds of each stage: look, get, work, put."""

    seconds: dict[str, float] = field(default_factory=dict)
    _start: float = field(default_factory=time.perf_counter)

    def stop(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + now - self._start, 4)
        self._start = now


class Worker:
    """Does pieces of work for one order. Threads may share it."""

    def __init__(
        self,
        order: Order,
        places: Callable[[str], StorePlace] = open_place,
        *,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """`places` opens a place by its URL; `pause` waits some seconds before the next try."""
        self.order = order
        self._places = places
        self._pause = pause
        self.output = places(order.output)
        self._base = BaseHolder(order.base, self.output, places)
        self._layouts = Layouts()
        self._temporary = self._swept(Path(tempfile.gettempdir(), f"resize-lora-{_user()}"))
        state = self.output.folder and self.output.folder / STATE / "tmp"
        self._own_temporary = self._temporary if state is None else self._swept(state)

    @staticmethod
    def _swept(folder: Path) -> Path:
        """Remove from a folder for temporary files what killed processes left there."""
        private_folders.sweep(folder)
        return folder

    def close(self) -> None:
        """Close the base model. Later work opens it again."""
        self._base.close()

    def do(self, item: WorkItem) -> Line:
        """Do one piece of work, and return what became of it.

        The line of the marker has key, source, tag, results, seconds and host. ``skipped`` is set where the work was
        done before. A file that could not be done has ``error`` and ``kind`` instead, and no marker. Raises nothing
        but what stops the process.
        """
        key = key_of(item, self.order)
        for tries in range(self.order.retries + 1):
            try:
                return self._once(item, key)
            except LASTING as error:
                return _failure(item, key, error)
            except (OSError, MemoryError) as error:
                if tries == self.order.retries:
                    return _failure(item, key, error)
                self._pause(min(30.0, 2.0**tries))
            except Exception as error:
                return _failure(item, key, error)
        raise AssertionError("unreachable")

    def _once(self, item: WorkItem, key: str) -> Line:
        if self.order.version != __version__:
            raise UnfinishedError(f"this worker has resize-lora {__version__}, the order is of {self.order.version}.")
        clock = _Clock()
        known = self._known(key)
        clock.stop("look")
        if known is not None:
            return {**known, "skipped": True}
        with ExitStack() as stack:
            made = stack.enter_context(private_folders.create([self._own_temporary])).path
            scratch = _Scratch(stack, made / "results")
            local = self._brought(item, scratch)
            clock.stop("get")
            results = [self._stored(item, local, outcome) for outcome in self._resized(item, local, scratch, clock)]
            clock.stop("put")
        line = {
            "key": key,
            "source": item.url,
            "tag": item.tag,
            "results": results,
            "seconds": clock.seconds,
            "host": platform.node(),
        }
        if any("kind" in one for one in results):
            self.output.write(failed_name(key), b"{}")
        self.output.write(marker_name(key), json.dumps(line).encode())
        return line

    def _known(self, key: str) -> Line | None:
        """Return the line of earlier work; None where there is none, or where its marker is damaged."""
        try:
            line = json.loads(self.output.read(marker_name(key)))
        except (FileNotFoundError, ValueError):
            return None
        return line if isinstance(line, dict) and line.get("key") == key else None

    def _brought(self, item: WorkItem, scratch: _Scratch) -> Path:
        """Return a local path of the source, with its sidecars next to it."""
        place = self._places(item.place)
        if place.folder is not None:
            return place.folder / item.name
        scratch.fetched = scratch.stack.enter_context(private_folders.create([self._temporary])).path
        local = scratch.fetched / item.name.rpartition("/")[2]
        place.fetch(item.name, local)
        if local.stat().st_size != item.size:
            raise StoreError(f"{item.url}: {local.stat().st_size} of {item.size} bytes were received.")
        for name in item.sidecars if self.order.sidecars else ():
            place.fetch(name, scratch.fetched / name.rpartition("/")[2])
        return local

    def _resized(self, item: WorkItem, local: Path, scratch: _Scratch, clock: _Clock) -> Iterator[Outcome]:
        order = self.order
        settings = Settings(
            recipes=order.recipes,
            output=scratch.results,
            base=self._base.opened(),
            style=Style(order.dtype, order.kohya, order.convert),
            suffix=order.suffix,
            threads=order.threads,
            sidecars=False,
        )
        for outcome in resize([Source((Member(local),), found=item.found)], settings, layouts=self._layouts):
            clock.stop("work")
            _check(outcome, item, local)
            yield outcome
            clock.stop("put")

    def _stored(self, item: WorkItem, local: Path, outcome: Outcome) -> Line:
        """Publish one result with its sidecars, and return its part of the line."""
        if outcome.error is not None:
            return {"error": _without_path(outcome.error, local, item), "kind": type(outcome.error).__name__}
        plan = outcome.plan
        if plan is None:
            return {"skipped": "already a result"}
        made = Path(plan.output)
        name = joined(item.below, made.name)
        is_there, replaced = self._earlier(item, made, name)
        copies = self._sidecars(item, local, made, replaced)
        if not is_there:
            self.output.publish(made, name)
        for copy in copies:
            self.output.publish(copy, joined(item.below, copy.name))
        return {
            "output": joined(self.output.url, name),
            "recipe": plan.recipe,
            "threshold": plan.threshold,
            "retention": plan.retention,
            "bytes_before": plan.bytes_before,
            "bytes_after": plan.bytes_after,
            "notes": list(plan.notes),
            "layers": len(plan.layers),
            "dropped": len(plan.dropped),
            "sidecars": [copy.name for copy in copies],
        }

    def _earlier(self, item: WorkItem, made: Path, name: str) -> tuple[bool, SidecarFacts | None]:
        """Return whether the result is there already, and the facts of the one that it replaces.

        Raises OutputError where another file has the name.
        """
        if self.output.find(name) is None:
            return False, None
        with tempfile.TemporaryDirectory(dir=made.parent) as folder:
            old = Path(folder, made.name)
            self.output.fetch(name, old)
            if filecmp.cmp(old, made, shallow=False):
                return True, None
            self._check_replaced(old, name)
            return False, self._sidecar_facts(item, old)

    def _check_replaced(self, old: Path, name: str) -> None:
        whole = joined(self.output.url, name)
        if not self.order.overwrite:
            raise OutputError(
                f"{whole}: another file of this name exists. Choose another folder, or allow --overwrite."
            )
        try:
            ours = has_resize_record(read_header(old).metadata)
        except ResizeError:
            ours = False
        if not ours:
            raise OutputError(f"{whole}: this file is not a result of Resize LoRA, so it is not replaced.")

    def _sidecar_facts(self, item: WorkItem, made: Path) -> SidecarFacts:
        """Return facts that do not depend on time and machine, so that all workers write the same bytes."""
        found = facts_of(made)
        return SidecarFacts(found.bytes, found.sha256, modified=0.0, folder=joined(self.output.url, item.below))

    def _sidecars(self, item: WorkItem, local: Path, made: Path, replaced: SidecarFacts | None) -> list[Path]:
        """Make the sidecars of a result next to it, and return those that are to be published."""
        if not (item.sidecars and self.order.sidecars):
            return []
        facts = self._sidecar_facts(item, made)
        for name in self.output.names(joined(item.below, f"{made.stem}.")):
            if not name.endswith(made.suffix):
                self.output.fetch(name, made.with_name(name.rpartition("/")[2]))
        return copy_sidecars(local, made, facts=facts, replaced=replaced)


def _check(outcome: Outcome, item: WorkItem, local: Path) -> None:
    """Raise an error of an outcome that is not the file's own."""
    error = outcome.error
    if error is None or isinstance(error, OUTCOMES):
        return
    text = _without_path(error, local, item)
    if isinstance(error, (InternalError, UsageError)):
        raise UnfinishedError(text)
    raise StoreError(text) from error  # reading, scratch space or memory failed


def _without_path(error: Exception, local: Path, item: WorkItem) -> str:
    return str(error).replace(str(local), item.url)


def _failure(item: WorkItem, key: str, error: BaseException) -> Line:
    text = str(error) or type(error).__name__
    kind = type(error.__cause__ if isinstance(error, StoreError) and error.__cause__ else error).__name__
    return {"key": key, "source": item.url, "error": text if item.url in text else f"{item.url}: {text}", "kind": kind}


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else "user"
