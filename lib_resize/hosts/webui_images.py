"""Generate images in A1111's family of WebUIs. Their modules are imported inside of functions only."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

from ..errors import Cancelled, FileError, HostError, ResizeError, UsageError
from .guard import read
from .hidden_loras import HiddenLoras
from .locks import SharedLock
from .webui_modules import networks, shared
from .webui_progress import JOB
from .webui_watching import WatchedModel

IMAGE_KEYS = frozenset(
    {"prompt", "negative_prompt", "seed", "steps", "cfg_scale", "width", "height", "sampler_name", "scheduler"}
)
"""Keys of a request besides ``loras`` and ``files``; the host's own names."""


class ImageGenerator:
    """Generates one image at a time, under the host's lock."""

    def __init__(self, lock: SharedLock, run: Callable[[Callable[[], Any]], Any], hidden: HiddenLoras) -> None:
        """`run` calls a function in the thread in which the host generates images."""
        self._lock = lock
        self._run = run
        self._hidden = hidden
        self._running = threading.Event()
        self._watched = False
        self._stopped = threading.Event()

    @property
    def running(self) -> bool:
        """Whether an image is being generated, or a watch works with the model."""
        return self._running.is_set() or self._watched

    def generate(self, request: Mapping[str, Any], watched: WatchedModel | None = None) -> Any:
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
                if watched is None:
                    return self._run(lambda: self._image(settings, loras))
                return self._run(lambda: self._around(watched, settings, loras))

    def _around(self, watched: WatchedModel, settings: dict[str, Any], loras: tuple[str, ...]) -> Any:
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

    def _image(self, settings: dict[str, Any], loras: tuple[str, ...]) -> Any:
        from modules import processing

        state = _state()
        state.begin(job=JOB)
        state.job_count = 1
        self._running.set()
        try:
            made = processing.StableDiffusionProcessingTxt2Img(
                sd_model=shared("sd_model"),
                batch_size=1,
                n_iter=1,
                do_not_save_samples=True,
                do_not_save_grid=True,
                **settings,
            )
            made.scripts = None
            with closing(made):
                result = processing.process_images(made)
            return self._accepted(result, loras)
        except (Cancelled, ResizeError):
            raise
        except Exception as error:  # hosts and their extensions raise anything
            raise HostError(f"The WebUI could not generate the image: {type(error).__name__}: {error}") from error
        finally:
            self._running.clear()
            state.end()

    def _accepted(self, result: Any, loras: tuple[str, ...]) -> Any:
        """Return the image of a result. Raises where it was stopped, is missing, or a LoRA was not applied."""
        state = _state()
        if self._stopped.is_set() or state.interrupted or getattr(state, "stopping_generation", False):
            raise Cancelled("The image was stopped.")
        missing = _not_applied(loras)
        if missing:
            comments = str(getattr(result, "comments", "") or "").strip()
            found = f"{', '.join(missing)}: the WebUI did not apply this LoRA."
            raise FileError(f"{found} {comments}" if comments else found)
        if not result.images:
            raise HostError("The WebUI returned no image and no reason.")
        return result.images[0]


def _state() -> Any:
    state = shared("state")
    if state is None:
        raise HostError("The WebUI's progress (modules.shared.state) is missing, so no image can be generated.")
    return state


def _not_applied(loras: tuple[str, ...]) -> list[str]:
    applied = read(networks(), "loaded_networks")
    if applied is None:
        return []
    names = {read(one, "name") for one in applied}
    return [name for name in loras if name not in names]
