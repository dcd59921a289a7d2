"""Fit in a program that makes the images itself: calls of its model are recorded, and repeated when it is idle.

Whether the LoRA is in the model at that moment, in its weights or otherwise, is not assumed but found by repeating
recorded calls, of the denoiser and of the text encoders.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..adapters.layer import Adapter
from ..engine.fitting_job import with_fit
from ..engine.job import ResizeJob
from ..engine.runtime import Runtime
from ..errors import UnsupportedError
from ..files.metadata import FitRecord
from ..linalg.arrays import is_out_of_memory
from ..names.families import component
from .calls import CONSTANTS, Call, call_repeated, leaves_of, recording, samples_of
from .fit import Recorded, Recordings, fit_job, output_with
from .layers import original_deltas
from .paired import FitOptions
from .pairing import places_in
from .places import FitModel, Place
from .texts import TextCalls

_OPTIONS = "transformer_options"  # the argument of Forge and its relatives
_OF_ONE_BATCH = frozenset(
    {"cond_or_uncond", "cond_mark", "cond_indices", "uncond_indices", "sigmas", "sample_sigmas", "uuids"}
    | {"original_shape", "transformer_index", "block", "block_index"}
)
"""Options that say which sample of the batch is what, or where in the model a call is: they are made anew or unused."""
_TIMES = ("timesteps", "timestep", "t")
_SAME = 0.05
"""Share of the LoRA's own effect by which a repeated call may differ: automatic casts, not another state."""

_WORK_BYTES = 1 << 30
"""Of the device, for the activations of a mini-batch."""

IN_TEXT_ENCODER = "of a text encoder"
TEXT_NOT_REPEATED = "of a text encoder that gave other results when texts were encoded again"
MODEL_NOT_REPEATED = "of a denoiser that gave other results when its calls were repeated"
_NOT_REPEATED = (
    "not fitted, truncated plainly: calls of the model that were recorded during the images gave other results "
    "when they were repeated. Disable extensions and options that change the model while it samples, such as token "
    "merging"
)


class ModelPart(Protocol):
    """A module of the program's model: the denoiser, or a text encoder."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    @property
    def prefix(self) -> str:
        """Of its weights in checkpoints."""
        ...

    @property
    def module(self) -> nn.Module:
        """The module in memory."""
        ...

    @property
    def texts(self) -> EncodesTexts | None:
        """How texts are encoded with it; None for a denoiser."""
        ...

    def ready(self, bytes: int) -> AbstractContextManager[None]:
        """Make it ready to be called, with so much more memory of the device free."""
        ...


class EncodesTexts(Protocol):
    """How the program encodes texts, with all of its text encoders."""

    def encode(self, texts: Any) -> Any:
        """Return the conditioning of a list of texts."""
        ...


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
    texts: TextCalls | None = None
    """Calls of the text encoders, where the LoRA changes them."""


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


def changes_texts(adapter: Adapter) -> bool:
    """Return whether a LoRA has layers of text encoders."""
    return bool(_of_texts(adapter))


def _of_texts(adapter: Adapter) -> set[int]:
    owners = [component(layer.canonical or layer.stem) for layer in adapter.layers]
    return {index for index, owner in enumerate(owners) if owner.startswith("te")}


def fit_live(
    job: ResizeJob, parts: Sequence[ModelPart], recorded: ImageCalls, options: FitOptions, runtime: Runtime
) -> ResizeJob:
    """Return the job with factors that are fitted in the model as it is now, if they are better; see `fit_job`.

    Text encoders come first. Layers of a part whose calls cannot be repeated are truncated plainly, which a note
    reports. Raises UnsupportedError where no layer of the LoRA is in the model, and DeviceError where one sample does
    not fit into memory.
    """
    adapter = job.analysis.adapter
    places = places_in(adapter, {part.prefix: part.module for part in parts})
    if not any(places.values()):
        raise UnsupportedError(
            f"{adapter.name}: none of its layers is in the loaded model. Load a model of its family."
        )
    live = _Live(job, recorded, parts, places)
    texts, denoisers = live.text_encoders(), live.denoisers()
    if not texts and not denoisers:
        return _plain(job, recorded, runtime)
    aside = dict.fromkeys(_of_texts(adapter), IN_TEXT_ENCODER)
    aside |= {} if texts else dict.fromkeys(live.layers_of(live.encoders), TEXT_NOT_REPEATED)
    aside |= {} if denoisers else dict.fromkeys(live.layers_of(live.others), MODEL_NOT_REPEATED)
    models = [*texts, *denoisers]
    facts = Recordings(models, len(recorded.images), recorded.steps, recorded.prompt, aside, recorded.unused)
    return fit_job(job, facts, options, runtime)


def _plain(job: ResizeJob, recorded: ImageCalls, runtime: Runtime) -> ResizeJob:
    record = FitRecord(len(recorded.images), recorded.steps, recorded.prompt, 0, {})
    return with_fit(job, {}, record, [_NOT_REPEATED], runtime.arrays)


@dataclass(frozen=True)
class _Live:
    """The model as it is now. What it finds has the strength at which the model has the LoRA by itself."""

    job: ResizeJob
    recorded: ImageCalls
    parts: Sequence[ModelPart]
    places: Mapping[str, Mapping[int, Place]]

    @property
    def encoders(self) -> list[ModelPart]:
        """The text encoders that the LoRA changes."""
        return [part for part in self.parts if part.texts is not None and self.places[part.prefix]]

    @property
    def others(self) -> list[ModelPart]:
        """The denoiser, if the LoRA changes it."""
        return [part for part in self.parts if part.texts is None and self.places[part.prefix]]

    def layers_of(self, parts: Sequence[ModelPart]) -> list[int]:
        """Return the indices of the layers in some parts."""
        return [index for part in parts for index in self.places[part.prefix]]

    def denoisers(self) -> list[Recorded]:
        """Return the denoiser with its calls; empty where the LoRA does not change it or they cannot be repeated."""
        found = (self._denoiser(part) for part in self.others)
        return [one for one in found if one is not None]

    def _denoiser(self, part: ModelPart) -> Recorded | None:
        calls = [call for image in self.recorded.images for call in image]
        model = self._model(part, self.recorded.device)
        with model.ready():
            strength = strength_in([model], self.job, self.recorded.held_out)
        if strength is None or not calls:
            return None
        return Recorded(replace(model, strength=strength), calls, self.recorded.held_out)

    def text_encoders(self) -> list[Recorded]:
        """Return the text encoders with calls of all of them; empty where those cannot be repeated."""
        calls = self.recorded.texts
        if calls is None:
            return []
        routes = [(part, part.texts) for part in self.encoders]
        models = [
            self._model(part, calls.device, calls.called_by(one.encode)) for part, one in routes if one is not None
        ]
        strength = _strength_in_texts(models, self.job, calls) if models else None
        if strength is None:
            return []
        return [Recorded(replace(model, strength=strength), calls.calls, calls.held_out) for model in models]

    def _model(self, part: ModelPart, device: str, call: Callable[..., Any] | None = None) -> FitModel:
        ready = partial(part.ready, 4 * self.job.analysis.adapter.bytes + _WORK_BYTES)  # float16, moments in float32
        where = torch.device(device)
        return FitModel(part.name, part.module, self.places[part.prefix], where=where, call=call, ready=ready)


def _strength_in_texts(models: Sequence[FitModel], job: ResizeJob, calls: TextCalls) -> float | None:
    with models[0].ready():
        return strength_in(models, job, calls.heard) if _can_repeat(models[0], calls) else None


def _can_repeat(model: FitModel, calls: TextCalls) -> bool:
    """Return whether the program encodes the texts of the fit, each twice in a batch."""
    try:
        with torch.no_grad():
            for sample in samples_of([*calls.calls, *calls.held_out]):
                call_repeated(model.called, [sample], 2, model.device)
    except Exception as error:  # programs and their extensions raise anything
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise
        return False
    return True


def strength_in(models: Sequence[FitModel], job: ResizeJob, calls: Sequence[Call]) -> float | None:
    """Return the strength at which models that run together have the LoRA by themselves: 1, or 0 if hooks must add it.

    None where recorded calls, with the LoRA at strength 1, cannot be repeated in either way.
    """
    source = [delta for model in models for delta in original_deltas(job, model)]
    wanted = [(call, call.output.double()) for call in calls if call.output is not None]
    own = added = effect = 0.0
    for call, output in wanted:
        plain, more = (output_with(models[0], deltas, samples_of([call])) for deltas in ((), source))
        own += _square(plain - output)
        added += _square(more - output)
        effect += _square(more - plain)
    nearest = min(own, added)
    if not wanted or not nearest <= _SAME * effect:  # also for NaN
        return None
    return 1.0 if own == nearest else 0.0


def _square(values: Tensor) -> float:
    return float(values.square().sum())
