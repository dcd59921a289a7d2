"""The model in a host's memory as a base model: read in place, checked against its file, never written to.

A `LiveCheckpoint` is a `base.checkpoint.Checkpoint` whose weights come from memory as long as they can be trusted. The
file's header determines which weights there are, and the fingerprint of the file the cache of their norms, so that the
command line and the tab share norms. Each weight that is read is compared with a sample of the file. At the first
difference the checkpoint changes to reading the file, and `notes` gives the reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..base.checkpoint import Checkpoint
from ..base.norm_cache import NormPair
from ..base.partner_norms import NormTask
from ..base.weight_reader import WeightReader
from ..base.weights import BaseWeight, Partner
from ..errors import FileError, UnsupportedError
from ..linalg.casts import STORAGE, Bits, singles
from ..linalg.device_subspace import PlacedMatrix
from ..linalg.factor import Factor, Stored
from .host import Host, LoadedModel
from .memory_norms import MemoryNorms
from .memory_weights import Compare, FileSample, MemoryWeights, UntrustedMemory

MEMORY, FILE = "memory", "file"
"""Sources of weights."""


class LiveCheckpoint(Checkpoint):
    """A loaded model whose file can be read. Raises what `Checkpoint` raises for the file."""

    def __init__(self, host: Host, loaded: LoadedModel) -> None:
        if loaded.path is None:
            raise FileError(f"{loaded.title}: the host does not know which file this model came from.")
        super().__init__(loaded.path)
        self._read_memory(host, loaded, FileSample(self._store).compare)

    def _read_memory(self, host: Host, loaded: LoadedModel, compare: Compare | None) -> None:
        self.notes: list[str] = []
        """Messages for the user about the source of the weights; sentences."""
        self.source = MEMORY
        self._reader = WeightReader(self._store, self._read_part)
        self._memory = MemoryWeights(host, loaded, self.prefix, compare)
        self._memory_norms = MemoryNorms(host, self._memory, self._store, self._note)
        reason = loaded.quantised()
        if reason is not None:
            self._leave_memory(f"in memory its weights are changed by {reason}")

    @property
    def device(self) -> str:
        """The device that measured the norms, or will measure them."""
        return self._memory_norms.device if self.source == MEMORY else self.measured_on

    def whole(self, found: Partner) -> Factor:
        """Read a partner as `Checkpoint.whole` does. A stored weight is read later, by the device if it has it."""
        part = found.parts[0]
        is_stored = len(found.parts) == 1 and found.width is None and not found.swapped and part.scale is None
        if not is_stored or self.source != MEMORY or self._memory_norms.device == "cpu":
            return super().whole(found)
        self._was_read = True
        shape = part.shape[0], math.prod(part.shape[1:])
        return PlacedMatrix(shape, lambda: self._single(found), lambda device: self._copied(part, shape, device))

    def _single(self, found: Partner) -> Bits:
        matrix = super().whole(found)
        return singles(matrix.bits, matrix.kind)

    def _copied(self, part: BaseWeight, shape: tuple[int, int], device: str) -> Any | None:
        try:
            with self._memory.exclusive():
                return self._memory.tensor(part, device).reshape(shape)
        except UntrustedMemory as reason:
            self._leave_memory(str(reason))
            return None

    def _read_part(self, weight: BaseWeight) -> Stored:
        """Read a weight as float32 from memory while that can be trusted, else from the file."""
        if self.source == MEMORY:
            try:
                return self._memory.matrix(weight)
            except UntrustedMemory as reason:
                self._leave_memory(str(reason))
        return self._store.read(weight.key, weight.rows)

    def _measure(self, missing: list[Partner], task: NormTask) -> Iterable[NormPair]:
        if self.source == MEMORY:
            try:
                return self._memory_norms.measure(missing, task)
            except UntrustedMemory as reason:
                self._leave_memory(str(reason))
        return super()._measure(missing, task)

    def _note(self, text: str) -> None:
        self.notes.append(f"{self.path.name}: {text}")

    def _leave_memory(self, reason: str) -> None:
        if self.source == MEMORY:
            self.source = FILE
            self.notes.append(f"{self.path.name} is read from its file: {reason}.")


class MemoryOnlyCheckpoint(LiveCheckpoint):
    """A loaded model whose file cannot be read (a pickle, or deleted): no weight is compared, no norm is cached.

    Raises ``UnsupportedError`` where its weights in memory are rounded or unknown.
    """

    def __init__(self, host: Host, loaded: LoadedModel, why: str) -> None:
        """`why` is a sentence that gives the reason why the file cannot be read."""
        self._why = why
        self._use(_MemoryStore(loaded), persistent=False)
        self._read_memory(host, loaded, compare=None)
        if self._model.is_empty:
            self._leave_memory("no known weights are in memory")
        self.notes.append(
            f"{self.path.name}: no safetensors file to compare with; the weights in memory are used as is."
        )

    def _leave_memory(self, reason: str) -> None:
        raise UnsupportedError(
            f"{self.path}: {reason}, and its file cannot be read. {self._why} Choose another reference."
        )


class _MemoryStore:
    """The names and shapes of the weights in memory; a `base.store.Store` from which nothing is read."""

    files = ()

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self.path = loaded.path or Path(loaded.title)
        self.shapes: Mapping[str, tuple[int, ...]] = dict(loaded.shapes())
        self._order = {key: place for place, key in enumerate(self.shapes)}

    def dtype(self, key: str) -> str:
        kind = self._loaded.dtype(key)
        return kind if kind in STORAGE else ""

    def read(self, key: str, rows: tuple[int, int] | None = None) -> Stored:  # noqa: ARG002
        raise UnsupportedError(f"{self.path}: {key} could only be read from the file, which cannot be read.")

    def position(self, key: str) -> int:
        return self._order[key]

    def fingerprint(self) -> str:
        raise UnsupportedError(f"{self.path}: it has no file whose norms could be cached.")

    def close(self) -> None:
        """Nothing is open."""
