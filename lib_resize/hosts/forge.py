"""Forge and Forge Neo: the model is loaded for the first image; text encoders have Hugging Face's layout."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import HostError
from .guard import guarded, host_module, read
from .host import TEXT_ENCODERS, UNET, LivePart, LoadedModel
from .keys import DENOISER, HostTensor, host_tensors
from .tensors import attribute, copied, dtype_name, packing, readable, shapes_below, torch_name
from .webui import WebUI
from .webui_modules import family_of, loaded_model
from .webui_texts import text_route
from .webui_watching import LiveModel

_TEXT_ENCODERS = {"clip_l": 0, "clip_h": 0, "clip_g": 1, "t5xxl": 2}
"""The host's name of a text encoder -> its number among `TEXT_ENCODERS`."""
_SAVED_TEXT_ENCODERS = "text_encoders"
"""Before these names in the files that the host saves, in which the weights have its names."""
_LARGE_BATCH = (4, 4, 128, 128)
"""Shape of latents for which the host frees memory: its batches are twice as large."""


@dataclass(frozen=True)
class PatchedModel:
    """A model behind patchers, with LoRAs merged into it or applied separately. See `host.LoadedModel`.

    It holds names only; the model is looked up at each call.
    """

    title: str
    path: Path | None
    family: str | None
    identity: tuple[str, str]
    device: Callable[[], str]

    def weight(self, key: str, rows: tuple[int, int] | None = None, device: str | None = None) -> Any | None:
        parts = self._parts(key)
        if not parts:
            return None
        return _concatenated(parts, rows, device or self.device())

    def dtype(self, key: str) -> str:
        parts = self._parts(key)
        return dtype_name(parts[0][0]) if parts else ""

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        model = self._model()
        if model is None:
            return {}
        found: dict[str, tuple[int, ...]] = {}
        for module, _ in _modules(model):
            own = getattr(module, "diffusion_model", None)
            if own is not None:
                found.update(shapes_below(own.named_parameters(), DENOISER))
        return found

    def quantised(self) -> str | None:
        model = self._model()
        for module, _ in _modules(model) if model is not None else ():
            for layer in module.modules():
                for own in ("weight", "qweight"):
                    weight = getattr(layer, own, None)
                    if weight is not None and hasattr(weight, "dtype") and packing(weight, layer):
                        return packing(weight, layer)
        return None

    def _model(self) -> Any | None:
        model = loaded_model()
        return model if _objects(model) is not None and identity_of(model) == self.identity else None

    def _parts(self, key: str) -> list[tuple[Any, bool]]:
        """Return the host's tensors of a key without LoRAs, and whether each is transposed; empty if one is missing."""
        model = self._model()
        found = (
            []
            if model is None
            else [(_without_any_lora(model, piece), piece.transposed) for piece in host_tensors(key)]
        )
        whole = all(readable(tensor) and torch_name(tensor).startswith(("float", "bfloat")) for tensor, _ in found)
        return found if whole else []


class ForgeHost(WebUI):
    """Forge, and Forge Neo with its several folders of LoRAs."""

    name = "Forge"

    def __init__(self) -> None:
        super().__init__()
        self.name = _own_name()

    def _loaded(self) -> LoadedModel | None:
        """Return None before the first image, when the host has a placeholder without weights."""
        model = loaded_model()
        if _objects(model) is None:
            return None
        path, title = identity_of(model)
        return PatchedModel(title, Path(path) if path else None, family_of(model), (path, title), self.device)

    def _pending(self) -> str | None:
        parameters = read(read(host_module("modules.sd_models"), "model_data"), "forge_loading_parameters")
        info = parameters.get("checkpoint_info") if isinstance(parameters, Mapping) else None
        if info is None:
            return None
        loaded = self.loaded()
        if loaded is not None and str(loaded.path) == str(info.filename):
            return None
        return str(info.title)

    def _device(self) -> str:
        ask = read(self._memory(), "get_torch_device")
        return super()._device() if ask is None else str(ask())

    def make_room(self, bytes: int) -> None:
        manager = self._memory()
        if manager is not None and self.device() != "cpu":
            with guarded("freeing memory of the device"):
                manager.free_memory(bytes, manager.get_torch_device())

    def tidy(self) -> None:
        manager = self._memory()
        if manager is None:
            super().tidy()
            return
        with guarded("freeing memory of the device"):
            manager.soft_empty_cache()

    def _live(self) -> LiveModel:
        return PatchedModules(self.make_room, self._memory)

    def _memory(self) -> Any | None:
        """Return the module that manages the device's memory."""
        return host_module("backend.memory_management")

    def _run_in_image_thread(self, work: Callable[[], Any]) -> Any:
        """Call a function in the host's main thread. That swallows exceptions, and would wait for itself for ever."""
        try:
            from modules_forge import main_thread
        except ImportError:
            return work()
        if threading.current_thread() is threading.main_thread():
            return work()
        results: list[Any] = []
        errors: list[Exception] = []

        def work_and_keep() -> None:
            try:
                results.append(work())
            except Exception as error:
                errors.append(error)

        main_thread.run_and_wait_result(work_and_keep)
        if errors:
            raise errors[0]
        if not results:
            raise HostError("Forge's main thread returned no image.")
        return results[0]


@dataclass(frozen=True)
class PatchedModules:
    """The modules of the loaded model. LoRAs are in the same module, whichever patcher it is read from."""

    make_room: Callable[[int], None]
    memory: Callable[[], Any]
    """Returns the module that manages the device's memory."""

    def parts(self) -> Sequence[LivePart]:
        model = loaded_model()
        module = attribute(model, "forge_objects.unet.model.diffusion_model")
        if module is None:
            return ()
        return (LivePart(UNET, DENOISER.rstrip("."), module, ready=self._denoiser_ready), *self._text_encoders(model))

    def at_work(self) -> AbstractContextManager[None]:
        import torch

        return torch.inference_mode()

    def _text_encoders(self, model: Any) -> Iterator[LivePart]:
        route, encoders = text_route(model), attribute(model, "forge_objects.clip.cond_stage_model")
        for own, number in _TEXT_ENCODERS.items():
            module = attribute(encoders, f"{own}.transformer")
            if route is not None and module is not None:
                prefix = f"{_SAVED_TEXT_ENCODERS}.{own}.transformer"
                yield LivePart(TEXT_ENCODERS[number], prefix, module, route, self._texts_ready)

    @contextmanager
    def _texts_ready(self, bytes: int) -> Iterator[None]:
        """Make room; the host puts the text encoders where it computes whenever it encodes."""
        self.make_room(bytes)
        yield

    @contextmanager
    def _denoiser_ready(self, bytes: int) -> Iterator[None]:
        """Put the denoiser where the host computes, with its LoRAs, as the host does for the steps of an image."""
        import torch

        self.make_room(bytes)
        patcher, functions = _patched_denoiser(loaded_model()), host_module("backend.sampling.sampling_function")
        if functions is None:
            self._load(patcher)
            yield
            return
        functions.sampling_prepare(patcher, torch.empty(_LARGE_BATCH, device="meta"))
        try:
            yield
        finally:
            functions.sampling_cleanup(patcher)

    def _load(self, patcher: Any) -> None:
        load = read(self.memory(), "load_model_gpu")
        if callable(load):
            load(patcher)


def _patched_denoiser(model: Any) -> Any:
    """Return the patcher of the denoiser with the LoRAs of the last image."""
    applied = attribute(model, "forge_objects_after_applying_lora.unet")
    return attribute(model, "forge_objects.unet") if applied is None else applied


def _own_name() -> str:
    version = getattr(sys.modules.get("modules_forge.forge_version"), "version", "")
    return "Forge Neo" if str(version).startswith("neo") else "Forge"


def identity_of(model: Any) -> tuple[str, str]:
    """Return the file and title that the host has stored in a model."""
    info = getattr(model, "sd_checkpoint_info", None)
    path = getattr(info, "filename", None) or getattr(model, "filename", None) or ""
    return str(path), str(getattr(info, "title", None) or Path(str(path)).name)


def _objects(model: Any) -> Any:
    return getattr(model, "forge_objects_original", None) or getattr(model, "forge_objects", None)


def _modules(model: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the modules that contain the denoiser and the text encoders, each with its patcher."""
    objects = _objects(model)
    denoiser = attribute(objects, "unet.model") if objects is not None else None
    if denoiser is not None:
        yield denoiser, objects.unet
    encoders = attribute(objects, "clip.cond_stage_model") if objects is not None else None
    if encoders is not None:
        yield encoders, getattr(objects.clip, "patcher", None)


def _without_any_lora(model: Any, piece: HostTensor) -> Any | None:
    """Return a tensor without any LoRA: from Forge's backup, from the patcher's backup, or the parameter itself."""
    for module, patcher in _modules(model):
        parameter = attribute(module, piece.key)
        if parameter is None:
            continue
        backup = getattr(attribute(module, "lora_loader"), "backup", None) or {}
        if piece.key in backup:
            return backup[piece.key]
        saved = (getattr(patcher, "backup", None) or {}).get(piece.key)
        return parameter if saved is None else getattr(saved, "weight", saved)
    return None


def _concatenated(parts: list[tuple[Any, bool]], rows: tuple[int, int] | None, device: str) -> Any:
    """Copy the requested rows of stacked tensors to a device; tensors without any of them are not copied."""
    first, last = rows if rows is not None else (0, sum(_rows(*part) for part in parts))
    chosen, start = [], 0
    for tensor, transposed in parts:
        stop = start + _rows(tensor, transposed)
        if start < last and first < stop:
            view = tensor.detach().T if transposed else tensor.detach()
            chosen.append(copied(view[max(first - start, 0) : last - start], device))
        start = stop
    if len(chosen) == 1:
        return chosen[0]
    import torch

    return torch.cat(chosen)


def _rows(tensor: Any, transposed: bool) -> int:
    return int(tensor.shape[1 if transposed else 0])
