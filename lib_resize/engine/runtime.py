"""What work is done with: arrays on a device, worker threads, and a progress display."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ..errors import UsageError
from ..linalg.arrays import Arrays, TorchArrays, open_arrays
from ..linalg.threads import one_blas_thread, usable_cores
from ..progress import Progress


@dataclass(frozen=True)
class Runtime:
    """The arrays, the workers and the progress display of a run."""

    arrays: Arrays
    pool: ThreadPoolExecutor
    progress: Progress
    workers: int

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

    `threads` is the number of workers on the CPU, None for one a core; other devices have one. `max_vram` is in bytes.

    Raises DeviceError where the device cannot be used, UsageError where `max_vram` has no effect.
    """
    arrays = open_arrays(device)
    if max_vram is not None:
        _limit(arrays, max_vram)
    workers = (threads or usable_cores()) if device == "cpu" else 1
    stack.enter_context(one_blas_thread())
    pool = ThreadPoolExecutor(workers, thread_name_prefix="resize-lora")
    stack.callback(pool.shutdown, wait=True, cancel_futures=True)
    return Runtime(arrays, pool, progress, workers)


@contextlib.contextmanager
def cpu_runtime(progress: Progress, threads: int | None = None) -> Iterator[Runtime]:
    """Open workers on the CPU: decompositions of a few LoRAs are too small to be worth a device's time."""
    with contextlib.ExitStack() as stack:
        yield open_runtime(stack, progress, threads=threads)


def _limit(arrays: Arrays, most_bytes: int) -> None:
    if not isinstance(arrays, TorchArrays):
        raise UsageError("--max-vram limits the memory of a GPU, but the device is cpu. Remove it, or add -d cuda.")
    arrays.limit_memory(most_bytes)
