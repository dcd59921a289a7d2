"""Measure norms of the weights in a host's memory: on the host's device where that works, else on the CPU."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

from ..base.norm_cache import NormPair
from ..base.partner_norms import NormTask, norms_of
from ..base.store import Store
from ..base.weight_reader import WeightReader
from ..base.weights import Partner
from ..engine.placement import failure
from ..errors import DeviceError, LayerError
from ..linalg.arrays import DEVICE_BYTES, NumpyArrays, TorchArrays
from ..linalg.device_norms import norms_of_stack, stacks_of
from ..progress import in_order
from .host import Host
from .memory_weights import MemoryWeights, UntrustedMemory

_LARGEST_COPY = 160 << 20
"""Bytes of the largest float32 copy on a device: half of it more while 16 bits become 32, and the vectors of a spectral
norm."""


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
        """Measure the norms of each weight: in groups on a device, what is left with two workers on the CPU.

        Only whole, stored weights are measured on the device; joined and cut ones on the CPU. Raises `UntrustedMemory`.
        """

        def measure(i: int) -> NormPair:
            return self._on_cpu(missing[i], task.spectral)

        task.progress.start("read base", len(missing))
        found: dict[int, NormPair] = {}
        with self._device_memory():
            if self.device != "cpu":
                for group in self._on_device(missing, task.spectral):
                    found.update(group)
                    task.progress.step(len(group))
            left = [i for i in range(len(missing)) if i not in found]
            for i, norms in zip(left, in_order(task.pool, measure, left, ahead=2), strict=True):
                found[i] = norms
                task.progress.step()
        return [found[i] for i in range(len(missing))]

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

    def _on_cpu(self, one: Partner, spectral: bool) -> NormPair:
        try:
            return norms_of(self._cpu_reader, one, spectral=spectral, arrays=NumpyArrays())
        except LayerError as error:
            raise _not_finite(one.key) from error

    def _on_device(self, missing: list[Partner], spectral: bool) -> Iterator[dict[int, NormPair]]:
        """Yield what the device measured, by place in the list. Where it lacks memory or an operation, nothing more
        comes, and the CPU measures from then on."""
        chosen = [i for i, one in enumerate(missing) if _fits_device(one)]
        try:
            arrays = TorchArrays(self.device)
            for places in stacks_of([_matrix(missing[i]) for i in chosen], arrays):
                group = [chosen[place] for place in places]
                yield dict(zip(group, self._norms_of([missing[i] for i in group], arrays, spectral), strict=True))
            return
        except (RuntimeError, DeviceError) as error:
            reason = failure(error)
        self._host.tidy()
        self._note(f"{self.device} {reason}; the CPU finished the work.")
        self.device = "cpu"

    def _norms_of(self, group: list[Partner], arrays: TorchArrays, spectral: bool) -> list[NormPair]:
        """Measure weights of one shape together. The host waits for the few milliseconds that this takes."""
        with self._memory.exclusive():
            copies = [
                self._memory.tensor(one.parts[0], self.device).reshape(one.parts[0].shape[0], -1) for one in group
            ]
            stack = copies[0][None] if len(copies) == 1 else arrays.torch.stack(copies)
            del copies
            norms = norms_of_stack(stack, arrays, spectral=spectral)
        for one, (fro, _) in zip(group, norms, strict=True):
            if not math.isfinite(fro):
                raise _not_finite(one.key)
        return norms


def _fits_device(one: Partner) -> bool:
    return len(one.parts) == 1 and one.width is None and 4 * math.prod(one.parts[0].shape) <= _LARGEST_COPY


def _matrix(one: Partner) -> tuple[int, int]:
    shape = one.parts[0].shape
    return shape[0], math.prod(shape[1:])


def _not_finite(key: str) -> UntrustedMemory:
    return UntrustedMemory(f"{key} holds NaN or infinite values in memory")
