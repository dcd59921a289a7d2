"""Measure norms of the weights in a host's memory: on the host's device where that works, else on the CPU."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

from ..base.norm_cache import NormPair
from ..base.partner_norms import NormTask, norms_of
from ..base.store import Store
from ..base.weight_reader import WeightReader
from ..base.weights import BaseWeight, Partner
from ..errors import DeviceError, LayerError
from ..linalg.arrays import NumpyArrays, TorchArrays
from ..linalg.norms import largest_singular_value
from ..progress import in_order
from .host import Host
from .memory_weights import MemoryWeights, UntrustedMemory

DEVICE_BYTES = 256 << 20
"""The most memory of the host's device that this program uses, besides the model, in bytes."""
_LARGEST_COPY = 160 << 20  # half of it more while 16 bits become 32, and the vectors of a spectral norm
_BLOCK = 1 << 22


class MemoryNorms:
    """Measures norms of weights in memory."""

    def __init__(self, host: Host, memory: MemoryWeights, store: Store, note: Callable[[str], None]) -> None:
        """`note` gets a message for the user where the device could not measure."""
        self.device = host.device()
        """The device that measures, as torch names it."""
        self._host = host
        self._memory = memory
        self._cpu_reader = WeightReader(store, memory.matrix)
        self._note = note

    def measure(self, missing: list[Partner], task: NormTask) -> list[NormPair]:
        """Measure the norms of each weight: one after the other on a device, with two workers on the CPU.

        Raises `UntrustedMemory`.
        """

        def measure(one: Partner) -> NormPair:
            return self._norms_of(one, task.spectral)

        task.progress.start("read base", len(missing))
        found = []
        with self._device_memory():
            on_cpu = self.device == "cpu"
            for norms in in_order(task.pool, measure, missing, ahead=2) if on_cpu else map(measure, missing):
                found.append(norms)
                task.progress.step()
        return found

    @contextlib.contextmanager
    def _device_memory(self) -> Iterator[None]:
        """Make the host free memory of its device first, and free the cached memory at the end."""
        if self.device == "cpu":
            yield
            return
        with self._host.lock():
            self._host.make_room(DEVICE_BYTES)
        try:
            yield
        finally:
            self._host.tidy()

    def _norms_of(self, one: Partner, spectral: bool) -> NormPair:
        """Only whole, stored weights are measured on the device; joined and cut ones on the CPU."""
        is_stored = len(one.parts) == 1 and one.width is None
        norms = self._on_device(one.parts[0], spectral) if is_stored and self._fits_device(one.parts[0]) else None
        if norms is not None:
            return norms
        try:
            return norms_of(self._cpu_reader, one, spectral=spectral, arrays=NumpyArrays())
        except LayerError as error:
            raise UntrustedMemory(f"{one.key} holds NaN or infinite values in memory") from error

    def _fits_device(self, weight: BaseWeight) -> bool:
        return self.device != "cpu" and 4 * math.prod(weight.shape) <= _LARGEST_COPY

    def _on_device(self, weight: BaseWeight, spectral: bool) -> NormPair | None:
        """Measure on the device. None where it lacks memory or an operation; the CPU measures from then on."""
        try:
            with self._memory.exclusive():
                tensor = self._memory.tensor(weight, self.device).reshape(weight.shape[0], -1)
                fro = _finite(_frobenius(tensor), weight)
                return fro, _spectral(tensor, self.device) if spectral else None
        except (RuntimeError, DeviceError) as error:
            reason = _reason(error)
        self._host.tidy()
        self._note(f"{self.device} {reason}; the CPU finished the work.")
        self.device = "cpu"
        return None


def _finite(fro: float, weight: BaseWeight) -> float:
    if not math.isfinite(fro):
        raise UntrustedMemory(f"{weight.key} holds NaN or infinite values in memory")
    return fro


def _frobenius(tensor: Any) -> float:
    """Return ``||W||_F``: blocks are summed in float32 on the device, their sums in float64."""
    return math.sqrt(sum(float(block @ block) for block in tensor.reshape(-1).split(_BLOCK)))


def _spectral(tensor: Any, device: str) -> float:
    return largest_singular_value(tensor, TorchArrays(device))


def _reason(error: Exception) -> str:
    text = str(error)
    if "out of memory" in text.lower() or "not enough" in text.lower() or "ALLOC_FAILED" in text:
        return "ran out of memory"
    return f"failed ({text.splitlines()[0] if text else type(error).__name__})"
