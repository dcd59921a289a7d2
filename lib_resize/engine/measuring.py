"""Errors that are measured on the numbers of the new file, for plans that will be written.

Plans that only follow a slider have estimates: measuring computes the factors and reads the base model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..adapters.forms.form import relative_difference, relative_distance
from ..adapters.forms.lora import LowRank
from ..adapters.write.layout import NewLayer
from ..adapters.write.style import FLOAT8
from ..errors import LayerError
from ..linalg.casts import Single
from ..linalg.factor import Pair, Stored
from ..linalg.finite import without_float_warnings
from ..linalg.lazy import materialise
from ..progress import in_order
from .job import ResizeJob
from .layer_values import base_weight, is_float8, rounded_values, whole, write_spec
from .rounding import ALLOWED, NEGLIGIBLE
from .runtime import Runtime
from .selection import Selection
from .stamping import size


def measured(job: ResizeJob, runtime: Runtime) -> ResizeJob:
    """Return the job with measured errors.

    fp8 layers are measured on the rounded numbers. DoRA layers whose base weights are known are measured on the weights
    that hosts apply: normalised, times the magnitudes. Raises LayerError where fp8 cannot hold a layer.
    """
    return _with_dora_errors(with_float8_errors(job, runtime), runtime)


def with_float8_errors(job: ResizeJob, runtime: Runtime) -> ResizeJob:
    """Return the job with the measured losses of its fp8 layers, and with plan and size that follow from them.

    Raises LayerError where fp8 cannot hold a layer.
    """
    selection = job.selection
    found = [new for new in selection.layout.layers if is_float8(new)]
    if not found or selection.rounded is not None:
        return job
    runtime.progress.start("measure", len(found))
    rounded = dict.fromkeys(range(len(selection.analysis.layers)), 0.0)
    rounding = dict(rounded)
    errors = in_order(runtime.pool, lambda new: _lost_in_float8(selection, new, runtime), found, runtime.ahead)
    for new, (lost, by_rounding) in zip(found, errors, strict=True):
        rounded[new.index], rounding[new.index] = lost, by_rounding
        runtime.progress.step()
    selection = replace(selection, rounded=rounded)
    _check_float8(selection, found, rounding)
    plan = replace(
        job.plan,
        bytes_after=size(selection, job.path.stem),
        retention=selection.retention,
        layers=tuple(selection.layer_plans()),
    )
    return ResizeJob(selection, plan, job.path)


def _lost_in_float8(selection: Selection, new: NewLayer, runtime: Runtime) -> tuple[float, float]:
    """Return the Frobenius norm of the source's delta minus the one that is written, and the share of rounding in it.

    Truncation and rounding are orthogonal, but for fitted factors, whose rounding is measured by itself.
    """
    form, values = selection.adapter.layers[new.index].form, rounded_values(selection, new, runtime.arrays)
    with without_float_warnings():
        if isinstance(form, LowRank):
            error = relative_distance(_written_pair(form, values), form.pair)
        else:
            spec = whole(write_spec(selection, new, runtime.arrays, gain=1.0), form.rank)
            source = form.full(form.values(spec))
            error = relative_difference(form.full(values).astype(np.float64), source.astype(np.float64))
    s = selection.analysis.layers[new.index].s
    lost = error * math.sqrt(float(s @ s))
    if new.index in selection.fitted:
        fitted = selection.fitted[new.index].form
        return lost, relative_distance(_written_pair(fitted, values), fitted.pair) * selection.kept_norm(new.index)
    return lost, math.sqrt(max(0.0, lost**2 - selection.truncation[new.index] ** 2))


def _written_pair(form: LowRank, values: Mapping[str, Single]) -> Pair:
    up, down = (Stored(np.ascontiguousarray(values[role]), "F32") for role in form.roles)
    return Pair(up, down)


def _check_float8(selection: Selection, layers: Sequence[NewLayer], rounding_of: Mapping[int, float]) -> None:
    """Refuse a file in which rounding changes a layer too much: its numbers are too far apart for fp8."""
    for new in layers:
        kept = selection.kept_norm(new.index)
        rounding = rounding_of[new.index]
        if not rounding <= max(ALLOWED[FLOAT8] * kept, NEGLIGIBLE * selection.norm):
            raise LayerError(
                f"layer {new.layer.stem}: fp8 would change it by {rounding / kept:.1%}, more than the "
                f"{ALLOWED[FLOAT8]:.0%} that rounding may. Use -t 16."
            )


def _with_dora_errors(job: ResizeJob, runtime: Runtime) -> ResizeJob:
    selection = job.selection
    weights = selection.analysis.weights
    found = [new for new in selection.layout.layers if new.layer.magnitude is not None and new.index in weights]
    runtime.progress.start("measure", len(found))
    layers = list(job.plan.layers)
    errors = in_order(runtime.pool, lambda new: _dora_errors(selection, new, runtime), found, 4)
    for new, (error_lora, error_base) in zip(found, errors, strict=True):
        layers[new.index] = replace(layers[new.index], error_lora=error_lora, error_ckpt=error_base)
        runtime.progress.step()
    return replace(job, plan=replace(job.plan, layers=tuple(layers)))


def _dora_errors(selection: Selection, new: NewLayer, runtime: Runtime) -> tuple[float, float]:
    """Return the error of the change that a layer makes, and of the base weight; see `linalg.dora`."""
    from ..adapters.merge.onto_base import magnitudes  # most files have no DoRA layer
    from ..linalg.dora import DoraWeight

    form, key, adapter = new.layer.form, new.layer.magnitude, selection.adapter
    assert key is not None
    spec = write_spec(selection, new, runtime.arrays, gain=1.0)
    try:
        normalised = DoraWeight(materialise(base_weight(selection, new)), magnitudes(adapter.files[0], key))
        with without_float_warnings():
            values = rounded_values(selection, new, runtime.arrays) if is_float8(new) else form.values(spec)
            source = form.full(form.values(whole(spec, form.rank)))
            return normalised.errors(source, form.full(values))
    except LayerError as error:
        raise LayerError(f"{adapter.name}: layer {new.layer.stem}: {error}") from error
