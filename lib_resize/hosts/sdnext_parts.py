"""The parts of a diffusers pipeline, and where the weights of a checkpoint's keys are in it. Nothing is imported here.

A single file has the names of `sgm` or `ldm`; the pipeline has diffusers' names for the UNet and those of Hugging Face
for text encoders. A folder of a pipeline has the pipeline's own names, such as ``unet.conv_in.weight``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from ..names.architecture import UNetConfig, unet_weights
from .guard import read
from .keys import DENOISER, HostTensor, host_tensors
from .tensors import attribute

_DENOISERS = ("unet", "transformer", "transformer_2", "prior")
_TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4", "llm_adapter")
_PARTS = (*_DENOISERS, *_TEXT_ENCODERS)
_ENCODERS = {
    "clip_l.transformer.": "text_encoder.",
    "clip_g.transformer.": "text_encoder_2.",
    "clip_h.transformer.": "text_encoder.",
}
_LEVEL = "text_model."
"""A level of module names that transformers had until version 5.5."""


def pipeline_of(model: Any) -> Any | None:
    """Return the pipeline of a loaded model, which can be in a wrapper; None where it has no torch modules."""
    inner = read(model, "pipe")
    found = model if inner is None else inner
    return found if any(True for _ in parts_of(found)) else None


def parts_of(pipeline: Any) -> Iterator[tuple[str, Any]]:
    """Yield the names and modules of all parts that a LoRA can change."""
    for name in _PARTS:
        part = read(pipeline, name)
        if callable(read(part, "named_parameters")) and callable(read(part, "modules")):
            yield name, part


def places_of(pipeline: Any, key: str) -> Sequence[HostTensor]:
    """Return the tensors, by dotted names in the pipeline, whose rows make the tensor of a checkpoint's key.

    Empty where the key has no counterpart. A name in the result may be missing in the pipeline.
    """
    first = key.partition(".")[0]
    if first in _PARTS:
        return (HostTensor(key),)
    if key.startswith(DENOISER):
        name = _unet_names(_unet_config(read(pipeline, "unet"))).get(key.removeprefix(DENOISER).removesuffix(".weight"))
        return () if name is None or not key.endswith(".weight") else (HostTensor(f"unet.{name}.weight"),)
    return tuple(
        HostTensor(home + place.key.removeprefix(prefix), place.transposed)
        for place in host_tensors(key)
        for prefix, home in _ENCODERS.items()
        if place.key.startswith(prefix)
    )


def owner_of(pipeline: Any, key: str) -> tuple[Any | None, str]:
    """Return the module that has a tensor, and the tensor's own name; None where the pipeline has no such module.

    The module can be an adapter of peft around the layer.
    """
    parent, _, own = key.rpartition(".")
    module = attribute(pipeline, parent)
    if module is None and _LEVEL in parent:
        module = attribute(pipeline, parent.replace(_LEVEL, "", 1))
    return module, own


def _unet_config(unet: Any) -> UNetConfig | None:
    """Return the numbers of a UNet that its names depend on; None for a UNet of another kind."""
    config = read(unet, "config")
    widths, blocks = read(config, "block_out_channels"), read(config, "down_block_types")
    if not widths or not blocks or len(widths) != len(blocks):
        return None
    depths = read(config, "transformer_layers_per_block", 1)
    each = tuple(depths) if isinstance(depths, (list, tuple)) else (depths,) * len(widths)
    if len(each) != len(widths) or not all(isinstance(depth, int) for depth in each):
        return None
    return UNetConfig(
        channels=widths[0],
        multipliers=tuple(width // widths[0] for width in widths),
        depths=tuple(depth if "CrossAttn" in block else 0 for depth, block in zip(each, blocks, strict=True)),
        middle_depth=each[-1],
        label_channels=1 if read(unet, "add_embedding") is not None else None,
        res_blocks=int(read(config, "layers_per_block", 2)),
    )


@lru_cache(maxsize=4)
def _unet_names(config: UNetConfig | None) -> Mapping[str, str]:
    """Map the names of a single file to those of diffusers, without ``.weight``."""
    return {} if config is None else {weight.sgm: weight.diffusers for weight in unet_weights(config)}
