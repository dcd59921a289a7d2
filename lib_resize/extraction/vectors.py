"""Biases and norms that differ between two models, as differences in full."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

from ..adapters.layer import Copied
from ..base.vectors import BIAS, NORM_BIAS, NORM_WEIGHT, BaseVector, named_vectors
from ..linalg.casts import Single, singles
from ..names.families import block
from .models import EDGES, STABLE_DIFFUSION, ExtractOptions, Weights
from .tally import Vectors


def changed_vectors(tuned: Weights, base: Weights, wish: ExtractOptions, stems: Set[str]) -> Vectors | None:
    """Return biases and norms that differ; None where the models share no names. `stems` are the layers of the LoRA."""
    ours, theirs = tuned.vectors, base.vectors
    pairs = list(_vector_pairs(_named(tuned, ours), _named(base, theirs), ours, theirs))
    if not pairs and (ours or theirs):
        return None
    groups: dict[str, list[tuple[BaseVector, Single]]] = {}
    for one, other in pairs:
        groups.setdefault(one.stem, []).append((one, _vector(tuned, one) - _vector(base, other)))
    found = Vectors()
    for group in groups.values():
        if not any(change.any() for _, change in group):
            continue
        if wish.vectors and _has_place(group[0][0], len(group), stems, wish):
            found.taken += [Copied(one.name, _WHY[one.role], one.stem, gain=1.0, made=change) for one, change in group]
        else:
            (found.lone if wish.vectors else found.left).extend(one.key for one, _ in group)
    return found


_WHY = {BIAS: "bias difference", NORM_WEIGHT: "norm", NORM_BIAS: "norm"}


def _named(model: Weights, vectors: Mapping[str, tuple[int, ...]]) -> dict[str, BaseVector]:
    is_unet = model.family is not None and model.family.name in STABLE_DIFFUSION
    return named_vectors(model.weights, vectors, norms=is_unet)


def _vector_pairs(
    ours: Mapping[str, BaseVector],
    theirs: Mapping[str, BaseVector],
    shapes: Mapping[str, tuple[int, ...]],
    other_shapes: Mapping[str, tuple[int, ...]],
) -> Iterator[tuple[BaseVector, BaseVector]]:
    """Yield the same vector of both models: by its name in a LoRA, else by its key, and then without a name."""
    pairs = [(one, theirs[name]) for name, one in ours.items() if name in theirs]
    same = [(one, other) for one, other in pairs if _length(one, shapes) == _length(other, other_shapes)]
    yield from same
    known = {one.key for one, _ in same}
    for key in (key for key, shape in shapes.items() if key not in known and other_shapes.get(key) == shape):
        nameless = BaseVector(key, key, "", "")
        yield nameless, nameless


def _length(vector: BaseVector, shapes: Mapping[str, tuple[int, ...]]) -> int:
    first, last = vector.rows or (0, shapes[vector.key][0])
    return last - first


def _vector(model: Weights, vector: BaseVector) -> Single:
    """Return its values, (n,), float32."""
    stored = model.vector(vector.key)
    values = singles(stored.bits, stored.kind).reshape(-1)
    return values if vector.rows is None else values[slice(*vector.rows)]


def _has_place(vector: BaseVector, count: int, stems: Set[str], wish: ExtractOptions) -> bool:
    """Return whether hosts can load it: A1111 refuses a bias without its layer, and half of a norm."""
    if vector.role == BIAS:
        return vector.stem in stems
    return bool(vector.role) and count == 2 and (wish.edges or block(vector.layer) not in EDGES)
