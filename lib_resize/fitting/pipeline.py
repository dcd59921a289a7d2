"""Fit with a pipeline of diffusers: it makes the images, and its modules are recorded and replayed.

The LoRA is never loaded into the pipeline. Hooks add it to the outputs of the modules, so the weights stay unchanged.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..base.checkpoint import Checkpoint
from ..engine.job import ResizeJob
from ..engine.runtime import Runtime
from ..errors import FileError, ResizeError, UnsupportedError
from ..files.metadata import FitRecord, prompt_hash
from .calls import Call, recording
from .fit import Recorded, Recordings, fit_job
from .layers import original_deltas
from .paired import Deltas, FitOptions
from .pairing import places_in
from .places import FitModel, applied
from .texts import reordered, shortened

_DENOISERS = ("unet", "transformer")
_TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
_CLASSES = {
    "SDXL": "StableDiffusionXLPipeline",
    "SD1.5": "StableDiffusionPipeline",
    "SD2": "StableDiffusionPipeline",
}
"""Family of a checkpoint in a single file -> the class that reads it."""


@dataclass(frozen=True)
class ImageOptions:
    """The images of a fit."""

    prompts: tuple[str, ...]
    negative: str = ""
    images: int = 4
    """Images for the fit, the prompts in turn; one more is made for the comparison."""
    steps: int = 4
    """Recorded steps of each image."""
    sampling_steps: int = 20
    guidance: float | None = None
    """None: the default of the pipeline."""
    size: tuple[int, int] | None = None
    """(width, height) in pixels; None: the default of the pipeline."""
    seed: int = 0


@dataclass
class PipelineFit:
    """Fits planned files with one pipeline, which makes the images of a LoRA once for all recipes."""

    pipeline: Any
    images: ImageOptions
    options: FitOptions = field(default_factory=FitOptions)
    _recorded: tuple[object, Recordings] | None = None

    @property
    def longest(self) -> FitRecord:
        """The longest record that a fit may add to a file."""
        return FitRecord.longest(
            name for name in (*_DENOISERS, *_TEXT_ENCODERS) if _part(self.pipeline, name) is not None
        )

    def __call__(self, job: ResizeJob, runtime: Runtime) -> ResizeJob:
        """Return the job with fitted factors where they are better. Raises UnsupportedError and DeviceError."""
        source = job.analysis.adapter
        if self._recorded is None or self._recorded[0] is not source:
            self._recorded = source, record(self.pipeline, job, self.images, runtime)
        return fit_job(job, self._recorded[1], self.options, runtime)


def open_pipeline(path: Path, device: str) -> Any:
    """Return the pipeline of a checkpoint, a folder of diffusers or a single file; in float16 but on the CPU.

    Raises FileError where diffusers cannot load it, UnsupportedError for a single file of another family than SD1.5,
    SD2 and SDXL.
    """
    import diffusers

    library: Any = diffusers

    dtype = torch.float32 if device == "cpu" else torch.float16
    try:
        if path.is_dir():
            made = library.DiffusionPipeline.from_pretrained(str(path), torch_dtype=dtype, local_files_only=True)
        else:
            made = getattr(library, _class_of(path)).from_single_file(str(path), torch_dtype=dtype)
    except ResizeError:
        raise
    except Exception as error:
        reason = next(iter(str(error).splitlines()), repr(error))
        raise FileError(
            f"{path}: diffusers cannot load it as a pipeline ({reason}). Give a folder in the layout of diffusers."
        ) from error
    made.set_progress_bar_config(disable=True)
    return made.to(device)


def _class_of(path: Path) -> str:
    with contextlib.closing(Checkpoint(path)) as checkpoint:
        family = checkpoint.family
    if family is None or family.name not in _CLASSES:
        raise UnsupportedError(
            f"{path}: a single file of {family.name if family else 'an unknown family'} cannot be opened for a fit. "
            f"Give a folder in the layout of diffusers."
        )
    return _CLASSES[family.name]


def _part(pipeline: Any, name: str) -> torch.nn.Module | None:
    found = getattr(pipeline, name, None)
    return found if isinstance(found, torch.nn.Module) else None


def models_of(pipeline: Any, job: ResizeJob) -> list[FitModel]:
    """Return the models of a pipeline that a LoRA changes, text encoders first.

    Raises UnsupportedError where no layer is found.
    """
    names = (*_TEXT_ENCODERS, *_DENOISERS)
    parts = {name: part for name in names if (part := _part(pipeline, name)) is not None}
    places = places_in(job.analysis.adapter, parts)
    found = [FitModel(name, parts[name], inside) for name, inside in places.items() if inside]
    if not found:
        raise UnsupportedError(
            f"{job.analysis.adapter.name}: none of its layers is in {type(pipeline).__name__}: another model family."
        )
    return found


# Recording --------------------------------------------------------------------------------------------------------


def record(pipeline: Any, job: ResizeJob, wish: ImageOptions, runtime: Runtime) -> Recordings:
    """Make images with the original LoRA, and record calls of every model that it changes."""
    models = models_of(pipeline, job)
    deltas: Deltas = [delta for model in models for delta in original_deltas(job, model)]
    recorded = []
    with applied(deltas):
        for model in models:
            if model.name in _TEXT_ENCODERS:
                recorded.append(_record_text(pipeline, model, wish))
            else:
                recorded.append(_record_images(pipeline, model, wish, runtime))
    return Recordings(recorded, wish.images, wish.steps, prompt_hash((*wish.prompts, wish.negative)))


def _record_images(pipeline: Any, model: FitModel, wish: ImageOptions, runtime: Runtime) -> Recorded:
    wanted = {int((i + 0.5) * wish.sampling_steps / wish.steps) for i in range(wish.steps)}
    calls: list[list[Call]] = []
    runtime.progress.start("make images", wish.images + 1)
    for number in range(wish.images + 1):
        with recording(model.module, wanted.__contains__) as found:
            _image(pipeline, wish, number)
        calls.append([_with_batched_step(call) for call in found])
        runtime.progress.step()
    return Recorded(model, [call for image in calls[:-1] for call in image], calls[-1])


def _image(pipeline: Any, wish: ImageOptions, number: int) -> None:
    asked: dict[str, Any] = {
        "prompt": wish.prompts[number % len(wish.prompts)],
        "negative_prompt": wish.negative,
        "num_inference_steps": wish.sampling_steps,
        "generator": torch.Generator().manual_seed(wish.seed + number),
        "output_type": "latent",
    }
    if wish.guidance is not None:
        asked["guidance_scale"] = wish.guidance
    if wish.size is not None:
        asked["width"], asked["height"] = wish.size
    with torch.no_grad():
        pipeline(**_accepted(pipeline.__call__, asked))


def _with_batched_step(call: Call) -> Call:
    """Return the call with one time step for each sample, so that samples of different steps can be in one batch."""

    def expanded(value: Any) -> Any:
        is_single = isinstance(value, Tensor) and value.dim() == 0
        return value.repeat(call.samples) if is_single else value

    kwargs = {name: expanded(value) if name == "timestep" else value for name, value in call.kwargs.items()}
    return replace(call, args=tuple(map(expanded, call.args[:2])) + call.args[2:], kwargs=kwargs)


def _record_text(pipeline: Any, model: FitModel, wish: ImageOptions) -> Recorded:
    """Record the tokens of the prompts, and of an unseen order of their words for the comparison."""
    texts = list(dict.fromkeys((*wish.prompts, wish.negative, *(shortened(one) for one in wish.prompts))))
    return Recorded(model, _encoded(pipeline, model, texts), _encoded(pipeline, model, [reordered(wish.prompts[0])]))


def _encoded(pipeline: Any, model: FitModel, texts: Sequence[str]) -> list[Call]:
    with recording(model.module) as calls, torch.no_grad():
        for text in texts:
            asked = {
                "prompt": text,
                "prompt_2": text,
                "device": model.device,
                "num_images_per_prompt": 1,
                "do_classifier_free_guidance": False,
            }
            pipeline.encode_prompt(**_accepted(pipeline.encode_prompt, asked))
    return calls


def _accepted(call: Any, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return those arguments that a method of a pipeline has."""
    known = inspect.signature(call).parameters
    return {name: value for name, value in asked.items() if name in known}
