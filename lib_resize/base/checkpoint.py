"""A base model on disk: its weights one at a time, and their norms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..errors import LayerError, UnsupportedError
from ..files.reader import SafeFile, fingerprint
from ..linalg.arrays import Arrays
from ..linalg.casts import STORAGE
from ..linalg.factor import Stored
from ..linalg.norms import both_norms, frobenius_norm
from ..names.families import Family
from ..progress import Progress, in_order
from . import norm_cache
from .pairing import BaseWeight, looks_like_adapter, partner, read_base, vectors


class Checkpoint:
    """A checkpoint file, read lazily: one tensor is in memory at a time and worker."""

    def __init__(self, path: Path | SafeFile) -> None:
        self._file = path if isinstance(path, SafeFile) else SafeFile(path)
        self._model = read_base({key: entry.shape for key, entry in self._file.header.entries.items()})
        if looks_like_adapter(self._file.header.entries) or not (self._model.weights or self._model.generic):
            self._file.close()
            raise UnsupportedError(f"{self._file.path}: no base model found in it; a checkpoint was expected.")
        self._fingerprint: str | None = None
        self._norms: norm_cache.Norms = {}

    @property
    def path(self) -> Path:
        return self._file.path

    @property
    def family(self) -> Family | None:
        return self._model.family

    @property
    def file(self) -> SafeFile:
        """The file itself."""
        return self._file

    @property
    def weights(self) -> Mapping[str, BaseWeight]:
        """All weights that a LoRA layer could change, by canonical id, or by kohya's rule where no family is known."""
        found = self._model.weights or self._model.generic
        return {name: weight for name, weight in found.items() if self._dtype(weight) in STORAGE}

    @property
    def vectors(self) -> Mapping[str, tuple[int, ...]]:
        """Biases and norms, by key."""
        entries = self._file.header.entries
        return vectors({key: entry.shape for key, entry in entries.items() if entry.dtype in STORAGE})

    def vector(self, key: str) -> Stored:
        """A bias or norm as stored, (1, n)."""
        return Stored(self._file.window(key).reshape(1, -1), self._file.header.entries[key].dtype)

    def partner(self, canonical: str | None, stem: str, size: tuple[int, int]) -> BaseWeight | None:
        """The weight that a layer changes, None where there is none of that size (n, m).

        A convolution over more input channels than the LoRA knows, as in inpainting models, is no partner.
        """
        weight = partner(self._model, canonical, stem)
        if weight is None or weight.matrix != size or self._dtype(weight) not in STORAGE:
            return None
        return weight

    def matrix(self, weight: BaseWeight) -> Stored:
        """The weight as stored, (rows, columns); its memory is given back when nobody holds it."""
        bits = self._file.window(weight.key, weight.rows)
        return Stored(bits.reshape(weight.shape[0], -1), self._dtype(weight))

    def norms(
        self,
        weights: Iterable[BaseWeight],
        *,
        spectral: bool,
        arrays: Arrays,
        pool: ThreadPoolExecutor,
        progress: Progress,
    ) -> dict[BaseWeight, tuple[float, float | None]]:
        """Frobenius norm, and where asked spectral norm, of each weight; from the cache where it knows them."""
        wanted = list(weights)
        self._load()
        missing = sorted((w for w in wanted if self._lacks(w, spectral)), key=self._position)
        if missing:
            self._compute(missing, spectral, arrays, pool, progress)
        return {weight: self._norms[_name(weight)] for weight in wanted}

    def close(self) -> None:
        """Gives the file back."""
        self._file.close()

    def _load(self) -> None:
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self._file)
            self._norms = norm_cache.load(self._fingerprint)

    def _lacks(self, weight: BaseWeight, spectral: bool) -> bool:
        known = self._norms.get(_name(weight))
        return known is None or (spectral and known[1] is None)

    def _compute(
        self, missing: list[BaseWeight], spectral: bool, arrays: Arrays, pool: ThreadPoolExecutor, progress: Progress
    ) -> None:
        def measure(weight: BaseWeight) -> tuple[float, float | None]:
            matrix = self.matrix(weight)
            fro, spn = both_norms(matrix, arrays) if spectral else (frobenius_norm(matrix, arrays), None)
            if not fro < float("inf"):
                raise LayerError(f"{self.path}: {weight.key} holds NaN or infinite values; the checkpoint is damaged.")
            return fro, spn

        progress.start("read base", len(missing))
        for weight, norms in zip(missing, in_order(pool, measure, missing, ahead=8), strict=True):
            self._norms[_name(weight)] = norms
            progress.step()
        assert self._fingerprint is not None
        norm_cache.save(self._fingerprint, self._norms)

    def _dtype(self, weight: BaseWeight) -> str:
        return self._file.header.entries[weight.key].dtype

    def _position(self, weight: BaseWeight) -> tuple[int, int]:
        return self._file.header.entries[weight.key].start, (weight.rows or (0, 0))[0]


def _name(weight: BaseWeight) -> str:
    return weight.key if weight.rows is None else f"{weight.key}[{weight.rows[0]}:{weight.rows[1]}]"
