"""The two sides of a difference between the model in a host's memory and its file. Both follow `extraction.Weights`."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from ..base.checkpoint import Checkpoint
from ..base.weights import BaseWeight
from ..errors import HostError, UnsupportedError
from ..linalg.casts import Single, round_to, singles
from ..linalg.factor import Stored
from ..names.families import component
from .host import Host, LoadedModel
from .keys import host_key

_ROUNDED = ("F16", "BF16")


class LiveWeights:
    """The weights in memory without LoRAs. They are not compared with the file, because the difference is wanted.

    Raises ``UnsupportedError`` where they are rounded to fewer than 16 bits, or too few of them were found.
    """

    def __init__(self, host: Host, loaded: LoadedModel, base: Checkpoint) -> None:
        """`base` is the file, which has the names of the layers; a host may have other names."""
        reason = loaded.quantised()
        if reason is not None:
            raise UnsupportedError(
                f"{loaded.title}: in memory its weights are changed by {reason}. Load the model without that."
            )
        self.path = loaded.path or Path(loaded.title)
        self._host, self._loaded = host, loaded
        self._reading = threading.Lock()
        self.family = base.family
        self._prefix = base.prefix
        self.weights: Mapping[str, BaseWeight] = {
            name: weight for name, weight in base.weights.items() if loaded.dtype(self._key(weight))
        }
        self._check_found(base)
        self.vectors: Mapping[str, tuple[int, ...]] = {}
        """Empty: hosts give access to matrices only."""

    def _key(self, weight: BaseWeight) -> str:
        return host_key(weight.key, self._prefix)

    def _check_found(self, base: Checkpoint) -> None:
        """Raise ``UnsupportedError`` where too few layers were found in memory to compare the two."""
        wanted = [name for name in base.weights if component(name) == "unet"]
        found = sum(name in self.weights for name in wanted)
        if 2 * found <= len(wanted):
            raise UnsupportedError(
                f"{base.path}: {found} of its {len(wanted)} layers were found in memory. Too few to compare the two: "
                f"the host keeps this model under other names than its file. Compare two checkpoint files instead."
            )

    def vector(self, key: str) -> Stored:
        """Raise ``KeyError``: there are no vectors."""
        raise KeyError(key)

    def matrix(self, weight: BaseWeight) -> Stored:
        """Copy a weight as a float32 matrix (rows, columns), under the host's lock.

        Raises ``HostError`` where the host has another model by now.
        """
        import torch

        with self._reading, self._host.lock(), torch.inference_mode():
            tensor = self._loaded.weight(self._key(weight), weight.rows, "cpu")
            if tensor is None or tuple(tensor.shape) != weight.shape:
                raise HostError(f"{self._loaded.title}: {weight.key} is not in memory any more. Load the model again.")
            values: Single = tensor.reshape(weight.shape[0], -1).numpy()
        return Stored(values, "F32")

    def rounded(self, weight: BaseWeight, stored: Stored) -> Stored:
        """Round a weight of the file to the dtype that it has in memory, so that rounding makes no difference."""
        kind = self._loaded.dtype(self._key(weight))
        if kind not in _ROUNDED or kind == stored.kind:
            return stored
        return Stored(round_to(singles(stored.bits, stored.kind), kind), kind)


class RoundedCheckpoint:
    """The weights of a checkpoint's file, rounded to the dtypes that they have in memory."""

    def __init__(self, file: Checkpoint, live: LiveWeights) -> None:
        self._file, self._live = file, live
        self.path, self.family = file.path, file.family
        self.weights, self.vectors = file.weights, file.vectors

    def matrix(self, weight: BaseWeight) -> Stored:
        """Read a weight as a matrix (rows, columns), rounded."""
        return self._live.rounded(weight, self._file.matrix(weight))

    def vector(self, key: str) -> Stored:
        """Read a bias or norm as stored, shape (1, n)."""
        return self._file.vector(key)
