"""The work of an order by the workers of Dask distributed: the only module that imports it."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..errors import ResizeError, UsageError
from ..linalg.threads import usable_cores
from .driver import Done
from .order import Order, WorkItem, key_of
from .unit import Line, Worker

WINDOW = 4
"""Files in flight for each worker thread: the next ones wait at the worker, and memory is bounded."""
CONNECT_SECONDS = 30
_LOCAL_CONFIG = {
    # Without Dask's MALLOC_TRIM_THRESHOLD_, with which memory goes back to the system after each layer.
    "distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": 1, "MKL_NUM_THREADS": 1, "OPENBLAS_NUM_THREADS": 1},
    "distributed.worker.profile.enabled": False,
    # Local workers are started again when they die. Dask closes one for good if it is away 15 s after any death.
    "distributed.deploy.lost-worker-timeout": "365 days",
}
"""Settings for local workers: the defaults cost CPU time that the plain command does not need, and lose workers."""
_COUNT_EVERY = 5.0  # seconds
_KILLED = "KilledWorker"
"""Name of Dask's error for a file that it gave up because workers died that had it."""
_ALONE = "-alone"
"""End of the key of a file that is tried with nothing else in flight."""

Work = Callable[[WorkItem, Order], Line]


class ClusterLostError(ResizeError):
    """The scheduler ended, or cannot be reached any more."""


def do(item: WorkItem, order: Order) -> Line:
    """Do one piece of work in a worker process."""
    return _worker(order).do(item)


_LOCK = threading.Lock()
_workers: dict[str, Worker] = {}


def _worker(order: Order) -> Worker:
    """Return the worker of an order. A process keeps the last one, with its base model."""
    name = repr(order)
    with _LOCK:
        if name not in _workers:
            _workers.clear()
            _workers[name] = Worker(order)
        return _workers[name]


def by_dask(address: str, items: Iterable[WorkItem], order: Order, *, work: Work = do) -> Iterator[Done]:
    """Do the work on a cluster: ``local``, ``local:N`` processes, or the address of a scheduler. See `driver.Workers`.

    Raises UsageError where the cluster cannot be used, and ClusterLostError where it ends before the work.
    """
    with _client(address) as client:
        yield from _Flow(client, iter(items), order, work).lines()


class _Flow:
    """Keeps a bounded number of files in flight.

    Dask counts the death of a worker against every file that was sent to it. A file counted out is a suspect: it is
    tried again with nothing else in flight, and named only if its workers die then too.
    """

    def __init__(self, client: Any, items: Iterator[WorkItem], order: Order, work: Work) -> None:
        from distributed import as_completed

        self._client = client
        self._items = items
        self._order = order
        self._work = work
        self._run = uuid.uuid4().hex[:8]
        self._flying: dict[str, WorkItem] = {}
        self._suspects: list[WorkItem] = []
        self._window = 0
        self._count_at = 0.0
        self._stream = as_completed()

    def lines(self) -> Iterator[Done]:
        try:
            self._fill()
            while self._flying:
                future = next(self._stream)
                if future.status in ("lost", "pending"):  # its worker died after the work, which is done again
                    self._stream.add(future)
                    continue
                item = self._flying.pop(future.key)
                line = self._line(future, item)
                future.release()
                is_suspect = line.get("kind") == _KILLED and not future.key.endswith(_ALONE)
                if is_suspect:
                    self._suspects.append(item)
                self._fill()
                if not is_suspect:
                    yield item, line
        finally:
            with contextlib.suppress(Exception):  # of a connection that is lost
                self._client.cancel(list(self._stream.futures), force=True)

    def _fill(self) -> None:
        """Submit files until the window is full, or one suspect once it is empty. Workers may join and leave."""
        if self._suspects:
            if not self._flying:
                self._submit(self._suspects.pop(), _ALONE)
            return
        if time.monotonic() >= self._count_at:
            self._window = WINDOW * max(1, sum(self._client.nthreads().values()))
            self._count_at = time.monotonic() + _COUNT_EVERY
        while len(self._flying) < self._window and (item := next(self._items, None)) is not None:
            self._submit(item)

    def _submit(self, item: WorkItem, suffix: str = "") -> None:
        """Submit a file under a key that Dask has not seen."""
        key = f"resize-lora-{self._run}-{key_of(item, self._order)}{suffix}"
        self._flying[key] = item
        self._stream.add(self._client.submit(self._work, item, self._order, key=key, pure=False))

    def _line(self, future: Any, item: WorkItem) -> Line:
        if future.status == "finished":
            try:
                line: Line = future.result()
            except OSError as lost:  # the connection, and not the work, whose faults are in its line
                raise ClusterLostError(f"the scheduler cannot be reached: {lost}. The same command goes on.") from lost
            return line
        if future.status != "error":
            raise ClusterLostError(
                f"the scheduler no longer knows {item.url} ({future.status}): it was stopped or started again. "
                "The same command goes on."
            )
        error = future.exception()
        kind = type(error).__name__
        text = f"{kind}: {error}"
        if kind == _KILLED:
            text = "killed the workers that tried it. Is it too large for their memory?"
        return {"key": key_of(item, self._order), "source": item.url, "error": f"{item.url}: {text}", "kind": kind}


@contextlib.contextmanager
def _client(address: str) -> Iterator[Any]:
    """Connect to a scheduler, or start one here with its workers."""
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise UsageError(
            f"--cluster {address} needs the library distributed, which is not installed: "
            'pip install "resize-lora[cluster]".'
        ) from error
    if address == "local" or address.startswith("local:"):
        import dask

        with (
            _quiet(),
            dask.config.set(_LOCAL_CONFIG),
            LocalCluster(
                n_workers=_count(address),
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",  # None would be port 8787, and a warning where it is in use
                scheduler_kwargs={"dashboard": False},
                memory_limit=0,
                preload=[f"{__package__}.dask_preload"],
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client
        return
    with _quiet():
        try:
            client = Client(address, timeout=CONNECT_SECONDS)
        except (OSError, ValueError) as error:
            raise UsageError(f"--cluster {address}: no scheduler answers there: {error}") from error
        with client:
            yield client


def _count(address: str) -> int:
    number = address.partition(":")[2]
    if not number:
        return usable_cores()
    if not number.isdecimal() or not 1 <= int(number) <= 1024:
        raise UsageError(
            f"--cluster {address}: expected local, local:4 or the address of a scheduler, tcp://host:8786."
        )
    return int(number)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's own messages, about workers and connections that end, out of the terminal."""
    names = [name for name in logging.Logger.manager.loggerDict if name.split(".")[0] in ("distributed", "tornado")]
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
