"""What work is done with: arrays on a device, worker threads, and a progress display."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ..errors import UsageError
from ..linalg.arrays import Arrays, NumpyArrays, TorchArrays, loaded_device, open_arrays
from ..linalg.threads import one_blas_thread, usable_cores
from ..progress import Progress
from .placement import DeviceMemory, Placement

AUTO = "auto"
"""The device that is used for the jobs that it does faster, if there is one."""


@dataclass(frozen=True)
class Runtime:
    """The arrays, the workers and the progress display of a run."""

    arrays: Arrays
    """For single layers."""
    pool: ThreadPoolExecutor
    progress: Progress
    workers: int
    placement: Placement = field(default_factory=Placement)
    """The device for groups of layers, and for jobs that it does faster."""

    @property
    def ahead(self) -> int:
        """How many results may wait to be used."""
        return 4 * self.workers


def open_runtime(
    stack: contextlib.ExitStack,
    progress: Progress,
    *,
    device: str = "cpu",
    threads: int | None = None,
    max_vram: int | None = None,
) -> Runtime:
    """Open a device and its workers until the stack is closed.

    `device` is "cpu", a device of torch, or `AUTO`. `threads` is the number of workers on the CPU, None for one a core;
    single layers on another device have one. `max_vram` is in bytes.

    Raises DeviceError where the device cannot be used, UsageError where `max_vram` has no effect.
    """
    if device == AUTO:
        found = loaded_device()
        if found is not None:
            return assisted_runtime(stack, progress, found, threads=threads, max_vram=max_vram)
    arrays = open_arrays("cpu" if device == AUTO else device)
    if max_vram is not None:
        _limit(arrays, max_vram)
    if not isinstance(arrays, TorchArrays):
        workers = threads or usable_cores()
        return Runtime(arrays, _pool(stack, workers), progress, workers)
    cores, opened = threads or usable_cores(), arrays
    placement = Placement(lambda: opened, solvers=_pool(stack, cores), workers=cores, named=True)
    return Runtime(arrays, _pool(stack, 1), progress, 1, placement)


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

    The device is opened when the first of them begins. `memory` is the program that it is shared with.
    """

    def open_device() -> TorchArrays:
        arrays = TorchArrays(device)
        if max_vram is not None:
            arrays.limit_memory(max_vram)
        return arrays

    workers = threads or usable_cores()
    pool = _pool(stack, workers)
    placement = Placement(open_device, solvers=pool, workers=workers, memory=memory)
    stack.callback(placement.close)
    return Runtime(NumpyArrays(), pool, progress, workers, placement)


@contextlib.contextmanager
def cpu_runtime(progress: Progress, threads: int | None = None) -> Iterator[Runtime]:
    """Open workers on the CPU: decompositions of a few LoRAs are too small to be worth a device's time."""
    with contextlib.ExitStack() as stack:
        yield open_runtime(stack, progress, threads=threads)


def _pool(stack: contextlib.ExitStack, workers: int) -> ThreadPoolExecutor:
    stack.enter_context(one_blas_thread())
    pool = ThreadPoolExecutor(workers, thread_name_prefix="resize-lora")
    stack.callback(pool.shutdown, wait=True, cancel_futures=True)
    return pool


def _limit(arrays: Arrays, most_bytes: int) -> None:
    if not isinstance(arrays, TorchArrays):
        raise UsageError("--max-vram limits the memory of a GPU, but the device is cpu. Remove it, or add -d cuda.")
    arrays.limit_memory(most_bytes)
