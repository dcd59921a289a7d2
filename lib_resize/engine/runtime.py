"""What work is done with: arrays, worker threads, a device, and a progress display."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ..errors import UsageError
from ..linalg.arrays import AUTO, Arrays, NumpyArrays, TorchArrays, found_device, open_arrays
from ..linalg.threads import one_blas_thread, usable_cores
from ..progress import Progress
from ..shared_setting import seldom_collected
from .placement import DeviceMemory, Placement


@dataclass(frozen=True)
class Runtime:
    """The arrays, the workers and the progress display of a run."""

    arrays: Arrays
    """For single layers: those of the CPU."""
    pool: ThreadPoolExecutor
    progress: Progress
    workers: int
    placement: Placement = field(default_factory=Placement)
    """The device, if there is one, and its jobs."""

    @property
    def ahead(self) -> int:
        """How many results may wait to be used."""
        return 4 * self.workers


def open_runtime(
    stack: contextlib.ExitStack,
    progress: Progress,
    *,
    device: str | None = None,
    threads: int | None = None,
    max_vram: int | None = None,
) -> Runtime:
    """Open workers on the CPU until the stack is closed, and a device for the jobs that it does faster.

    `device` is "cpu", a device of torch, or `AUTO`. None is `AUTO` if this process has loaded torch already, and else
    "cpu". `threads` is the number of workers, None for one a core. `max_vram` is in bytes.

    Raises DeviceError where a named device cannot be used, UsageError where `max_vram` has no effect.
    """
    if device is None or device == AUTO:
        found = found_device(load=device == AUTO)
        if found is not None:
            return assisted_runtime(stack, progress, found, threads=threads, max_vram=max_vram)
        device = "cpu"
    arrays = open_arrays(device)
    if max_vram is not None:
        _limit(arrays, max_vram)
    if isinstance(arrays, TorchArrays):
        return _with_device(stack, progress, lambda: arrays, threads, named=True)
    workers = threads or usable_cores()
    return Runtime(arrays, _pool(stack, workers), progress, workers)


def assisted_runtime(
    stack: contextlib.ExitStack,
    progress: Progress,
    device: str,
    *,
    threads: int | None = None,
    max_vram: int | None = None,
    memory: DeviceMemory | None = None,
) -> Runtime:
    """Open workers on the CPU, and a device of torch for the jobs that it does faster; see `placement`.

    The device is opened when the first of them begins. Where it fails, the CPU works. `memory` is the program that it
    is shared with.
    """

    def open_device() -> TorchArrays:
        arrays = TorchArrays(device)
        if max_vram is not None:
            arrays.limit_memory(max_vram)
        return arrays

    return _with_device(stack, progress, open_device, threads, memory=memory)


def _with_device(
    stack: contextlib.ExitStack,
    progress: Progress,
    open_device: Callable[[], TorchArrays],
    threads: int | None,
    *,
    named: bool = False,
    memory: DeviceMemory | None = None,
) -> Runtime:
    workers = threads or usable_cores()
    pool = _pool(stack, workers)
    placement = Placement(open_device, solvers=pool, workers=workers, named=named, memory=memory)
    stack.callback(placement.close)
    return Runtime(NumpyArrays(), pool, progress, workers, placement)


@contextlib.contextmanager
def cpu_runtime(progress: Progress, threads: int | None = None) -> Iterator[Runtime]:
    """Open workers on the CPU: decompositions of a few LoRAs are too small to be worth a device's time."""
    with contextlib.ExitStack() as stack:
        yield open_runtime(stack, progress, device="cpu", threads=threads)


def _pool(stack: contextlib.ExitStack, workers: int) -> ThreadPoolExecutor:
    stack.enter_context(one_blas_thread())
    stack.enter_context(seldom_collected())
    pool = ThreadPoolExecutor(workers, thread_name_prefix="resize-lora")
    stack.callback(pool.shutdown, wait=True, cancel_futures=True)
    return pool


def _limit(arrays: Arrays, most_bytes: int) -> None:
    if not isinstance(arrays, TorchArrays):
        raise UsageError("--max-vram limits the memory of a GPU, but the device is cpu. Remove it, or add -d cuda.")
    arrays.limit_memory(most_bytes)
