"""A diffusers pipeline of SDXL's structure at tiny widths, and what it really applies when it loads a LoRA."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.readers.lora_material import Key, Matrix

ADAPTER = "tested"
FEW = ("down_blocks.1.attentions.0.", "mid_block.", "up_blocks.0.attentions.2.", "encoder.layers.1.")


@functools.cache
def pipeline() -> Any:
    """Channels 16, 32, 64; 0, 2 and 1 transformer layers a block; two text encoders of 3 layers."""
    import transformers
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    transformers.utils.logging.set_verbosity_error()
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32, 64),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 1),
        cross_attention_dim=48,
        attention_head_dim=(1, 2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=80,
        norm_num_groups=8,
    )
    first = transformers.CLIPTextModel(_text_config(width=16))
    second = transformers.CLIPTextModelWithProjection(_text_config(width=32))
    return StableDiffusionXLPipeline(
        vae=None,
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=None,
        tokenizer_2=None,
        unet=unet,
        scheduler=EulerDiscreteScheduler(),
    )


def _text_config(width: int) -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=100,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=3,
        num_attention_heads=2,
        projection_dim=32,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )


def components() -> dict[str, Any]:
    pipe = pipeline()
    return {"unet": pipe.unet, "te1": pipe.text_encoder, "te2": pipe.text_encoder_2}


@functools.cache
def shapes(conv: bool = False) -> dict[Key, tuple[int, ...]]:
    """The layers that trainers train, and their weights' shapes."""
    found = {}
    for component, model in components().items():
        for name, module in model.named_modules():
            if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)) and _trained(component, name, conv):
                found[component, _full(component, name)] = tuple(module.weight.shape)
    return found


@functools.cache
def few_shapes() -> dict[Key, tuple[int, ...]]:
    """A part of the attention layers, of each kind and level: diffusers takes long to load many."""
    return {key: shape for key, shape in shapes().items() if any(block in key[1] for block in FEW)}


def _trained(component: str, name: str, conv: bool) -> bool:
    if component != "unet":
        return "layers" in name
    return "attentions" in name or (conv and ("resnets" in name or "samplers" in name))


def _full(component: str, name: str) -> str:
    return name if component == "unet" or name.startswith(("text_model.", "text_projection")) else f"text_model.{name}"


@dataclass(frozen=True)
class Applied:
    """One layer as diffusers runs it."""

    delta: Matrix
    """``scaling * B @ A``, (n, m)."""
    rank: int


def applied(path: Path) -> dict[Key, Applied]:
    """Load a file with the pipeline's own loader, and return what each layer adds to its weight."""
    with _loaded(path) as models:
        return {
            (component, _full(component, name)): _of_layer(module)
            for component, model in models.items()
            for name, module in model.named_modules()
            if ADAPTER in getattr(module, "lora_A", {})
        }


@contextmanager
def _loaded(path: Path) -> Iterator[dict[str, Any]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for matrices as small as these, the others only get in the way
    try:
        pipeline().load_lora_weights(str(path), adapter_name=ADAPTER)
        yield components()
    finally:
        unload()
        torch.set_num_threads(threads)


def unload() -> None:
    """The pipeline without any LoRA; its own method stops at the first part that has none."""
    pipe = pipeline()
    pipe.unload_lora_weights()
    for model in components().values():
        assert not any(hasattr(module, "lora_A") for module in model.modules())


def _of_layer(module: Any) -> Applied:
    up, down = (part[ADAPTER].weight.detach().double().numpy() for part in (module.lora_B, module.lora_A))
    rank = len(down)
    delta = module.scaling[ADAPTER] * up.reshape(-1, rank) @ down.reshape(rank, -1)
    return Applied(np.asarray(delta), rank)
