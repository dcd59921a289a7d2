"""What A1111 and all WebUIs derived from it have in common."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from ..errors import HostError
from . import webui_caches as caches
from .guard import attempt, guarded, host_module, read
from .host import CARDS, FIT, GENERATE, LOADED_MODEL, PROMPT, XYZ, GeneratedImage, ImageWatch, LoadedModel
from .locks import Lockable, SharedLock
from .webui_files import WebUIFiles
from .webui_images import ImageGenerator
from .webui_modules import cmd_options, networks, own_lock, queue_lock, shared
from .webui_page import WebUIPage
from .webui_progress import JOB, WebUIProgress
from .webui_watching import LiveModel, WatchedModel


class WebUI(WebUIFiles, WebUIPage, Lockable):
    """A `host.Host` for the whole family. Subclasses know where their host keeps its model."""

    name = "WebUI"
    image_generator: type[ImageGenerator] = ImageGenerator
    host_progress: type[WebUIProgress] = WebUIProgress

    def __init__(self) -> None:
        super().__init__()
        lock = queue_lock()
        self._has_lock = lock is not None
        self._queue_lock = lock or own_lock()
        self._lock = SharedLock(self._queue_lock)
        self._progress = self.host_progress(self._queue_lock)
        self._images = self.image_generator(self._lock, self._run_in_image_thread, self._hidden)

    @property
    def features(self) -> frozenset[str]:
        found = {PROMPT}
        if self._has_lock and host_module("modules.sd_models") is not None:
            found.add(LOADED_MODEL)
        if self._has_lock and host_module("modules.processing") is not None and shared("state") is not None:
            found.add(GENERATE)
        if {LOADED_MODEL, GENERATE} <= found and networks() is not None and self._live() is not None:
            found.add(FIT)
        if networks() is not None:
            found.add(CARDS)
        if self.xyz_script() is not None:
            found.add(XYZ)
        return frozenset(found)

    def replaced(self, paths: Collection[Path]) -> None:
        with self._lock.shared():
            names = attempt("the names of replaced LoRAs", lambda: caches.names_at(paths), {one.stem for one in paths})
            caches.forget(names)
            caches.renew(names)

    # The model --------------------------------------------------------------------------------------------

    def loaded(self) -> LoadedModel | None:
        return attempt("the loaded model", self._loaded, None) if self._has_lock else None

    def _loaded(self) -> LoadedModel | None:
        return None

    def pending(self) -> str | None:
        return attempt("the selected checkpoint", self._pending, None)

    def _pending(self) -> str | None:
        """Return None: A1111 loads a checkpoint as soon as it is selected."""
        return None

    def busy(self) -> str | None:
        if self._lock.held or self._images.running:
            return None
        locked = read(read(self._queue_lock, "_lock", self._queue_lock), "locked")
        if self._has_lock and callable(locked):
            return "the WebUI is generating an image or loading a model" if locked() else None
        job = read(shared("state"), "job")
        return "the WebUI is generating an image" if job and job != JOB else None

    def device(self) -> str:
        if read(cmd_options(), "resize_lora_cpu", False):
            return "cpu"
        return attempt("the device", self._device, "cpu")

    def _device(self) -> str:
        device = read(host_module("modules.devices"), "device")
        return "cpu" if device is None else str(device)

    def make_room(self, bytes: int) -> None:  # noqa: ARG002 - A1111 can only free cached memory
        self.tidy()

    def tidy(self) -> None:
        collect = read(host_module("modules.devices"), "torch_gc")
        if collect is not None:
            with guarded("freeing memory of the device"):
                collect()

    # Progress and images ----------------------------------------------------------------------------------

    def begin_job(self, title: str) -> None:
        self._progress.begin(title)

    def progress(self, done: int, total: int, text: str) -> None:
        self._progress.step(done, total, text)

    def end_job(self) -> None:
        self._progress.end()

    def generate(self, request: Mapping[str, Any], watch: ImageWatch | None = None) -> GeneratedImage:
        if watch is None:
            return self._images.generate(request)
        live = self._live()
        if live is None:
            raise HostError(f"{self.name} does not let this extension call its model.")
        return self._images.generate(request, WatchedModel(watch, live))

    def _live(self) -> LiveModel | None:
        """Return the access to the modules of the loaded model; None where this host gives none."""
        return None

    def stop_generating(self) -> None:
        self._images.stop()

    def _run_in_image_thread(self, work: Callable[[], Any]) -> Any:
        """Call a function in the thread in which the host generates images; here, in this one."""
        return work()
