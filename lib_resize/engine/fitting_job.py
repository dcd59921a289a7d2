"""A planned file whose factors are replaced by fitted ones. Everything after it is the way of every file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..adapters.forms.form import relative_distance
from ..adapters.forms.lora import LowRank
from ..adapters.write.layout import NewLayer
from ..files.metadata import FitRecord
from ..linalg.arrays import Arrays
from ..linalg.factor import Pair
from .fitted_layer import FittedLayer
from .job import ResizeJob
from .selection import Selection
from .stamping import size


def with_fit(
    job: ResizeJob, pairs: Mapping[int, Pair], record: FitRecord, notes: Sequence[str], arrays: Arrays
) -> ResizeJob:
    """Return the job with other factors for some LoRA layers, by index, with its record, its notes and its size.

    A pair has as many dimensions as the plan keeps of its layer. Layers without a pair stay truncated. Raises
    LayerError for NaN and infinities.
    """
    selection = job.selection
    fitted = {index: _fitted_layer(selection, index, pair, arrays) for index, pair in pairs.items()}
    layers = tuple(_with_form(new, fitted) for new in selection.layout.layers)
    selection = replace(selection, layout=replace(selection.layout, layers=layers), fitted=fitted, fit=record)
    plan = replace(
        job.plan,
        bytes_after=size(selection, job.path.stem),
        retention=selection.retention,
        layers=tuple(selection.layer_plans()),
        notes=(*job.plan.notes, *notes),
    )
    return replace(job, selection=selection, plan=plan)


def _fitted_layer(selection: Selection, index: int, pair: Pair, arrays: Arrays) -> FittedLayer:
    source = selection.adapter.layers[index].form
    assert isinstance(source, LowRank)
    if pair.rank != len(selection.choice.kept[index]):
        raise ValueError("fitted factors have the rank of the plan")
    up, down = source.up_shape, source.down_shape
    form = replace(source, pair=pair, up_shape=(up[0], pair.rank, *up[2:]), down_shape=(pair.rank, *down[1:]))
    s = selection.analysis.layers[index].s
    return FittedLayer(form, form.decompose(arrays), relative_distance(pair, source.pair) * math.sqrt(float(s @ s)))


def _with_form(new: NewLayer, fitted: Mapping[int, FittedLayer]) -> NewLayer:
    if new.index not in fitted:
        return new
    return replace(new, layer=replace(new.layer, form=fitted[new.index].form))
