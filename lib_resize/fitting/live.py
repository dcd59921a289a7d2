"""Fit in a program that makes the images itself: calls of its model are recorded, and repeated when it is idle.

Whether the LoRA is in the model at that moment, in its weights or otherwise, is not assumed but found by repeating a
recorded call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters.layer import Adapter
from ..engine.fitting_job import with_fit
from ..engine.job import ResizeJob
from ..engine.runtime import Runtime
from ..errors import UnsupportedError
from ..files.metadata import FitRecord
from ..names.families import component
from .calls import CONSTANTS, Call, leaves_of, recording, samples_of
from .fit import Recorded, Recordings, fit_job, output_with
from .layers import original_deltas
from .paired import FitOptions
from .pairing import places_in
from .places import FitModel

_OPTIONS = "transformer_options"  # the argument of Forge and its relatives
_OF_ONE_BATCH = frozenset(
    {"cond_or_uncond", "cond_mark", "cond_indices", "uncond_indices", "sigmas", "sample_sigmas", "uuids"}
    | {"original_shape", "transformer_index", "block", "block_index"}
)
"""Options that say which sample of the batch is what, or where in the model a call is: they are made anew or unused."""
_TIMES = ("timesteps", "timestep", "t")
_SAME = 0.05
"""Share of the LoRA's own effect by which a repeated call may differ: automatic casts, not another state."""

IN_TEXT_ENCODER = "of a text encoder"
_NOT_REPEATED = (
    "not fitted, truncated plainly: calls of the model that were recorded during the images gave other results "
    "when they were repeated. Disable extensions and options that change the model while it samples, such as token "
    "merging"
)


@dataclass(frozen=True)
class ImageCalls:
    """The calls of a model during the images of a fit. It holds copies on the CPU, and no reference to the model."""

    images: Sequence[Sequence[Call]]
    """For the fit."""
    held_out: Sequence[Call]
    """Of the image for the comparison."""
    steps: int
    prompt: str
    """The hash of the prompts; see `metadata.prompt_hash`."""
    unused: int = 0
    """Calls that cannot be repeated."""
    device: str = "cpu"
    """Where the model got its inputs, as torch names it."""


class ImageRecorder:
    """Records the calls of one image."""

    def __init__(self, module: nn.Module) -> None:
        self.device = "cpu"
        """Where the inputs were, as torch names it."""
        self._stack = contextlib.ExitStack()
        self._stack.callback(module.register_forward_pre_hook(self._look, with_kwargs=True).remove)
        self._calls = self._stack.enter_context(recording(module, outputs=True))

    def _look(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        first = next((leaf for leaf in leaves_of((args, kwargs)) if isinstance(leaf, Tensor)), None)
        if first is not None:
            self.device = str(first.device)

    def close(self) -> None:
        """End the recording."""
        self._stack.close()

    def calls(self, steps: int) -> tuple[list[Call], int]:
        """Return the calls of so many steps, spread over the image, and how many more cannot be repeated."""
        chosen = of_steps(self._calls, steps)
        kept = [one for one in map(repeatable, chosen) if one is not None]
        self._calls.clear()
        return kept, len(chosen) - len(kept)


def of_steps(calls: Sequence[Call], steps: int) -> list[Call]:
    """Return all calls of `steps` of the image's steps, which differ in their times."""
    by_time: dict[Any, list[Call]] = {}
    for number, call in enumerate(calls):
        by_time.setdefault(_time_of(call, number), []).append(call)
    times = list(by_time)
    count = min(steps, len(times))
    return [call for i in range(count) for call in by_time[times[int((i + 0.5) * len(times) / count)]]]


def _time_of(call: Call, number: int) -> Any:
    given = (
        call.args[1] if len(call.args) > 1 else next((call.kwargs[one] for one in _TIMES if one in call.kwargs), None)
    )
    if isinstance(given, Tensor) and given.numel():
        return float(given.flatten()[0])
    return ("call", number)


def repeatable(call: Call) -> Call | None:
    """Return a call whose samples can be repeated in another batch; None for one with functions or other objects."""
    kwargs = dict(call.kwargs)
    options = kwargs.get(_OPTIONS)
    if isinstance(options, dict):
        kwargs[_OPTIONS] = {name: value for name, value in options.items() if name not in _OF_ONE_BATCH}
    plain = all(isinstance(leaf, (Tensor, *CONSTANTS)) for leaf in leaves_of((call.args, kwargs)))
    return replace(call, kwargs=kwargs) if plain else None


def fit_live(
    job: ResizeJob,
    parts: Mapping[str, tuple[str, nn.Module]],
    recorded: ImageCalls,
    options: FitOptions,
    runtime: Runtime,
) -> ResizeJob:
    """Return the job with factors that are fitted in the model as it is now, if they are better; see `fit_job`.

    `parts` are names and modules by prefix in checkpoints, the denoiser first; only that one is fitted. Where its
    calls cannot be repeated, the job has plain truncation and a note. Raises UnsupportedError where no layer of the
    LoRA is in the model, and DeviceError where one sample does not fit into memory.
    """
    places = places_in(job.analysis.adapter, {prefix: module for prefix, (_, module) in parts.items()})
    prefix, (name, module) = next(iter(parts.items()))
    owners = [component(layer.canonical or layer.stem) for layer in job.analysis.adapter.layers]
    aside = {index: IN_TEXT_ENCODER for index, owner in enumerate(owners) if owner.startswith("te")}
    if not any(places.values()):
        raise UnsupportedError(_nothing_to_fit(job.analysis.adapter, aside))
    model = FitModel(name, module, places[prefix], where=torch.device(recorded.device))
    strength = strength_in(model, job, recorded.held_out)
    calls = [call for image in recorded.images for call in image]
    if strength is None or not calls:
        return _plain(job, recorded, runtime)
    models = [Recorded(replace(model, strength=strength), calls, recorded.held_out)]
    facts = Recordings(models, len(recorded.images), recorded.steps, recorded.prompt, aside, recorded.unused)
    return fit_job(job, facts, options, runtime)


def _nothing_to_fit(adapter: Adapter, aside: Mapping[int, str]) -> str:
    if len(aside) == len(adapter.layers):
        return f"{adapter.name}: all its layers are of text encoders, which are not fitted. Resize it without a fit."
    return f"{adapter.name}: none of its layers is in the loaded model. Load a model of its family."


def _plain(job: ResizeJob, recorded: ImageCalls, runtime: Runtime) -> ResizeJob:
    record = FitRecord(len(recorded.images), recorded.steps, recorded.prompt, 0, {})
    return with_fit(job, {}, record, [_NOT_REPEATED], runtime.arrays)


def strength_in(model: FitModel, job: ResizeJob, calls: Sequence[Call]) -> float | None:
    """Return the strength at which the model has the LoRA by itself now: 1, or 0 where hooks must add it.

    None where recorded calls, with the LoRA at strength 1, cannot be repeated in either way.
    """
    source = original_deltas(job, model)
    wanted = [(call, call.output.double()) for call in calls if call.output is not None]
    own = added = effect = 0.0
    for call, output in wanted:
        plain, more = (output_with(model, deltas, samples_of([call])) for deltas in ((), source))
        own += _square(plain - output)
        added += _square(more - output)
        effect += _square(more - plain)
    nearest = min(own, added)
    if not wanted or not nearest <= _SAME * effect:  # also for NaN
        return None
    return 1.0 if own == nearest else 0.0


def _square(values: Tensor) -> float:
    return float(values.square().sum())
