"""Fit new factors to images that the WebUI makes with its loaded model. torch is needed when a fit begins."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adapters.layer import Adapter
from ..engine.job import ResizeJob
from ..engine.runtime import Runtime
from ..errors import FileError, HostError
from ..files.metadata import FitRecord, prompt_hash
from ..hosts.host import FIT, TEXT_ENCODERS, UNET, Host, ImageWatch, LivePart, LoadedModel
from ..progress import Progress
from ..studies.catalogue import stamp_of
from .faults import Fault
from .names import with_full_strength
from .picturing.prompting import ComparedFiles, Prompts, read_settings
from .protocol.objects import FIT as FIT_FIELDS
from .protocol.types import Json, read_object
from .queue import Handle
from .references import family_of
from .snapshot import HostLists

if TYPE_CHECKING:
    from ..fitting.live import ImageCalls, ImageRecorder
    from ..fitting.texts import TextCalls, TextRecorder

_FEW_STEPS = 4  # of an image whose only purpose is that the host applies the LoRA
_OTHER_SEEDS = 1000
_ABANDONED = 3  # passes, at most; then a user's image waits for the fit
_PAUSE = 0.2  # seconds, in which the thread that waits for the host's lock gets it


@dataclass(frozen=True)
class FitImages:
    """The images of a fit."""

    request: Json
    """Of `Host.generate`: the prompt has the LoRA at strength 1, and there is a seed."""
    images: int = 4
    """Images for the fit; one more is made for the comparison."""
    steps: int = 4
    """Recorded steps of each image."""

    def of(self, number: int, **changes: Any) -> Json:
        """Return the request of an image, from 0."""
        return {**self.request, "seed": self.request["seed"] + number, **changes}


class HostFit:
    """An `engine.settings.Refine`: fits planned files of one LoRA in the host's model.

    The images are made once, for the first file; each file then costs a few steps of one more image. Under the host's
    lock, the model is called in the thread in which the host makes images, right after an image with the LoRA. The
    progress of the runtime should be a `Handle`, so that a user's own images go first.
    """

    def __init__(self, host: Host, images: FitImages) -> None:
        """Nothing is made yet."""
        self._host, self._images = host, images
        self._recorded: ImageCalls | None = None
        self._model: str | None = None

    @property
    def longest(self) -> FitRecord:
        """The longest record that a fit may add to a file."""
        return FitRecord.longest([UNET, *TEXT_ENCODERS])

    @property
    def images_left(self) -> int:
        """The images that are still to be made before the first file is fitted; each file needs one more."""
        return 0 if self._recorded is not None else self._images.images + 1

    def __call__(self, job: ResizeJob, runtime: Runtime) -> ResizeJob:
        """Return the job with fitted factors where they are better.

        Raises Fault where the model cannot be used, and Cancelled, FileError, DeviceError and HostError.
        """
        check_model(self._host, job.analysis.adapter)
        self.record(job.analysis.adapter, runtime.progress)
        assert self._recorded is not None
        _portion(runtime.progress, 0.7, 0.3)
        runtime.progress.start("apply LoRA", 1)
        steps = min(int(self._images.request.get("steps", _FEW_STEPS)), _FEW_STEPS)
        request = self._images.of(self._images.images, steps=steps)
        for _ in range(_ABANDONED):
            polite = replace(runtime, progress=_Polite(runtime.progress, self._host))
            with contextlib.suppress(_Wanted):
                return self._fitted(_Fitting(job, self._recorded, polite), request, runtime.progress)
            time.sleep(_PAUSE)
        return self._fitted(_Fitting(job, self._recorded, runtime), request, runtime.progress)

    def _fitted(self, fitting: _Fitting, request: Json, progress: Progress) -> ResizeJob:
        self._generate(request, fitting, progress)
        return fitting.job

    def record(self, adapter: Adapter, progress: Progress) -> None:
        """Make the images with a LoRA, unless that was done. Raises what `__call__` raises."""
        if self._recorded is not None:
            self._check_same_model()
            return
        from ..fitting.live import ImageCalls, changes_texts

        _portion(progress, 0.0, 0.7)
        self._model = _title(self._host.loaded())
        made = [_Recording(self._images.steps) for _ in range(self._images.images + 1)]
        made[0].with_texts = changes_texts(adapter)
        progress.start("make images", len(made))
        for number, watch in enumerate(made):
            self._generate(self._images.of(number), watch, progress)
            progress.step()
        self._check_same_model()
        request = self._images.request
        self._recorded = ImageCalls(
            images=[one.calls for one in made[:-1]],
            held_out=made[-1].calls,
            steps=self._images.steps,
            prompt=prompt_hash([request["prompt"], request.get("negative_prompt", "")]),
            unused=sum(one.unused for one in made),
            device=made[-1].device,
            texts=made[0].texts,
        )

    def _generate(self, request: Json, watch: ImageWatch, progress: Progress) -> None:
        if isinstance(progress, Handle):
            progress.wait_for_host()
        self._host.generate(request, watch)
        if isinstance(progress, Handle):
            progress.image_made()

    def _check_same_model(self) -> None:
        now = _title(self._host.loaded())
        if now != self._model:
            raise HostError(f"The loaded model changed from {self._model} to {now} during the fit. Start again.")


class _Wanted(Exception):  # noqa: N818 - not an error
    """A user's image waits while the host's lock is held; the pass is repeated after it, with the same result."""


@dataclass(frozen=True)
class _Polite:
    """A progress that ends a pass of a fit between two mini-batches, where an image of a user waits."""

    progress: Progress
    host: Host

    def start(self, stage: str, total: int) -> None:
        self.progress.start(stage, total)

    def step(self, count: int = 1) -> None:
        self.progress.step(count)
        if self.host.is_wanted():
            raise _Wanted


def _title(loaded: LoadedModel | None) -> str | None:
    return None if loaded is None else loaded.title


def _portion(progress: Progress, done: float, next_one: float) -> None:
    if isinstance(progress, Handle):
        progress.portion(done, next_one)


class _Recording:
    """A watch that records one image."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._recorder: ImageRecorder | None = None
        self._texts: TextRecorder | None = None
        self.with_texts = False
        """Whether to record the text encoders too."""
        self.texts: TextCalls | None = None
        self.calls: Sequence[Any] = ()
        self.unused = 0
        self.device = "cpu"

    def before(self, parts: Sequence[LivePart]) -> Callable[[], None]:
        from ..fitting.live import ImageRecorder
        from ..fitting.texts import TextRecorder

        if not parts:
            raise HostError("The model was unloaded before the images of the fit. Load it, and start again.")
        with ExitStack() as stack:
            self._recorder = ImageRecorder(parts[0].module)
            stack.callback(self._recorder.close)
            route = next((part.texts for part in parts if part.texts is not None), None)
            if self.with_texts and route is not None:
                self._texts = TextRecorder()
                stack.callback(route.listen(self._texts.hear))
            return stack.pop_all().close

    def after(self, parts: Sequence[LivePart]) -> None:  # noqa: ARG002 - the recording is all
        assert self._recorder is not None
        self.device = self._recorder.device
        self.calls, self.unused = self._recorder.calls(self._steps)
        self._recorder = None
        if self._texts is not None:
            self.texts = self._texts.calls()


class _Fitting:
    """A watch that fits a job."""

    def __init__(self, job: ResizeJob, recorded: ImageCalls, runtime: Runtime) -> None:
        self.job = job
        self._recorded, self._runtime = recorded, runtime

    def before(self, parts: Sequence[LivePart]) -> Callable[[], None]:  # noqa: ARG002 - the image is made for its LoRA
        return lambda: None

    def after(self, parts: Sequence[LivePart]) -> None:
        from ..fitting.live import fit_live
        from ..fitting.paired import FitOptions

        if not parts:
            raise HostError("The model was unloaded during the fit. Load it, and start again.")
        self.job = fit_live(self.job, parts, self._recorded, FitOptions(), self._runtime)


# What can be fitted -----------------------------------------------------------------------------------------------


def check_can_fit(host: HostLists) -> None:
    """Raise Fault where the host cannot fit, now or ever."""
    if FIT not in host.features:
        raise Fault("unavailable", f"{host.name} does not let this extension call its model, so nothing is fitted.")
    loaded, pending = host.loaded(), host.pending()
    if loaded is None or pending is not None:
        what = "No model is loaded" if pending is None else f"{pending} is selected but not loaded"
        raise Fault("reference", f"{what}, and a fit needs the LoRA's base model in memory. Generate an image first.")
    reason = loaded.quantised()
    if reason is not None:
        raise Fault(
            "refused",
            f"{loaded.title} is in memory with {reason}, which cannot be fitted to. Load it as float16 or bfloat16, "
            "or resize without a fit.",
        )


def check_model(host: Host, adapter: Adapter) -> None:
    """Raise Fault where the host cannot fit, or its model is of another family than the LoRA."""
    check_can_fit(host)
    loaded = host.loaded()
    family = None if loaded is None else loaded.family or (family_of(loaded.path) if loaded.path else None)
    if loaded is not None and family and adapter.family and adapter.family.name != family:
        raise Fault(
            "reference",
            f"{adapter.name} is made for {adapter.family.name}, the loaded model {loaded.title} is {family}. "
            "Load a model of the LoRA's family, or resize without a fit.",
        )


# Which images -----------------------------------------------------------------------------------------------------


def read_fit(values: Mapping[str, Any]) -> Json:
    """Return a checked `Fit` of the protocol: image settings with a seed, and counts. Raises Fault."""
    found = read_object(dict(values), FIT_FIELDS.fields, "fit")
    return {**found, "settings": read_settings(found["settings"] or {})}


def with_other_seeds(settings: Json) -> Json:
    """Return image settings for the fit of files that are compared with these settings, on images it has not seen."""
    return {**settings, "seed": (settings["seed"] + _OTHER_SEEDS) % 2**32}


def fit_images(pair: ComparedFiles, fit: Json) -> FitImages:
    """Return the images of a LoRA's fit, with a checked `Fit`.

    `pair` says how prompts refer to it. A prompt without the LoRA gets its activation text and its tag.
    """
    settings = fit["settings"]
    prompt = with_full_strength(Prompts.of(pair, settings["prompt"]).with_tag, pair.names, pair.old)
    request = {**settings, "prompt": prompt, "loras": [pair.old]}
    if pair.files:
        request["files"] = dict(pair.files)
    return FitImages(request, fit["images"], fit["steps"])


@dataclass
class Fits:
    """The fit of the LoRA that was fitted last, so that several sizes of it share its images."""

    _key: str = ""
    _fit: HostFit | None = field(default=None, repr=False)

    def of(self, host: Host, pair: ComparedFiles, fit: Json, source: Path) -> HostFit:
        """Return the fit of a LoRA to the images of a checked `Fit`; `source` is its file."""
        images = fit_images(pair, fit)
        try:
            stamp = stamp_of(source)
        except OSError as error:
            raise FileError(f"{source}: {error.strerror}. Refresh the list.") from error
        key = json.dumps([images.request, images.images, images.steps, stamp, _title(host.loaded())], default=str)
        if self._fit is None or key != self._key:
            self._key, self._fit = key, HostFit(host, images)
        return self._fit
