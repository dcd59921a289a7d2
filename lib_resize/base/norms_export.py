"""Make a norms file of a checkpoint: the norms of every weight that a LoRA layer could change."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..errors import UnsupportedError
from ..linalg.arrays import Arrays
from ..linalg.casts import STORAGE
from ..names.family import layers
from ..progress import Progress
from .checkpoint import Checkpoint
from .model_index import read_base
from .norms_file import NormsStore, norms_document
from .pairing import partner
from .partner_norms import norm_key
from .store import Store, open_store
from .weights import BaseModel, Partner


def export_norms(path: Path, *, arrays: Arrays, pool: ThreadPoolExecutor, progress: Progress) -> bytes:
    """Return the norms file of a checkpoint. Norms that are cached are not measured again.

    Raises what `Checkpoint` raises, and ``LayerError`` where a weight holds NaN or infinite values.
    """
    checkpoint = Checkpoint(path)
    store = open_store(path)
    try:
        if isinstance(store, NormsStore):
            raise UnsupportedError(f"{path}: this is a norms file already; name a checkpoint.")
        keys = {key for key in store.shapes if store.dtype(key) in STORAGE}
        readable = [one for one in _partners(store) if all(part.key in keys for part in one.parts)]
        norms = checkpoint.norms(readable, spectral=True, arrays=arrays, pool=pool, progress=progress)
        tensors = {key: (store.dtype(key), shape) for key, shape in store.shapes.items()}
        return norms_document(path.name, store.fingerprint(), tensors, {norm_key(one): norms[one] for one in readable})
    finally:
        store.close()
        checkpoint.close()


def _partners(store: Store) -> list[Partner]:
    """Return all partners that `Checkpoint.partner` can find, but for layers of another width, each once."""
    model = read_base(store.shapes)
    found = [Partner((weight,)) for weight in (*model.weights.values(), *model.generic.values())]
    named = (partner(model, name, "") for name in _ids(model))
    unique = {norm_key(one): one for one in (*found, *(one for one in named if one is not None))}
    return list(unique.values())


def _ids(model: BaseModel) -> list[str]:
    return [] if model.family is None else [*layers(model.family)]
