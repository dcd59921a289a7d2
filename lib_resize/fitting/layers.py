"""The layers of a planned file in a model: which can be fitted, what each adds, and their new factors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from ..adapters.forms.form import WriteSpec
from ..adapters.forms.lora import LowRank
from ..adapters.layer import Layer
from ..engine.job import ResizeJob
from ..engine.layer_values import rounded_values
from ..linalg.arrays import NumpyArrays
from ..linalg.blocks import blocks_of, in_block_order
from ..linalg.casts import Single
from ..linalg.factor import Pair, Stored
from .moments import Original, Target
from .paired import Deltas
from .places import Delta, DenseDelta, FitModel, LowRankDelta, Place

_ARRAYS = NumpyArrays()


@dataclass
class Census:
    """The layers of a model that are truncated plainly, by reason."""

    plain: Counter[str] = field(default_factory=Counter)


NOT_IN_MODEL = "not found in the model"
OTHER_KIND = "of another kind than LoRA"
UNSUPPORTED = "in modules that cannot be followed"
NEVER_RAN = "that never ran or saw too few tokens"
UNPAIRED = "not run sample by sample"


def targets_of(job: ResizeJob, model: FitModel, census: Census) -> list[Target]:
    """Return the targets of a model: every kept LoRA layer, and each piece of one that was trained in pieces."""
    found: list[Target] = []
    for new in job.layout.layers:
        place = model.places.get(new.index)
        if place is None:
            continue
        layer = job.analysis.adapter.layers[new.index]
        if not isinstance(layer.form, LowRank) or layer.magnitude is not None:
            census.plain[OTHER_KIND] += 1
        elif not place.is_supported:
            census.plain[UNSUPPORTED] += 1
        else:
            found += _targets(job, new.index, layer.form, place, model)
    return found


def _targets(job: ResizeJob, index: int, form: LowRank, place: Place, model: FitModel) -> Iterator[Target]:
    """Yield one target, or one for each piece with kept dimensions."""
    solved, kept = job.analysis.spectra[index], job.choice.kept[index]
    alive = np.flatnonzero(solved.s > 0)
    owner = getattr(solved, "owner", None)
    values = form.values(WriteSpec(solved, alive, _ARRAYS))
    up, down = (values[role] for role in form.roles)
    if owner is None:
        yield Target(index, place, len(kept), _original(up, down, solved.s[alive], model))
        return
    order = in_block_order(solved, alive)  # type: ignore[arg-type]
    blocks = blocks_of(form.pair.up, form.cuts)
    for piece in np.unique(owner[kept]).tolist():
        own, (first, last) = owner[order] == piece, blocks[piece].rows
        start = place.rows[0] if place.rows else 0
        inside = replace(place, rows=(start + first, start + last))
        rank = int(np.count_nonzero(owner[kept] == piece))
        original = _original(up[first:last, own], down[own], solved.s[order[own]], model)
        yield Target(index, inside, rank, original, first)


def _original(up: Single, down: Single, s: np.ndarray, model: FitModel) -> Original:
    """Return the delta of balanced factors, ``U sqrt(s)`` and ``sqrt(s) V^T``, as `Original` has it."""
    root = np.sqrt(s).astype(np.float32)
    gain = float(s.max())
    dtype, device = _dtype(model), model.device
    return Original(
        _tensor(up * (root / np.float32(gain)), dtype, device), _tensor(down / root[:, None], dtype, device), gain
    )


def pairs_of(job: ResizeJob, targets: Sequence[Target], lam: float, census: Census) -> dict[int, Pair]:
    """Return the new factors by layer index; a layer with a piece that was not fitted is left out and counted."""
    by_layer: dict[int, list[Target]] = {}
    for target in targets:
        by_layer.setdefault(target.index, []).append(target)
    found = {}
    for index, parts in by_layer.items():
        if all(part.is_known for part in parts):
            found[index] = _pair(job, index, [(part, *part.factors(lam)) for part in parts])
        else:
            census.plain[UNPAIRED if any(part.unpaired for part in parts) else NEVER_RAN] += 1
    return found


def _pair(job: ResizeJob, index: int, parts: Sequence[tuple[Target, Single, Single]]) -> Pair:
    """Return one pair; the columns of each piece reach its own rows only."""
    rows, rank = job.analysis.adapter.layers[index].size[0], sum(len(down) for _, _, down in parts)
    up, column = np.zeros((rows, rank), np.float32), 0
    for part, own, _ in parts:
        up[part.first_row : part.first_row + len(own), column : column + part.rank] = own
        column += part.rank
    down = np.ascontiguousarray(np.concatenate([down for _, _, down in parts]))
    return Pair(Stored(up, "F32"), Stored(down, "F32"))


# Deltas -----------------------------------------------------------------------------------------------------------


def original_deltas(
    job: ResizeJob, model: FitModel, gain: float = 1.0, without: frozenset[int] = frozenset()
) -> list[tuple[Place, Delta]]:
    """Return the source's layers in a model, times `gain`, but those of the indices `without`.

    Layers whose delta is not known without the base weight (GLoRA), and those with DoRA's magnitudes, are left out.
    """
    found = []
    for index, place in model.places.items():
        layer = job.analysis.adapter.layers[index]
        if index not in without and not layer.form.needs_base and layer.magnitude is None:
            found.append((place, _source_delta(job, index, layer, place, model, gain)))
    return found


def _source_delta(job: ResizeJob, index: int, layer: Layer, place: Place, model: FitModel, gain: float) -> Delta:
    solved = job.analysis.spectra[index]
    values = layer.form.values(WriteSpec(solved, np.arange(len(solved.s)), _ARRAYS))
    return _delta(layer, values, place, model, gain)


def written_deltas(job: ResizeJob, model: FitModel) -> Deltas:
    """Return the layers of the new file in a model, as they are written, rounded to its dtype."""
    gain = model.strength or 1.0
    found = []
    for new in job.layout.layers:
        place, layer = model.places.get(new.index), job.analysis.adapter.layers[new.index]
        if place is not None and not layer.form.needs_base and layer.magnitude is None:
            values = rounded_values(job.selection, new, _ARRAYS)
            found.append((place, _delta(new.layer, values, place, model, gain * job.recipe.rescale)))
    return found


def _delta(layer: Layer, values: Mapping[str, Single], place: Place, model: FitModel, gain: float) -> Delta:
    dtype, device, form = _dtype(model), model.device, layer.form
    if isinstance(form, LowRank) and place.is_supported:
        up, down = (np.asarray(values[role]) for role in form.roles)
        return LowRankDelta(_tensor(up, dtype, device), _tensor(down, dtype, device), gain)
    return DenseDelta(_tensor(form.full(dict(values)), dtype, device), gain)


def _tensor(values: Single, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(device, dtype)


def _dtype(model: FitModel) -> torch.dtype:
    """Return the dtype of most weights, where products can be computed in it."""
    counts = Counter(parameter.dtype for parameter in model.module.parameters() if isinstance(parameter, nn.Parameter))
    most = counts.most_common(1)[0][0]
    return most if most in (torch.float32, torch.float16, torch.bfloat16) else torch.float16
