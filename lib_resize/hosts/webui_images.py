"""Generate images in A1111's family of WebUIs. Their modules are imported inside of functions only."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

from ..errors import Cancelled, FileError, HostError, ResizeError, UsageError
from .guard import attempt, attempt_list, host_module, read
from .hidden_loras import HiddenLoras
from .host import GeneratedImage
from .locks import SharedLock
from .webui_latents import keeping_latents
from .webui_modules import loaded_networks, shared
from .webui_progress import JOB, end_job
from .webui_watching import WatchedModel

IMAGE_KEYS = frozenset(
    {"prompt", "negative_prompt", "seed", "steps", "cfg_scale", "width", "height", "sampler_name", "scheduler"}
)
"""Keys of a request besides ``loras`` and ``files``; the host's own names."""

_ADDED_NETWORK = "sd_lora"  # the host's option "Add network to prompt": a LoRA that every prompt gets
_NO_NETWORK = "None"


class AppliedLoras:
    """Which LoRAs a host applied to its last image, as far as it shows that.

    Some hosts never fill their list: while it was always empty, an empty list proves nothing.
    """

    def __init__(self) -> None:
        self._is_kept = False

    def look(self) -> set[Any] | None:
        """Return the names in the host's list; None where the host shows nothing."""
        found = attempt_list("applied LoRAs", loaded_networks())
        self._is_kept = self._is_kept or bool(found)
        return {read(one, "name") for one in found} if self._is_kept else None

    def missing(self, loras: tuple[str, ...], comments: str) -> list[str]:
        """Return the names that were not applied; `comments` are the host's on the image, and used without a list."""
        applied = self.look()
        if applied is None:
            return [name for name in loras if name in comments]
        return [name for name in loras if name not in applied]

    def reason(self, missing: list[str]) -> str:  # noqa: ARG002 - hosts of this family give the reason in the comments
        """Return why the host did not apply these LoRAs, as a sentence; empty where that is unknown."""
        return ""


class ImageGenerator:
    """Generates one image at a time, under the host's lock."""

    applied_loras: type[AppliedLoras] = AppliedLoras

    def __init__(self, lock: SharedLock, run: Callable[[Callable[[], Any]], Any], hidden: HiddenLoras) -> None:
        """`run` calls a function in the thread in which the host generates images."""
        self._lock = lock
        self._run = run
        self._hidden = hidden
        self._running = threading.Event()
        self._watched = False
        self._stopped = threading.Event()
        self._applied = self.applied_loras()

    @property
    def running(self) -> bool:
        """Whether an image is being generated, or a watch works with the model."""
        return self._running.is_set() or self._watched

    def generate(self, request: Mapping[str, Any], watched: WatchedModel | None = None) -> GeneratedImage:
        """Generate an image. See `host.Host.generate`."""
        settings = dict(request)
        loras, files = tuple(settings.pop("loras", ())), dict(settings.pop("files", {}))
        unknown = sorted(settings.keys() - IMAGE_KEYS)
        if unknown or not isinstance(settings.get("prompt"), str):
            raise UsageError(
                f"An image was requested with {unknown or 'no prompt'}; the known keys are {sorted(IMAGE_KEYS)}."
            )
        self._stopped.clear()
        with self._lock.alone():
            if self._stopped.is_set():
                raise Cancelled("The image was stopped before it began.")
            with self._hidden.known(files):
                made: GeneratedImage = self._run(lambda: self._watched_image(settings, loras, watched))
                return made

    def _watched_image(
        self, settings: dict[str, Any], loras: tuple[str, ...], watched: WatchedModel | None
    ) -> GeneratedImage:
        if watched is None:
            return self._image(settings, loras)
        self._watched = True
        try:
            return watched.around(lambda: self._image(settings, loras))
        finally:
            self._watched = False

    def stop(self) -> None:
        """Stop the image that is being generated or waits for the lock."""
        self._stopped.set()
        if self._running.is_set():
            _state().interrupt()

    def _image(self, settings: dict[str, Any], loras: tuple[str, ...]) -> GeneratedImage:
        state = _state()
        begun = state.begin(JOB)
        state.job_count = 1
        self._running.set()
        self._applied.look()
        try:
            return self._made(settings, loras)
        except (Cancelled, ResizeError):
            raise
        except Exception as error:  # hosts and their extensions raise anything
            raise HostError(f"The WebUI could not generate the image: {type(error).__name__}: {error}") from error
        finally:
            self._running.clear()
            end_job(state, begun)

    def _made(self, settings: dict[str, Any], loras: tuple[str, ...]) -> GeneratedImage:
        from modules import processing

        made = keeping_latents(processing.StableDiffusionProcessingTxt2Img)(
            sd_model=shared("sd_model"),
            batch_size=1,
            n_iter=1,
            do_not_save_samples=True,
            do_not_save_grid=True,
            **self._all_settings(settings),
        )
        made.scripts = self._no_scripts()
        with closing(made):
            result = processing.process_images(made)
        return GeneratedImage(self._accepted(result, loras), read(made, "kept_latent"))

    def _no_scripts(self) -> Any:
        """Return a runner without scripts. reForge reads the lists of an image's runner, and fails without one."""
        runner = read(host_module("modules.scripts"), "ScriptRunner")
        return attempt("images without scripts", runner, None) if callable(runner) else None

    def _all_settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Return the settings of an image as the host knows them."""
        return {**_without_added_network(), **settings}

    def _accepted(self, result: Any, loras: tuple[str, ...]) -> Any:
        """Return the image of a result. Raises where it was stopped, is missing, or a LoRA was not applied."""
        state = _state()
        if self._stopped.is_set() or state.interrupted or getattr(state, "stopping_generation", False):
            raise Cancelled("The image was stopped.")
        if result is None:
            raise HostError("The WebUI returned no image and no reason.")
        comments = str(getattr(result, "comments", "") or "").strip()
        missing = self._applied.missing(loras, comments)
        if missing:
            reasons = " ".join(filter(None, (comments, self._applied.reason(missing))))
            found = f"{', '.join(missing)}: the WebUI did not apply this LoRA."
            raise FileError(f"{found} {reasons}" if reasons else found)
        if not result.images:
            raise HostError("The WebUI returned no image and no reason.")
        return result.images[0]


def _state() -> Any:
    state = shared("state")
    if state is None:
        raise HostError("The WebUI's progress (modules.shared.state) is missing, so no image can be generated.")
    return state


def _without_added_network() -> dict[str, Any]:
    """Return settings of one image with which the host adds no LoRA to its prompt; the host restores its option."""
    added = read(shared("opts"), _ADDED_NETWORK)
    return {} if added in (None, "", _NO_NETWORK) else {"override_settings": {_ADDED_NETWORK: _NO_NETWORK}}
