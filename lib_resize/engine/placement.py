"""What computes each job of a run: numpy on the CPU, or a device of torch.

A device gets the jobs that it does faster than a CPU: norms and `subspace`, whose weights are large, extraction, and
LoRAs of a rank from `LEAST_RANK` on. Where it fails, for lack of memory or of an operation, the CPU finishes the work,
unless the user named the device.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from ..errors import DeviceError
from ..linalg.arrays import Arrays, TorchArrays

NORMS, SUBSPACE, EXTRACTION, FACTORS = "norms", "subspace", "extraction", "factors"
"""Jobs. The last one is the decomposition of LoRA layers, and their new factors."""
LEAST_RANK = 64
"""The rank from which a device decomposes LoRA layers: below it most of the time goes elsewhere."""


class DeviceMemory(Protocol):
    """The program that shares its device's memory."""

    def make_room(self, bytes: int) -> None:
        """Free so much memory of the device. Never raises."""
        ...

    def tidy(self) -> None:
        """Free cached memory of the device. Never raises."""
        ...


class Placement:
    """The device of a run, if it has one. Without arguments everything is computed by numpy."""

    def __init__(
        self,
        open_device: Callable[[], TorchArrays] | None = None,
        *,
        solvers: ThreadPoolExecutor | None = None,
        workers: int = 1,
        named: bool = False,
        memory: DeviceMemory | None = None,
    ) -> None:
        """`open_device` is called at the first job for it. `solvers` are `workers` threads for small eigenproblems,
        none of which may wait for a job of the device. `named`: whether the user named the device, so that its failures
        are errors. `memory` is asked for room before the first job."""
        self._open = open_device
        self._device: TorchArrays | None = None
        self.solvers = solvers
        self.workers = workers
        self._named = named
        self._memory = memory
        self._lock = threading.RLock()
        self._one_at_a_time = threading.Lock()
        self.done: set[str] = set()
        """The jobs that the device did, or began."""
        self.device = "cpu"
        """The device that did these jobs, as torch names it."""
        self.notes: list[str] = []
        """Messages for the user about a device that failed; sentences."""

    @property
    def may_use_device(self) -> bool:
        """Whether any job may be the device's."""
        return self._open is not None

    def device_for(self, job: str, rank: int = 0) -> TorchArrays | None:
        """Return the device if it is to do a job; None for the CPU. `rank` is that of the LoRA layers."""
        if self._open is None or (job == FACTORS and rank < LEAST_RANK):
            return None
        device = self._opened()
        if device is None or not (device.has_float64 or job == NORMS):
            return None
        self.done.add(job)
        return device

    def arrays_for(self, job: str, otherwise: Arrays) -> Arrays:
        """Return the arrays for a job: those of the device, or `otherwise`."""
        return self.device_for(job) or otherwise

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the turn to use the device, so that several workers together need the memory of one."""
        if self._open is None:
            yield
            return
        with self._one_at_a_time:
            yield

    def failed(self, error: Exception) -> None:
        """Leave all further work to the CPU, and note why. Raises the error where the user named the device."""
        if self._named:
            raise error
        with self._lock:
            if self._open is not None:
                self.notes.append(f"{self.device} {failure(error)}; the CPU finished the work.")
            self._open = self._device = None
        if self._memory is not None:
            self._memory.tidy()

    def close(self) -> None:
        """Give memory of the device back."""
        if self._memory is not None and self._device is not None:
            self._memory.tidy()
        self._device = None

    def _opened(self) -> TorchArrays | None:
        with self._lock:
            if self._device is None and self._open is not None:
                try:
                    self._device = self._open()
                except DeviceError as error:
                    self.failed(error)
                    return None
                self.device = self._device.device
                if self._memory is not None:
                    self._memory.make_room(self._device.bytes)
            return self._device


def failure(error: Exception) -> str:
    """Return what a device did that raised an error of torch."""
    text = str(error)
    if "out of memory" in text.lower() or "not enough" in text.lower() or "ALLOC_FAILED" in text:
        return "ran out of memory"
    return f"failed ({text.splitlines()[0] if text else type(error).__name__})"
