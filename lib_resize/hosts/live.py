"""The model in a host's memory as the base of a resize: read in place, checked against its file, never written to.

`LiveCheckpoint` is a `base.checkpoint.Checkpoint` whose weights come from memory as long as they can be trusted. Which
weights there are, and under which content their norms are remembered, is read from the file's header, so that the
command line and the panel share their norms. Each weight that is read is compared with a sample of the file; at the
first one that differs, the file is read from then on, and `notes` says why.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..base import norm_cache
from ..base.checkpoint import Checkpoint, name
from ..base.pairing import BaseWeight, Partner, read_base
from ..base.store import open_store
from ..errors import DeviceError, FileError, HostError, LayerError, UnsupportedError
from ..linalg.arrays import Arrays, NumpyArrays, TorchArrays
from ..linalg.casts import STORAGE, Single, round_to, singles
from ..linalg.factor import Stored
from ..linalg.norms import largest_singular_value
from ..names.families import component
from ..names.family import Family
from ..progress import Progress, in_order
from .host import Host, LoadedModel, find_checkpoint
from .keys import host_key

MEMORY, FILE, CACHE, NONE = "memory", "file", "cache", "none"
LOADED = "loaded"
"""The choice of whatever model the host has."""

ROOM = 256 << 20
"""Bytes beside the model that we take of the host's device, at most."""
_LARGEST_COPY = 160 << 20  # with half of it again while 16 bits become 32, and the vectors of a spectral norm
_SAMPLE = 512
_BLOCK = 1 << 22
_ROUNDING = {"F64": 2.0**-22, "F32": 2.0**-22, "F16": 2.0**-10}
"""By how much a number may differ because memory keeps fewer digits than the file; twice a half unit. BF16 is too
coarse for norms that agree with the file's to 1e-4."""
_SMALLEST = 2.0**-24  # of F16

Norms = tuple[float, float | None]


class _Untrusted(Exception):  # noqa: N818 - a reason, not an error
    """The memory cannot be taken for the file; the text says why."""


class LiveCheckpoint(Checkpoint):
    """A loaded model whose file can be read. Raises what `Checkpoint` raises for the file."""

    def __init__(self, host: Host, loaded: LoadedModel) -> None:
        if loaded.path is None:
            raise FileError(f"{loaded.title}: the host does not say which file this model came from.")
        super().__init__(loaded.path)
        self._begin(host, loaded)

    def _begin(self, host: Host, loaded: LoadedModel) -> None:
        self.notes: list[str] = []
        """What the person should know of where the weights came from; sentences."""
        self.source = MEMORY
        self.device = host.device()
        """What computed, or will compute, the norms."""
        self._host, self._loaded = host, loaded
        self._reading = threading.Lock()
        reason = loaded.quantised()
        if reason is not None:
            self._leave_memory(f"in memory its weights are rounded by {reason}")

    def _stored(self, weight: BaseWeight) -> Stored:
        """The weight as float32, (rows, columns), from memory where it can be trusted."""
        if self.source == MEMORY:
            try:
                return self._from_memory(weight)
            except _Untrusted as reason:
                self._leave_memory(str(reason))
        return super()._stored(weight)

    def _compute(
        self, missing: list[Partner], spectral: bool, arrays: Arrays, pool: ThreadPoolExecutor, progress: Progress
    ) -> None:
        if self.source == MEMORY:
            try:
                self._keep(self._compute_in_memory(missing, spectral, pool, progress))
                return
            except _Untrusted as reason:
                self._leave_memory(str(reason))
        self.device = arrays.device
        super()._compute(missing, spectral, arrays, pool, progress)

    def _keep(self, found: dict[str, Norms]) -> None:
        assert self._fingerprint is not None
        self._norms.update(found)
        norm_cache.save(self._fingerprint, self._norms)

    def _compute_in_memory(
        self, missing: list[Partner], spectral: bool, pool: ThreadPoolExecutor, progress: Progress
    ) -> dict[str, Norms]:
        """On a device one weight after the other; on the CPU two workers, of which one reads at a time."""

        def measure(one: Partner) -> Norms:
            return self._measure(one, spectral)

        progress.start("read base", len(missing))
        found = {}
        with self._guest():
            results = in_order(pool, measure, missing, ahead=2) if self.device == "cpu" else map(measure, missing)
            for one, norms in zip(missing, results, strict=True):
                found[name(one)] = norms
                progress.step()
        return found

    @contextlib.contextmanager
    def _guest(self) -> Iterator[None]:
        """Asks for room before, and leaves none taken after."""
        if self.device == "cpu":
            yield
            return
        with self._host.lock():
            self._host.make_room(ROOM)
        try:
            yield
        finally:
            self._host.tidy()

    def _measure(self, one: Partner, spectral: bool) -> Norms:
        """What is put together from parts, or cut, is left to the CPU."""
        is_plain = len(one.parts) == 1 and one.width is None
        norms = self._measured_on_device(one, spectral) if is_plain and self._fits_device(one.parts[0]) else None
        if norms is not None:
            return norms
        try:
            return self._measured(one, spectral, NumpyArrays(), self._from_memory)
        except LayerError as error:
            raise _Untrusted(f"{one.key} holds NaN or infinite values in memory") from error

    def _fits_device(self, weight: BaseWeight) -> bool:
        return self.device != "cpu" and 4 * math.prod(weight.shape) <= _LARGEST_COPY

    def _measured_on_device(self, one: Partner, spectral: bool) -> Norms | None:
        """None where the device cannot, for want of memory or of an operation; the CPU goes on from there."""
        try:
            with self._turn():
                weight = one.parts[0]
                tensor = self._read(weight, self.device).reshape(weight.shape[0], -1)
                fro = _finite(_frobenius(tensor), weight)
                return fro, _spectral(tensor, self.device) if spectral else None
        except (RuntimeError, DeviceError) as error:
            reason = _why(error)
        self._host.tidy()
        self.notes.append(f"{self.path.name}: {self.device} {reason}; the CPU finished the work.")
        self.device = "cpu"
        return None

    def _from_memory(self, weight: BaseWeight) -> Stored:
        with self._turn():
            values: Single = self._read(weight, "cpu").reshape(weight.shape[0], -1).numpy()
        return Stored(values, "F32")

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """One reader at a time, under the host's lock, which is let go after every weight."""
        import torch

        with self._reading, self._host.lock(), torch.inference_mode():
            yield

    def _read(self, weight: BaseWeight, device: str) -> Any:
        tensor = self._loaded.weight(self._key(weight), weight.rows, device)
        if tensor is None:
            raise _Untrusted(f"the host no longer holds it, or holds no {weight.key}")
        if tuple(tensor.shape) != weight.shape:
            raise _Untrusted(f"{weight.key} is {list(tensor.shape)} in memory, not {list(weight.shape)}")
        self._compare(weight, tensor)
        return tensor

    def _key(self, weight: BaseWeight) -> str:
        """What the host calls it."""
        return host_key(weight.key, self.prefix)

    def _compare(self, weight: BaseWeight, tensor: Any) -> None:
        start = max(0, (math.prod(weight.shape) - _SAMPLE) // 2)
        window = slice(start, start + _SAMPLE)
        held = tensor.reshape(-1)[window].cpu().numpy()
        stored = singles(self._store.read(weight.key, weight.rows).bits.reshape(-1)[window], self._dtype(weight))
        kept = self._loaded.dtype(self._key(weight))
        allowed = _ROUNDING.get(kept, 0.0) * np.abs(stored) + _SMALLEST
        if not bool(np.all(np.abs(held - stored) <= allowed)):
            raise _Untrusted(f"{weight.key}, in memory as {kept}, is not what the file holds")

    def _leave_memory(self, reason: str) -> None:
        if self.source == MEMORY:
            self.source = FILE
            self.notes.append(f"{self.path.name} is read from its file: {reason}.")


class MemoryOnlyCheckpoint(LiveCheckpoint):
    """A loaded model whose file cannot be read (a pickle, or gone): nothing to compare with, nothing remembered."""

    def __init__(self, host: Host, loaded: LoadedModel, why: str) -> None:
        """`why` the file cannot be read."""
        shapes = loaded.shapes()
        self._why = why
        self._title = loaded.path or Path(loaded.title)
        self._model = read_base(dict(shapes))
        self._order = {key: place for place, key in enumerate(shapes)}
        self._fingerprint: str | None = None
        self._norms: norm_cache.Norms = {}
        self._begin(host, loaded)
        if not (self._model.weights or self._model.generic):
            self._leave_memory("no weights that we know are in memory")
        self.notes.append(f"{self._title.name}: no safetensors file to compare with; what is in memory is believed.")

    @property
    def path(self) -> Path:
        return self._title

    @property
    def family(self) -> Family | None:
        return self._model.family

    def close(self) -> None:
        """Nothing is open."""

    def _load(self) -> None:
        """Nothing is remembered between runs."""

    def _keep(self, found: dict[str, Norms]) -> None:
        self._norms.update(found)

    def _compare(self, weight: BaseWeight, tensor: Any) -> None:
        """There is no file."""

    def _leave_memory(self, reason: str) -> None:
        raise UnsupportedError(
            f"{self._title}: {reason}, and its file cannot be read. {self._why} Choose another reference."
        )

    def _dtype(self, weight: BaseWeight) -> str:
        kind = self._loaded.dtype(weight.key)
        return kind if kind in STORAGE else ""

    def _position(self, one: Partner) -> tuple[int, int]:
        return self._order[one.key], (one.parts[0].rows or (0, 0))[0]


class LiveWeights:
    """The weights in memory as they are, LoRAs set aside, for taking their difference from the file: nothing is
    compared here. Follows `extract.Weights`. Raises UnsupportedError where they are rounded to fewer than 16 bits."""

    def __init__(self, host: Host, loaded: LoadedModel, base: Checkpoint) -> None:
        """`base` tells what the layers are called; a host keeps them in its own way."""
        reason = loaded.quantised()
        if reason is not None:
            raise UnsupportedError(f"{loaded.title}: in memory its weights are rounded by {reason}; load it without.")
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
        """Hosts tell of matrices only."""

    def _key(self, weight: BaseWeight) -> str:
        """What the host calls it."""
        return host_key(weight.key, self._prefix)

    def _check_found(self, base: Checkpoint) -> None:
        """Raises UnsupportedError where the memory is not known well enough to call it equal or different."""
        wanted = [name for name in base.weights if component(name) == "unet"]
        found = sum(name in self.weights for name in wanted)
        if 2 * found <= len(wanted):
            raise UnsupportedError(
                f"{base.path}: {found} of its {len(wanted)} layers were found in memory. Too few to compare the two: "
                f"the host keeps this model under other names than its file. Compare two checkpoint files instead."
            )

    def vector(self, key: str) -> Stored:
        raise KeyError(key)

    def matrix(self, weight: BaseWeight) -> Stored:
        """A float32 copy, made under the host's lock. Raises HostError where another model came meanwhile."""
        import torch

        with self._reading, self._host.lock(), torch.inference_mode():
            tensor = self._loaded.weight(self._key(weight), weight.rows, "cpu")
            if tensor is None or tuple(tensor.shape) != weight.shape:
                raise HostError(f"{self._loaded.title}: {weight.key} is not in memory any more. Load the model again.")
            values: Single = tensor.reshape(weight.shape[0], -1).numpy()
        return Stored(values, "F32")

    def kept(self, weight: BaseWeight, stored: Stored) -> Stored:
        """A weight of the file as this memory would keep it: rounded alike, so that rounding is no difference."""
        kind = self._loaded.dtype(self._key(weight))
        if kind not in _ROUNDED or kind == stored.kind:
            return stored
        return Stored(round_to(singles(stored.bits, stored.kind), kind), kind)


_ROUNDED = ("F16", "BF16")


class RoundedCheckpoint:
    """A checkpoint's file with its numbers as a memory keeps them. Follows `extract.Weights`."""

    def __init__(self, file: Checkpoint, live: LiveWeights) -> None:
        self._file, self._live = file, live
        self.path, self.family = file.path, file.family
        self.weights, self.vectors = file.weights, file.vectors

    def matrix(self, weight: BaseWeight) -> Stored:
        return self._live.kept(weight, self._file.matrix(weight))

    def vector(self, key: str) -> Stored:
        return self._file.vector(key)


@dataclass
class OpenReference:
    """The base model of a resize, and where its weights come from."""

    title: str = ""
    checkpoint: Checkpoint | None = None
    remarks: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """``memory``, ``file``, ``cache`` or ``none``: where the numbers came from so far. Before any is asked for,
        where they will be read unless the cache knows them."""
        if self.checkpoint is None:
            return NONE
        if self.checkpoint.remembered:
            return CACHE
        return self.checkpoint.source if isinstance(self.checkpoint, LiveCheckpoint) else FILE

    @property
    def device(self) -> str:
        """What computed the norms."""
        return self.checkpoint.device if isinstance(self.checkpoint, LiveCheckpoint) and self.kind == MEMORY else "cpu"

    @property
    def note(self) -> str:
        """All that there is to say, one sentence after the other."""
        own = self.checkpoint.notes if isinstance(self.checkpoint, LiveCheckpoint) else []
        return " ".join([*self.remarks, *own])

    def close(self) -> None:
        """Gives the file back."""
        if self.checkpoint is not None:
            self.checkpoint.close()


def open_reference(host: Host, choice: str = LOADED) -> OpenReference:
    """The model in memory, or else the file of the one selected (`choice` "loaded"); a checkpoint of the host's list,
    by title; or nothing ("none"). Raises FileError where a title is not in the list, and what `Checkpoint` raises."""
    if choice == NONE:
        return OpenReference()
    if choice != LOADED:
        return OpenReference(choice, Checkpoint(_path_of(host, choice)))
    loaded = host.loaded()
    if loaded is not None:
        return OpenReference(loaded.title, _live(host, loaded), list(_remark_on_pending(host)))
    selected = host.pending()
    if selected is None:
        return OpenReference(remarks=["No checkpoint is loaded."])
    remark = f"{selected} is selected and not in memory; its file is read."
    return OpenReference(selected, Checkpoint(_path_of(host, selected)), [remark])


def _live(host: Host, loaded: LoadedModel) -> LiveCheckpoint:
    if loaded.path is None:
        return MemoryOnlyCheckpoint(host, loaded, "the host does not say which file it came from")
    try:
        open_store(loaded.path).close()
    except (FileError, UnsupportedError) as error:
        return MemoryOnlyCheckpoint(host, loaded, str(error))
    return LiveCheckpoint(host, loaded)


def _remark_on_pending(host: Host) -> Iterator[str]:
    selected = host.pending()
    if selected is not None:
        yield f"{selected} is selected, but the model in memory is still the one before it."


def _path_of(host: Host, title: str) -> Path:
    found = find_checkpoint(host.checkpoints(), title)
    if found is None:
        raise FileError(f"{title}: no checkpoint of this title is in the host's list. Choose another reference.")
    return found.path


def _finite(fro: float, weight: BaseWeight) -> float:
    if not math.isfinite(fro):
        raise _Untrusted(f"{weight.key} holds NaN or infinite values in memory")
    return fro


def _frobenius(tensor: Any) -> float:
    """``||W||_F``, blocks summed in float32 on the device and their sums in float64."""
    return math.sqrt(sum(float(block @ block) for block in tensor.reshape(-1).split(_BLOCK)))


def _spectral(tensor: Any, device: str) -> float:
    return largest_singular_value(tensor, TorchArrays(device))


def _why(error: Exception) -> str:
    text = str(error)
    if "out of memory" in text.lower() or "not enough" in text.lower() or "ALLOC_FAILED" in text:
        return "ran out of memory"
    return f"could not do it ({text.splitlines()[0] if text else type(error).__name__})"
