"""Read single weights of the model in a host's memory, each checked against a sample of its file. Never writes."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..base.store import Store
from ..base.weights import BaseWeight
from ..linalg.casts import Single, singles
from ..linalg.factor import Stored
from .host import Host, LoadedModel
from .keys import host_key

_SAMPLE = 512
_ROUNDING = {"F64": 2.0**-22, "F32": 2.0**-22, "F16": 2.0**-10}
"""dtype in memory -> the relative difference that rounding may cause: twice a half unit in the last place. BF16 is too
coarse: norms would not agree with those of the file to 1e-4."""
_SMALLEST = 2.0**-24  # the smallest number of F16


class UntrustedMemory(Exception):  # noqa: N818 - a reason to read the file instead, not an error
    """The weights in memory are not known to be those of the file. The text gives the reason."""


Compare = Callable[[BaseWeight, Any, str], None]
"""A function that gets a weight, its float32 tensor and its dtype in memory, and raises `UntrustedMemory` where the
tensor is not that of the file."""


class MemoryWeights:
    """The weights of a loaded model as float32 copies."""

    def __init__(self, host: Host, loaded: LoadedModel, prefix: str, compare: Compare | None) -> None:
        """`prefix` is that of the checkpoint's denoiser (see `Checkpoint.prefix`); without `compare`, no weight is
        compared with a file."""
        self._host, self._loaded = host, loaded
        self._prefix = prefix
        self._compare = compare
        self._reading = threading.Lock()

    def matrix(self, weight: BaseWeight) -> Stored:
        """Read a weight as a float32 matrix (rows, columns). Raises `UntrustedMemory`."""
        with self.exclusive():
            values: Single = self.tensor(weight, "cpu").reshape(weight.shape[0], -1).numpy()
        return Stored(values, "F32")

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the host's lock, for one of the readers at a time; to be released after every weight."""
        import torch

        with self._reading, self._host.lock(), torch.inference_mode():
            yield

    def tensor(self, weight: BaseWeight, device: str) -> Any:
        """Copy a weight to a torch device as float32, in its own shape. Call it inside of `exclusive`.

        Raises `UntrustedMemory`.
        """
        key = host_key(weight.key, self._prefix)
        tensor = self._loaded.weight(key, weight.rows, device)
        if tensor is None:
            raise UntrustedMemory(f"the host no longer has this model, or it has no {weight.key}")
        if tuple(tensor.shape) != weight.shape:
            raise UntrustedMemory(f"{weight.key} is {list(tensor.shape)} in memory, not {list(weight.shape)}")
        if self._compare is not None:
            self._compare(weight, tensor, self._loaded.dtype(key))
        return tensor


class FileSample:
    """Compares 512 numbers from the middle of a weight in memory with those of the file."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def compare(self, weight: BaseWeight, tensor: Any, dtype: str) -> None:
        """Raise `UntrustedMemory` where they differ by more than rounding to the dtype in memory."""
        start = max(0, (math.prod(weight.shape) - _SAMPLE) // 2)
        window = slice(start, start + _SAMPLE)
        in_memory = tensor.reshape(-1)[window].cpu().numpy()
        bits = self._store.read(weight.key, weight.rows).bits.reshape(-1)[window]
        in_file = singles(bits, self._store.dtype(weight.key))
        allowed = _ROUNDING.get(dtype, 0.0) * np.abs(in_file) + _SMALLEST
        if not bool(np.all(np.abs(in_memory - in_file) <= allowed)):
            raise UntrustedMemory(f"{weight.key}, in memory as {dtype}, differs from the file")
