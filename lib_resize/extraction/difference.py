"""The difference of two checkpoints as a LoRA: layer by layer, with few layers in memory at a time.

The factors of each layer's strongest dimensions are spooled to the disk. The result is an `Adapter` like one that is
read from a file, so the engine plans and writes it. The part of the difference that the ranks do not hold is known for
each layer and counts in every retention.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from ..adapters.forms.lora import lora_from_pair
from ..adapters.keys.suffixes import ParsedKey
from ..adapters.layer import Adapter, Layer
from ..adapters.read.naming import groups_together
from ..base.memory_budget import MemoryBudget
from ..base.weights import BaseWeight
from ..engine.placement import EXTRACTION
from ..engine.runtime import Runtime
from ..errors import LayerError, UnsupportedError
from ..files.spool import Spool
from ..linalg.casts import Single, singles
from ..linalg.factor import Pair, Stored
from ..linalg.truncated_svd import TruncatedSvd, truncated_svd
from ..progress import in_order
from .metadata import metadata
from .models import ExtractOptions, Weights, check_families, is_conv, pairs_of
from .notes import notes, nothing_differs
from .tally import Tally
from .vectors import changed_vectors

_BUDGET = 1200 << 20  # bytes of layers under work at a time
_COPIES = 4  # float32 copies of a layer that its work takes at most


def difference(tuned: Weights, base: Weights, wish: ExtractOptions, spool: Spool, runtime: Runtime) -> Adapter:
    """Return ``tuned - base`` as an adapter; the caller adds its files.

    Raises UnsupportedError where families differ or nothing is left, LayerError where a layer cannot be decomposed.
    """
    check_families(tuned, base)
    tally = Tally()
    pairs = pairs_of(tuned, base, wish, tally)
    layers = tuple(_layers(tuned, base, pairs, wish, spool, runtime, tally))
    if not layers:
        raise UnsupportedError(nothing_differs(tuned, base, tally))
    tally.vectors = changed_vectors(tuned, base, wish, {layer.stem for layer in layers})
    family = tuned.family
    return Adapter(
        name=f"{tuned.path.stem}-{base.path.stem}",
        files=(),
        metadata=metadata(family, tuned.path, base.path),
        layers=layers,
        copied=tuple(tally.vectors.taken) if tally.vectors else (),
        family=family,
        notes=tuple(notes(layers, tally, wish)),
        weights=(1.0, -1.0),
        together=groups_together(layers, family),
        extracted=True,
    )


def _layers(
    tuned: Weights,
    base: Weights,
    pairs: Sequence[tuple[str, BaseWeight, BaseWeight]],
    wish: ExtractOptions,
    spool: Spool,
    runtime: Runtime,
    tally: Tally,
) -> Iterator[Layer]:
    budget = MemoryBudget(_BUDGET)

    def work(pair: tuple[str, BaseWeight, BaseWeight]) -> tuple[Layer, float] | None:
        name, ours, theirs = pair
        rank = wish.rank if wish.conv_rank is None or not is_conv(ours) else wish.conv_rank
        with budget.of(_COPIES * 4 * math.prod(ours.shape)):
            matrix = _subtracted(tuned, base, ours, theirs)
            return None if matrix is None else _layer(name, ours, matrix, rank, tuned, spool, runtime)

    runtime.progress.start("compare", len(pairs))
    for found in in_order(runtime.pool, work, pairs, runtime.workers + 1):
        runtime.progress.step()
        if found is None:
            tally.equal += 1
        else:
            tally.held.append(found[1])
            yield found[0]


def _subtracted(tuned: Weights, base: Weights, ours: BaseWeight, theirs: BaseWeight) -> Single | None:
    """Return ``tuned - base``, (n, m), float32; None where they are equal."""
    one, other = tuned.matrix(ours), base.matrix(theirs)
    if one.kind == other.kind and ours.transposed == theirs.transposed and np.array_equal(one.bits, other.bits):
        return None
    matrix = _upright(one, ours)
    with np.errstate(invalid="ignore", over="ignore"):
        matrix -= _upright(other, theirs)
    return matrix if matrix.any() else None


def _upright(stored: Stored, weight: BaseWeight) -> Single:
    values = singles(stored.bits, stored.kind)
    return values.T if weight.transposed else values


def _truncated(matrix: Single, rank: int, runtime: Runtime) -> TruncatedSvd:
    """Decompose on the device if there is one, else on the CPU."""
    if runtime.placement.may_use_device:
        with runtime.placement.turn():
            try:
                return truncated_svd(matrix, rank, runtime.placement.arrays_for(EXTRACTION, runtime.arrays))
            except RuntimeError as error:
                runtime.placement.failed(error)
    return truncated_svd(matrix, rank, runtime.arrays)


def _layer(
    name: str, weight: BaseWeight, matrix: Single, rank: int, tuned: Weights, spool: Spool, runtime: Runtime
) -> tuple[Layer, float] | None:
    """Return the layer, and the squared Frobenius norm that its dimensions hold; None for a zero difference."""
    try:
        found = _truncated(matrix, rank, runtime)
    except LayerError as error:
        raise LayerError(f"{tuned.path}: layer {name}: {error}") from error
    if not len(found.s):
        return None
    layer = Layer(
        stem=name,
        form=lora_from_pair(Pair(spool.add(found.up), spool.add(found.down)), weight.shape[2:], "F32"),
        parts={
            "up": ParsedKey(f"{name}.lora_up.weight", name, "up", ".lora_up.weight"),
            "down": ParsedKey(f"{name}.lora_down.weight", name, "down", ".lora_down.weight"),
        },
        canonical=name if tuned.family is not None else None,
        lost=found.lost,
    )
    return layer, float(found.s @ found.s)
