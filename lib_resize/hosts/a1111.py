"""AUTOMATIC1111's WebUI, and forks that keep their model in the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .host import TEXT_ENCODERS, UNET, LivePart, LoadedModel
from .keys import DENOISER
from .tensors import attribute, copied, dtype_name, packing, readable, shapes_below
from .webui import WebUI
from .webui_modules import family_of, loaded_model
from .webui_texts import text_route
from .webui_watching import LiveModel, torch_as_in_images

_ENCODERS = ("transformer", "model")
"""Where a text encoder has its module: that of transformers, or of OpenCLIP. So are they named in files."""


@dataclass(frozen=True)
class A1111Model:
    """A model of `sgm` or `ldm` classes with LoRAs merged into it. See `host.LoadedModel`.

    It holds names only. The model is looked up at each call, because the same object may hold another checkpoint by
    then.
    """

    title: str
    path: Path | None
    family: str | None
    identity: tuple[str, str]
    """File name and hash, as the host knows them."""
    device: Callable[[], str]

    def weight(self, key: str, rows: tuple[int, int] | None = None, device: str | None = None) -> Any | None:
        model = self._model()
        tensor: Any = None if model is None else _without_any_lora(model, key)
        if not readable(tensor):
            return None
        return copied(tensor if rows is None else tensor[rows[0] : rows[1]], device or self.device())

    def dtype(self, key: str) -> str:
        model = self._model()
        tensor = None if model is None else _without_any_lora(model, key)
        return dtype_name(tensor) if readable(tensor) else ""

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        model = self._model()
        found: dict[str, tuple[int, ...]] = {}
        for prefix, root in _roots(model) if model is not None else ():
            found.update(shapes_below(root.named_parameters(), prefix))
        return found

    def quantised(self) -> str | None:
        model = self._model()
        for _, root in _roots(model) if model is not None else ():
            for module in root.modules():
                weight = getattr(module, "weight", None)
                if (
                    hasattr(weight, "dtype")
                    and getattr(module, "fp16_weight", None) is None
                    and packing(weight, module)
                ):
                    return packing(weight, module)
        return None

    def _model(self) -> Any | None:
        model = loaded_model()
        return model if model is not None and _identity(model) == self.identity else None


class A1111Host(WebUI):
    """AUTOMATIC1111's WebUI."""

    name = "AUTOMATIC1111"
    lora_options = (*WebUI.lora_options, "lyco_dir_backcompat")

    def _loaded(self) -> LoadedModel | None:
        model = loaded_model()
        info = getattr(model, "sd_checkpoint_info", None)
        if info is None or not _is_torch(model):
            return None
        return A1111Model(str(info.title), Path(info.filename), family_of(model), _identity(model), self.device)

    def _live(self) -> LiveModel:
        return MergedModules(self)


@dataclass(frozen=True)
class MergedModules:
    """The modules of the loaded model. LoRAs of the last image stay merged into their weights."""

    host: A1111Host

    def parts(self) -> Sequence[LivePart]:
        model = loaded_model()
        if model is None or not _is_torch(model):
            return ()
        denoiser = LivePart(UNET, DENOISER.rstrip("."), model.model.diffusion_model, ready=self._ready)
        return (denoiser, *self._text_encoders(model))

    def at_work(self) -> AbstractContextManager[None]:
        return torch_as_in_images()

    def _text_encoders(self, model: Any) -> Iterator[LivePart]:
        route = text_route(model)
        roots = [(prefix, root) for prefix, root in _roots(model) if prefix != DENOISER]
        for name, (prefix, root) in zip(TEXT_ENCODERS, roots, strict=False):
            for own in _ENCODERS:
                module = attribute(root, own)
                if route is not None and attribute(module, "named_parameters") is not None:
                    yield LivePart(name, prefix + own, module, route, self._ready)

    @contextmanager
    def _ready(self, bytes: int) -> Iterator[None]:
        self.host.make_room(bytes)
        yield


def _is_torch(model: Any) -> bool:
    """Return whether the model has torch weights; in forks that run ONNX it has none."""
    return attribute(model, "model.diffusion_model.named_parameters") is not None


def _identity(model: Any) -> tuple[str, str]:
    info = model.sd_checkpoint_info
    return str(info.filename), str(getattr(info, "sha256", None) or getattr(info, "hash", None) or "")


def _roots(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield prefixes of the file's keys, and the modules whose names follow them."""
    denoiser = attribute(model, "model.diffusion_model")
    if denoiser is not None:
        yield DENOISER, denoiser
    embedders = attribute(model, "conditioner.embedders")
    for index, embedder in enumerate(embedders if embedders is not None else ()):
        if hasattr(embedder, "wrapped"):
            yield f"conditioner.embedders.{index}.", embedder.wrapped
    if embedders is None and attribute(model, "cond_stage_model.wrapped") is not None:
        yield "cond_stage_model.", model.cond_stage_model.wrapped


def _without_any_lora(model: Any, key: str) -> Any | None:
    """Return the tensor of a key without any LoRA; None where there is none."""
    for prefix, root in _roots(model):
        if key.startswith(prefix):
            parent, _, own = key.removeprefix(prefix).rpartition(".")
            module = attribute(root, parent) if parent else root
            return None if module is None else _from_backup(root, module, parent, own)
    return None


def _from_backup(root: Any, module: Any, name: str, own: str) -> Any | None:
    """Return a module's tensor from the host's backup, if there is one.

    Fused attention has one backup for both of its matrices. A 16-bit copy of an 8-bit weight is exact.
    """
    exact = getattr(module, "fp16_weight", None)
    if own == "weight" and exact is not None:
        return exact
    backup = getattr(module, "network_weights_backup", None)
    if own == "in_proj_weight":
        return backup[0] if backup is not None else getattr(module, own, None)
    if own == "weight" and name.endswith(".out_proj"):
        attention = attribute(root, name.rpartition(".")[0])
        fused = getattr(attention, "network_weights_backup", None)
        if isinstance(fused, tuple):
            return fused[1]
    if own == "weight" and backup is not None:
        return backup
    return getattr(module, own, None)
