"""The diffusers pipeline that SD.Next has in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .guard import read
from .sdnext_parts import owner_of, parts_of, pipeline_of, places_of
from .tensors import copied, dtype_name, packing, readable
from .webui_modules import loaded_model

_FUSED = "LoRAs that SD.Next merged into them"
_BY_WIDTH = {768: "SD1.5", 1024: "SD2"}
"""Width of the text conditioning -> family, of the UNets that are not SDXL's."""
_PACKERS = {"sdnq_dequantizer": "SDNQ", "qweight": "quanto"}
"""Attribute of a packed layer -> who packs so."""
_ADAPTERS = (".lora_A.", ".lora_B.", ".lora_embedding_", ".lora_magnitude_vector.")


@dataclass(frozen=True)
class PipelineModel:
    """A model of diffusers. See `host.LoadedModel`.

    SD.Next adds LoRAs to the weights. By default it keeps no copy: it subtracts them after the image. While one is
    added, no such weight is returned. It holds names only; the pipeline is looked up at each call.
    """

    title: str
    path: Path | None
    family: str | None
    identity: tuple[str, str]
    device: Callable[[], str]

    def weight(self, key: str, rows: tuple[int, int] | None = None, device: str | None = None) -> Any | None:
        tensors = self._tensors(key)
        if not tensors:
            return None
        whole = tensors[0] if len(tensors) == 1 else _stacked(tensors)
        return copied(whole if rows is None else whole[rows[0] : rows[1]], device or self.device())

    def dtype(self, key: str) -> str:
        tensors = self._tensors(key)
        return dtype_name(tensors[0]) if tensors else ""

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        pipeline = self._pipeline()
        return {
            f"{name}.{own.replace('.base_layer.', '.')}": tuple(tensor.shape)
            for name, part in (parts_of(pipeline) if pipeline is not None else ())
            for own, tensor in part.named_parameters()
            if len(tensor.shape) >= 2 and not any(word in f".{own}" for word in _ADAPTERS)
        }

    def quantised(self) -> str | None:
        pipeline = self._pipeline()
        fused = False
        for _, part in parts_of(pipeline) if pipeline is not None else ():
            for module in part.modules():
                reason = _reason(module)
                if reason is not None:
                    return reason
                fused = fused or _is_fused(module)
        return _FUSED if fused else None

    def _pipeline(self) -> Any | None:
        model = loaded_model()
        return pipeline_of(model) if model is not None and identity_of(model) == self.identity else None

    def _tensors(self, key: str) -> list[Any]:
        """Return the tensors of a key, without LoRAs; none unless all of them can be read."""
        pipeline = self._pipeline()
        places = places_of(pipeline, key) if pipeline is not None else ()
        found: list[Any] = [_without_lora(*owner_of(pipeline, place.key)) for place in places]
        if not all(map(readable, found)):
            return []
        return [tensor.T if place.transposed else tensor for tensor, place in zip(found, places, strict=True)]


def loaded_pipeline(device: Callable[[], str]) -> PipelineModel | None:
    """Return the model in memory; None where there is none, or it is no pipeline with torch modules."""
    model = loaded_model()
    pipeline = pipeline_of(model)
    if pipeline is None or checkpoint_info(model) is None:
        return None
    title, path = _title_and_path(model)
    return PipelineModel(title, path, _family(pipeline), identity_of(model), device)


def checkpoint_info(model: Any) -> Any | None:
    """Return the host's entry of a model, which can be at the pipeline inside of a wrapper."""
    own = read(model, "sd_checkpoint_info")
    return own if own is not None else read(read(model, "pipe"), "sd_checkpoint_info")


def identity_of(model: Any) -> tuple[str, str]:
    """Return file name and name, which stay the same when the host computes a hash."""
    info = checkpoint_info(model)
    return str(read(info, "filename")), str(read(info, "name"))


def _title_and_path(model: Any) -> tuple[str, Path | None]:
    info = checkpoint_info(model)
    path = checkpoint_path(info)
    return str(read(info, "title") or read(info, "name") or ""), path


def checkpoint_path(info: Any) -> Path | None:
    """Return the file or folder of an entry. The file name of a folder is only a name; its path is another field."""
    for name in ("path", "filename"):
        text = read(info, name)
        if isinstance(text, str) and text and Path(text).exists():
            return Path(text)
    return None


def _family(pipeline: Any) -> str | None:
    kind = type(pipeline).__name__
    if "StableDiffusionXL" in kind:
        return "SDXL"
    if "StableDiffusion3" in kind or "StableDiffusion" not in kind:
        return None
    return _BY_WIDTH.get(read(read(read(pipeline, "unet"), "config"), "cross_attention_dim"))


def _reason(module: Any) -> str | None:
    """Return why the numbers of a module are not those of the file."""
    weight = read(module, "weight")
    packer = next((name for attribute, name in _PACKERS.items() if read(module, attribute) is not None), None)
    if type(weight).__module__.partition(".")[0] == "torchao":
        packer = "torchao"
    if packer is not None:
        return f"{packer} quantisation"
    return packing(weight, module) if hasattr(weight, "dtype") else None


def _is_fused(module: Any) -> bool:
    """Return whether a LoRA is in the weight and no copy was kept: the host then has True in the copy's place."""
    names, backup = read(module, "network_current_names"), read(module, "network_weights_backup")
    return (bool(names) and isinstance(backup, bool)) or bool(read(module, "merged", False))


def _without_lora(module: Any, own: str) -> Any | None:
    if module is None or (own == "weight" and _is_fused(module)):
        return None
    base = read(module, "base_layer")
    module = module if base is None else base
    backup = read(module, "network_weights_backup")
    if own == "weight" and backup is not None and not isinstance(backup, bool):
        return backup
    return read(module, own)


def _stacked(tensors: list[Any]) -> Any:
    import torch

    return torch.cat([tensor.detach() for tensor in tensors])
