"""Fit the planned file of a LoRA to recorded calls of a model, and keep the result only where it is better.

The comparison uses calls that the fit has not seen: the mean squared difference of the model's output from that with
the original LoRA, over that of the output without it, for plain truncation and for the fitted factors, both rounded as
they are written.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..engine.fitting_job import with_fit
from ..engine.job import ResizeJob
from ..engine.runtime import Runtime
from ..files.metadata import FitRecord
from ..linalg.factor import Pair
from .calls import Call, Sample, call_repeated, mini_batches, outputs_of, samples_of
from .layers import NOT_IN_MODEL, Census, original_deltas, pairs_of, targets_of, written_deltas
from .paired import Deltas, FitOptions, fit_targets, with_less_memory
from .places import FitModel, applied


@dataclass(frozen=True)
class Recorded:
    """Calls of a model while it made images with the original LoRA."""

    model: FitModel
    calls: Sequence[Call]
    """For the fit."""
    held_out: Sequence[Call]
    """For the comparison: of another image."""


@dataclass(frozen=True)
class Recordings:
    """All models that a LoRA changes, and the facts of the images."""

    models: Sequence[Recorded]
    images: int
    steps: int
    prompt: str
    """The hash of the prompts; see `metadata.prompt_hash`."""
    set_aside: Mapping[int, str] = field(default_factory=dict)
    """Index of a layer that is not fitted, in none of the models -> why, as words for a count."""
    unused: int = 0
    """Calls that cannot be repeated, for the note."""


@dataclass
class _FitSoFar:
    """What was found so far."""

    pairs: dict[int, Pair] = field(default_factory=dict)
    errors: dict[str, tuple[float, float]] = field(default_factory=dict)
    census: Census = field(default_factory=Census)
    worse: list[str] = field(default_factory=list)
    dropped: int = 0


def fit_job(job: ResizeJob, recordings: Recordings, options: FitOptions, runtime: Runtime) -> ResizeJob:
    """Return the job with fitted factors in every model where they are better than plain truncation.

    Notes report what was fitted, and both errors. Raises DeviceError where one sample does not fit into memory.
    """
    found = _FitSoFar()
    found.census.plain.update(_without_place(job, recordings))
    for recorded in recordings.models:
        _fit_model(job, recorded, options, runtime, found)
    record = FitRecord(recordings.images, recordings.steps, recordings.prompt, len(found.pairs), found.errors)
    return with_fit(job, found.pairs, record, list(_notes(job, found, recordings.unused)), runtime.arrays)


def _without_place(job: ResizeJob, recordings: Recordings) -> Counter[str]:
    placed = {index for recorded in recordings.models for index in recorded.model.places}
    indices = (new.index for new in job.layout.layers if new.index not in placed)
    return Counter(recordings.set_aside.get(index, NOT_IN_MODEL) for index in indices)


def _fit_model(job: ResizeJob, recorded: Recorded, options: FitOptions, runtime: Runtime, found: _FitSoFar) -> None:
    model = recorded.model
    with model.ready():
        pairs = _fitted_pairs(job, recorded, options, runtime, found)
        if not pairs:
            return
        fitted = with_fit(job, pairs, FitRecord.longest([model.name]), [], runtime.arrays)
        plain_error, fitted_error = held_out_errors([job, fitted], recorded, options.batch)
    found.errors[model.name] = plain_error, fitted_error
    if fitted_error < plain_error:
        found.pairs.update(pairs)
    else:
        found.worse.append(model.name)


def _fitted_pairs(
    job: ResizeJob, recorded: Recorded, options: FitOptions, runtime: Runtime, found: _FitSoFar
) -> dict[int, Pair]:
    """Return the fitted factors of a model by layer index. The memory of the moments is freed then."""
    model = recorded.model
    targets = targets_of(job, model, found.census)
    if not targets:
        return {}
    own = frozenset(target.index for target in targets)
    others = () if model.strength else original_deltas(job, model, without=own)
    fit_targets(model, targets, others, recorded.calls, options, runtime.progress)
    found.dropped += sum(target.dropped for target in targets)
    return pairs_of(job, targets, options.lam, found.census)


def held_out_errors(jobs: Sequence[ResizeJob], recorded: Recorded, batch: int = 4) -> list[float]:
    """Return the error of each planned file on held-out calls; the module docstring gives its definition.

    NaN where the original LoRA changes nothing there.
    """
    model, original = recorded.model, jobs[0]
    merged = bool(model.strength)
    source = original_deltas(original, model, -model.strength if merged else 1.0)
    with_lora, without = ([], source) if merged else (source, [])
    base: Deltas = source if merged else ()
    variants = [with_lora, without, *([*base, *written_deltas(job, model)] for job in jobs)]
    sums = [0.0] * len(variants)

    def run(size: int) -> None:
        sums[:] = [0.0] * len(variants)
        for samples in mini_batches(samples_of(recorded.held_out), size, 0):
            outputs = [output_with(model, deltas, samples) for deltas in variants]
            for i, output in enumerate(outputs):
                sums[i] += float((output - outputs[0]).square().sum())

    with_less_memory(run, batch, model)
    whole = sums[1]
    return [one / whole if whole > 0 and math.isfinite(whole) else math.nan for one in sums[2:]]


def output_with(model: FitModel, deltas: Deltas, samples: Sequence[Sample]) -> Tensor:
    """Return what a model gives for some samples with deltas added, float64 on the CPU."""
    with torch.no_grad(), applied(deltas):
        return outputs_of(call_repeated(model.called, samples, 1, model.device)).double().cpu()


def _notes(job: ResizeJob, found: _FitSoFar, unused: int) -> Iterator[str]:
    yield f"fitted to images: {len(found.pairs)} of {len(job.layout.layers)} layers"
    for name, (plain, own) in found.errors.items():
        if name in found.worse:
            yield (
                f"{name}: plain truncation is kept; its error on an image that was not used is {plain:.3g}, that of "
                f"the fit {own:.3g}"
            )
        else:
            yield f"{name}: error on an image that was not used {own:.3g}, plain truncation {plain:.3g}"
    for reason, count in sorted(found.census.plain.items()):
        yield f"layers truncated plainly: {count} {reason}"
    if unused:
        yield f"{unused} calls of the model left out, because they cannot be repeated"
    if found.dropped:
        yield f"{found.dropped} calls of layers with NaN or infinite values left out"
