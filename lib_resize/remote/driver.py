"""The run over all files: which of them this process does, by which workers, and what comes of it.

Memory grows by some hundred bytes a file: the list of files, and the keys of those that are done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ..base.norms_file import is_norms_file, norms_identity
from ..base.store import open_store
from ..errors import UsageError
from .listing import check_names
from .manifest import Manifest, RunSums, done_keys, run_name
from .order import Order, OrderBase, WorkItem, key_of, shard_of
from .stores import STATE, is_url, open_place
from .unit import Line, Worker

Done = tuple[WorkItem, Line]
Workers = Callable[[Iterable[WorkItem], Order], Iterator[Done]]
"""Does the work of an order on some files, in any order, with a bounded number of them in flight."""


def alone(items: Iterable[WorkItem], order: Order) -> Iterator[Done]:
    """Do the work in this process, one file after the other. See `Workers`."""
    worker = Worker(order)
    try:
        for item in items:
            yield item, worker.do(item)
    finally:
        worker.close()


@dataclass
class Run:
    """A run over files, and how far it came."""

    order: Order
    items: Sequence[WorkItem]
    """The files of this process."""
    tally: RunSums = field(default_factory=RunSums)
    total_bytes: int = 0
    """Size of all `items`."""
    bytes_done: int = 0
    bytes_skipped: int = 0
    """The part of `bytes_done` that was done before this run."""
    started: float = field(default_factory=time.monotonic)

    def go(self, workers: Workers) -> Iterator[Line]:
        """Do all that is not done, and yield a line for each file that was not known to be done at the start.

        The manifest is written when the run ends, also when it is stopped.
        """
        done = done_keys(self.order.output)
        with Manifest(open_place(self.order.output), run_name()) as manifest:
            for item, line in workers(self._left(done), self.order):
                self.tally.add(line)
                self._advance(item, skipped=bool(line.get("skipped")))
                manifest.add(line)
                yield line

    def _left(self, done: set[bytes]) -> Iterator[WorkItem]:
        for item in self.items:
            if done and bytes.fromhex(key_of(item, self.order)) in done:
                self.tally.files += 1
                self.tally.skipped += 1
                self._advance(item, skipped=True)
            else:
                yield item

    def _advance(self, item: WorkItem, *, skipped: bool) -> None:
        self.bytes_done += item.size
        self.bytes_skipped += item.size if skipped else 0

    @property
    def seconds_left(self) -> float | None:
        """Return the time that the rest needs at the speed so far; None where nothing was done yet."""
        worked = self.bytes_done - self.bytes_skipped
        if worked <= 0:
            return None
        return (time.monotonic() - self.started) * (self.total_bytes - self.bytes_done) / worked


def planned(order: Order, items: Sequence[WorkItem], shard: tuple[int, int] = (0, 1)) -> Run:
    """Return a run over one shard (number from 0, of how many) of all files.

    Raises UsageError where names clash, in any shard.
    """
    check_names(items, order)
    number, shards = shard
    own = [item for item in items if shard_of(item, shards) == number] if shards > 1 else items
    return Run(order, own, total_bytes=sum(item.size for item in own))


def base_of(source: str, output: str) -> OrderBase:
    """Return the base model of an order. Norms are copied into the output, from where workers get them.

    Raises what `open_store` raises, and UsageError where a URL has no file.
    """
    if is_url(source):
        folder, _, name = source.rpartition("/")
        place = open_place(folder)
        found = place.find(name)
        if found is None:
            raise UsageError(f"--base {source}: there is no such file.")
        if not is_norms_file(name):
            return OrderBase(source, f"{source} {found.tag}")
        return _norms(place.read(name), source, output)
    path = open_place(source).folder
    assert path is not None
    if is_norms_file(path.name):
        return _norms(path.read_bytes(), source, output)
    store = open_store(path)
    try:
        return OrderBase(str(path), store.fingerprint())
    finally:
        store.close()


def _norms(data: bytes, source: str, output: str) -> OrderBase:
    identity = norms_identity(data, source)
    name = f"{STATE}/base/{identity[:32]}.json"
    place = open_place(output)
    if place.find(name) is None:
        place.write(name, data)
    return OrderBase(name, identity, norms_only=True)
