"""A base model on disk: its weights one at a time, and their norms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ..errors import DamagedFileError, LayerError, UnsupportedError
from ..files.reader import SafeFile
from ..linalg.arrays import Arrays
from ..linalg.assemble import Assembled, RowGain, ScaledRows
from ..linalg.casts import STORAGE, singles
from ..linalg.factor import Factor, Stored
from ..linalg.norms import frobenius_and_spectral_norm, frobenius_norm
from ..names.family import Family
from ..progress import Progress, in_order
from . import norm_cache
from .memory_budget import MemoryBudget
from .norm_cache import Norms
from .pairing import BaseWeight, Partner, fitted, looks_like_adapter, partner, read_base, vectors
from .store import Store, open_store

Reader = Callable[[BaseWeight], Stored]
"""From a part to its numbers, (rows, columns)."""


class Checkpoint:
    """A checkpoint, read lazily: one weight is in memory at a time and worker.

    It is a file (safetensors, or GGUF with the library ``gguf``) or a folder as diffusers writes it.
    """

    _room = MemoryBudget(256 << 20)
    """For whole matrices in float32, over all workers."""

    def __init__(self, path: Path | SafeFile) -> None:
        self._store: Store = open_store(path)
        self._model = read_base(self._store.shapes)
        if looks_like_adapter(self._store.shapes) or not (self._model.weights or self._model.generic):
            self._store.close()
            raise UnsupportedError(f"{self._store.path}: no base model found in it; a checkpoint was expected.")
        self._fingerprint: str | None = None
        self._norms: Norms = {}

    _asked = _fresh = False

    @property
    def remembered(self) -> bool:
        """Whether all norms that were asked for came from the cache, and no weight was read."""
        return self._asked and not self._fresh

    @property
    def prefix(self) -> str:
        """What the file alone has before the names of its denoiser; "" in files with a usual prefix or none."""
        return self._model.prefix

    @property
    def path(self) -> Path:
        return self._store.path

    @property
    def family(self) -> Family | None:
        return self._model.family

    @property
    def paths(self) -> tuple[Path, ...]:
        """Its files on the disk."""
        return tuple(file.path for file in self._store.files) or (self.path,)

    @property
    def files(self) -> Sequence[SafeFile]:
        """All of its safetensors files. Raises UnsupportedError where there are none."""
        if not self._store.files:
            raise UnsupportedError(f"{self.path}: a model in safetensors files was expected here.")
        return self._store.files

    @property
    def file(self) -> SafeFile:
        """The file itself. Raises UnsupportedError where the model lies in several, or in none of safetensors."""
        files = self._store.files
        if len(files) != 1:
            raise UnsupportedError(f"{self.path}: a model in a single safetensors file was expected here.")
        return files[0]

    @property
    def weights(self) -> Mapping[str, BaseWeight]:
        """All weights that a LoRA layer could change, by canonical id, or by kohya's rule where no family is known."""
        found = self._model.weights or self._model.generic
        return {name: weight for name, weight in found.items() if self._dtype(weight) in STORAGE}

    @property
    def vectors(self) -> Mapping[str, tuple[int, ...]]:
        """Biases and norms, by key."""
        shapes = self._store.shapes
        return vectors({key: shape for key, shape in shapes.items() if self._store.dtype(key) in STORAGE})

    def vector(self, key: str) -> Stored:
        """A bias or norm as stored, (1, n)."""
        stored = self._store.read(key)
        return Stored(stored.bits.reshape(1, -1), stored.kind)

    def partner(self, canonical: str | None, stem: str, size: tuple[int, int]) -> Partner | None:
        """The weight that a layer changes, None where there is none of that size (n, m)."""
        found = self.named(canonical, stem)
        return found and fitted(found, size, canonical, self._model.family)

    def named(self, canonical: str | None, stem: str) -> Partner | None:
        """The weight under a name, whatever its size."""
        found = partner(self._model, canonical, stem)
        if found is None or any(self._dtype(part) not in STORAGE for part in found.parts):
            return None
        return found

    def has_bias(self, found: Partner) -> bool:
        """Whether a bias lies beside a weight."""
        return any(part.key.removesuffix("weight") + "bias" in self._store.shapes for part in found.parts)

    def matrix(self, weight: BaseWeight) -> Stored:
        """A part, (rows, columns), as stored or, where it has a scale, times that; its memory is given back when
        nobody holds it."""
        stored, gain = self._stored(weight), self._gain(weight)
        if np.ndim(gain) == 0 and gain == 1.0:
            return stored
        return Stored(Assembled((ScaledRows(stored, gain),), stored.shape[1]).bits, "F32")

    def _stored(self, weight: BaseWeight) -> Stored:
        """A part as stored, its scale left out."""
        return self._store.read(weight.key, weight.rows)

    def whole(self, found: Partner) -> Factor:
        """The weight as the layer sees it, but for a transpose, (rows, columns)."""
        self._fresh = True
        return self._whole(found, self._stored)

    def _whole(self, found: Partner, read: Reader) -> Factor:
        parts = tuple(ScaledRows(read(part), self._gain(part)) for part in found.parts)
        is_plain = len(parts) == 1 and np.ndim(parts[0].gain) == 0 and parts[0].gain == 1.0
        if is_plain and not found.swapped and found.width is None:
            return parts[0].factor
        return Assembled(parts, found.width or parts[0].factor.shape[1], found.swapped)

    def norms(
        self,
        partners: Iterable[Partner],
        *,
        spectral: bool,
        arrays: Arrays,
        pool: ThreadPoolExecutor,
        progress: Progress,
    ) -> dict[Partner, tuple[float, float | None]]:
        """Frobenius norm, and where asked spectral norm, of each weight; from the cache where it knows them."""
        wanted = list(partners)
        self._asked = True
        self._load()
        lacking = {name(one): one for one in wanted if self._lacks(one, spectral)}
        missing = sorted(lacking.values(), key=self._position)
        if missing:
            self._fresh = True
            self._compute(missing, spectral, arrays, pool, progress)
        return {one: self._norms[name(one)] for one in wanted}

    def close(self) -> None:
        """Gives the files back."""
        self._store.close()

    def _load(self) -> None:
        if self._fingerprint is None:
            self._fingerprint = self._store.fingerprint()
            self._norms = norm_cache.load(self._fingerprint)

    def _lacks(self, one: Partner, spectral: bool) -> bool:
        known = self._norms.get(name(one))
        return known is None or (spectral and known[1] is None)

    def _compute(
        self, missing: list[Partner], spectral: bool, arrays: Arrays, pool: ThreadPoolExecutor, progress: Progress
    ) -> None:
        progress.start("read base", len(missing))
        found = in_order(pool, lambda one: self._measured(one, spectral, arrays, self._stored), missing, ahead=8)
        for one, norms in zip(missing, found, strict=True):
            self._norms[name(one)] = norms
            progress.step()
        assert self._fingerprint is not None
        norm_cache.save(self._fingerprint, self._norms)

    def _measured(self, one: Partner, spectral: bool, arrays: Arrays, read: Reader) -> tuple[float, float | None]:
        """Norms of a weight, for spectral ones made in full."""
        if not spectral:
            return self._checked(frobenius_norm(self._whole(one, read), arrays), one), None
        with self._room.of(4 * math.prod(one.matrix)):
            fro, spn = frobenius_and_spectral_norm(self._whole(one, read), arrays)
        return self._checked(fro, one), spn

    def _checked(self, fro: float, one: Partner) -> float:
        if not fro < float("inf"):
            raise LayerError(f"{self.path}: {one.key} holds NaN or infinite values; the checkpoint is damaged.")
        return fro

    def _gain(self, weight: BaseWeight) -> RowGain:
        """What quantised numbers are multiplied by: one number, or one for each row of the part, (rows,)."""
        if weight.scale is None:
            return 1.0
        stored = self._store.read(weight.scale)
        gains = singles(stored.bits, stored.kind).reshape(-1)
        if gains.size == 1:
            return float(gains[0])
        first, last = weight.rows or (0, weight.shape[0])
        if gains.size < last or gains.size == 0:
            raise DamagedFileError(
                f"{self.path}: {weight.scale} holds {gains.size} numbers for the rows of {weight.key}; "
                f"one, or one for each row, was expected."
            )
        return gains[first:last]

    def _dtype(self, weight: BaseWeight) -> str:
        return self._store.dtype(weight.key)

    def _position(self, one: Partner) -> tuple[int, int]:
        return self._store.position(one.key), (one.parts[0].rows or (0, 0))[0]


def name(one: Partner) -> str:
    """What a weight's norms are remembered under."""
    joined = "+".join(_part_name(part) for part in one.parts)
    columns = one.parts[0].matrix[1]
    return f"{joined}[:{one.width}]" if one.width is not None and one.width < columns else joined


def _part_name(weight: BaseWeight) -> str:
    return weight.key if weight.rows is None else f"{weight.key}[{weight.rows[0]}:{weight.rows[1]}]"
