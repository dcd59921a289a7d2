"""A base model on the disk: its weights one at a time, and their norms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..errors import UnsupportedError
from ..files.reader import SafeFile
from ..linalg.arrays import Arrays, NumpyArrays, TorchArrays
from ..linalg.casts import STORAGE
from ..linalg.factor import Factor, Stored
from ..names.family import Family
from ..progress import Progress, in_order
from .checkpoint_keys import looks_like_adapter, trained_vectors
from .model_index import read_base
from .norm_cache import NormPair
from .norms_file import NormsStore
from .pairing import fitted, partner
from .partner_norms import NormTask, PartnerNorms, norms_from_device, norms_of, raised
from .store import Store, open_store
from .weight_reader import WeightReader
from .weights import BaseWeight, Partner


class Checkpoint:
    """A checkpoint, read lazily: each worker holds one weight in memory at a time.

    It is a file (safetensors, or GGUF with the library ``gguf``) or a folder in the layout of diffusers. Raises
    ``UnsupportedError`` where no base model is found in it, and what `open_store` raises.
    """

    def __init__(self, path: Path | SafeFile) -> None:
        self._use(open_store(path))
        if looks_like_adapter(self._store.shapes) or self._model.is_empty:
            self._store.close()
            raise UnsupportedError(f"{self._store.path}: no base model found in it; a checkpoint was expected.")

    def _use(self, store: Store, *, persistent: bool = True) -> None:
        """Set the store that the weights come from; `persistent`: whether their norms are kept on the disk."""
        self._store = store
        self._model = read_base(store.shapes)
        self._reader = WeightReader(store)
        given = store.norms if isinstance(store, NormsStore) else None
        persistent = persistent and given is None
        self._norms = PartnerNorms(store, self._measure, persistent=persistent, known=given)
        self._was_read = False
        self.measured_on = "cpu"
        """The device that measured norms last, as torch names it."""

    @property
    def remembered(self) -> bool:
        """Whether norms were requested, all came from the cache, and no weight was read."""
        return self._norms.requested and not self._norms.measured and not self._was_read

    @property
    def prefix(self) -> str:
        """What only this file has before the names of its denoiser; "" in files with a usual prefix or none."""
        return self._model.prefix

    @property
    def path(self) -> Path:
        """The path that was opened."""
        return self._store.path

    @property
    def family(self) -> Family | None:
        """The family of the model; None where it is unknown."""
        return self._model.family

    @property
    def paths(self) -> tuple[Path, ...]:
        """The paths of its files."""
        return tuple(file.path for file in self._store.files) or (self.path,)

    @property
    def files(self) -> Sequence[SafeFile]:
        """All of its safetensors files. Raises ``UnsupportedError`` where there are none."""
        if not self._store.files:
            raise UnsupportedError(f"{self.path}: a model in safetensors files was expected here.")
        return self._store.files

    @property
    def file(self) -> SafeFile:
        """Its only file. Raises ``UnsupportedError`` where the model has several files or no safetensors file."""
        files = self._store.files
        if len(files) != 1:
            raise UnsupportedError(f"{self.path}: a model in a single safetensors file was expected here.")
        return files[0]

    @property
    def weights(self) -> Mapping[str, BaseWeight]:
        """All weights that a LoRA layer could change.

        The keys are canonical ids, or names by kohya's rule where the family is unknown.
        """
        found = self._model.weights or self._model.generic
        return {name: weight for name, weight in found.items() if _is_readable(weight, self._store)}

    @property
    def vectors(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of biases and norms, by key."""
        shapes = self._store.shapes
        return trained_vectors({key: shape for key, shape in shapes.items() if self._store.dtype(key) in STORAGE})

    def vector(self, key: str) -> Stored:
        """Read a bias or norm as stored, shape (1, n)."""
        stored = self._store.read(key)
        return Stored(stored.bits.reshape(1, -1), stored.kind)

    def partner(self, canonical: str | None, stem: str, size: tuple[int, int]) -> Partner | None:
        """Return the weight that a layer changes; None where there is none of its size (n, m).

        `canonical` is the layer's id in the LoRA's family, None if unknown; `stem` is its name in the LoRA file.
        """
        found = self.named(canonical, stem)
        return found and fitted(found, size, canonical, self._model.family)

    def named(self, canonical: str | None, stem: str) -> Partner | None:
        """Return the weight of a layer, of any size; None where there is none. See `partner`."""
        found = partner(self._model, canonical, stem)
        if found is None or not all(_is_readable(part, self._store) for part in found.parts):
            return None
        return found

    def has_bias(self, found: Partner) -> bool:
        """Return whether the weight's module has a bias."""
        return any(part.key.removesuffix("weight") + "bias" in self._store.shapes for part in found.parts)

    def matrix(self, weight: BaseWeight) -> Stored:
        """Read a weight as a matrix (rows, columns): as stored, or as float32 where it has a scale.

        The memory is freed when nobody refers to the matrix any more.
        """
        return self._reader.matrix(weight)

    def whole(self, found: Partner) -> Factor:
        """Read a partner as a matrix (rows, columns); a transposed weight stays transposed."""
        self._was_read = True
        return self._reader.partner_matrix(found)

    def norms(
        self,
        partners: Iterable[Partner],
        *,
        spectral: bool,
        arrays: Arrays,
        pool: ThreadPoolExecutor,
        progress: Progress,
        failed: Callable[[Exception], None] = raised,
    ) -> dict[Partner, NormPair]:
        """Return the Frobenius norm of each weight, and its spectral norm if `spectral`; from the cache where possible.

        `failed` is that of `NormTask`. Raises ``LayerError`` where a weight holds NaN or infinite values.
        """
        return self._norms.of(partners, NormTask(spectral, arrays, pool, progress, failed))

    def close(self) -> None:
        """Close all files."""
        self._store.close()

    def _measure(self, missing: list[Partner], task: NormTask) -> Iterable[NormPair]:
        """Measure norms that the cache does not have."""
        task.progress.start("read base", len(missing))
        known = norms_from_device(self._reader, missing, task)
        self.measured_on = task.arrays.device if known else "cpu"
        left = [one for i, one in enumerate(missing) if i not in known]
        arrays = NumpyArrays() if isinstance(task.arrays, TorchArrays) else task.arrays

        def measure(one: Partner) -> NormPair:
            return norms_of(self._reader, one, spectral=task.spectral, arrays=arrays)

        measured = in_order(task.pool, measure, left, ahead=8)
        for i in range(len(missing)):
            yield known[i] if i in known else next(measured)
            if i not in known:
                task.progress.step()


def _is_readable(weight: BaseWeight, store: Store) -> bool:
    return store.dtype(weight.key) in STORAGE
