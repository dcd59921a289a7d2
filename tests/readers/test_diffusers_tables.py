"""The tables of transformers, judged by diffusers: its classes on torch's meta device, and its converters."""

from __future__ import annotations

import warnings
from math import prod
from typing import Any

import diffusers
import pytest
import torch
from diffusers.loaders import single_file_utils

from lib_resize.names.families import (
    AURAFLOW,
    CASCADE,
    CHROMA,
    FLUX,
    FLUX2,
    HIDREAM,
    HUNYUAN_VIDEO,
    KREA2,
    LTX,
    LUMINA2,
    PIXART,
    QWEN_IMAGE,
    SD3,
    WAN,
    Z_IMAGE,
)
from lib_resize.names.family import Family, LayerName, layers
from lib_resize.names.identify import canonical_id

_SD3 = {"sample_size": 128, "in_channels": 16, "attention_head_dim": 64, "joint_attention_dim": 4096,
        "pooled_projection_dim": 2048, "pos_embed_max_size": 192, "qk_norm": "rms_norm"}  # fmt: skip
_SD3_MEDIUM: dict[str, Any] = {**_SD3, "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536}
_KLEIN = {"guidance_embeds": False}
_CASCADE = {"switch_level": [False], "clip_text_in_channels": 1280, "clip_text_pooled_in_channels": 1280,
            "clip_image_in_channels": 768, "down_blocks_repeat_mappers": [1, 1], "up_blocks_repeat_mappers": [1, 1],
            "block_types_per_layer": [["SDCascadeResBlock", "SDCascadeTimestepBlock",
                                       "SDCascadeAttnBlock"]] * 2}  # fmt: skip

MODELS: list[tuple[Family, str, dict[str, Any]]] = [
    (FLUX[0], "FluxTransformer2DModel", {"guidance_embeds": True}),
    (FLUX[1], "FluxTransformer2DModel", {}),
    (CHROMA[0], "ChromaTransformer2DModel", {}),
    (FLUX2[0], "Flux2Transformer2DModel", {}),
    (FLUX2[1], "Flux2Transformer2DModel", {**_KLEIN, "num_layers": 8, "num_single_layers": 24,
                                           "num_attention_heads": 32, "joint_attention_dim": 12288}),
    (FLUX2[2], "Flux2Transformer2DModel", {**_KLEIN, "num_layers": 5, "num_single_layers": 20,
                                           "num_attention_heads": 24, "joint_attention_dim": 7680}),
    (SD3[0], "SD3Transformer2DModel", {**_SD3, "num_layers": 38, "num_attention_heads": 38,
                                       "caption_projection_dim": 2432}),
    (SD3[1], "SD3Transformer2DModel", {**_SD3_MEDIUM, "dual_attention_layers": tuple(range(13))}),
    (SD3[2], "SD3Transformer2DModel", _SD3_MEDIUM),
    (HUNYUAN_VIDEO[0], "HunyuanVideoTransformer3DModel", {}),
    (WAN[0], "WanTransformer3DModel", {"image_dim": 1280, "added_kv_proj_dim": 5120, "in_channels": 36}),
    (WAN[1], "WanTransformer3DModel", {}),
    (WAN[2], "WanTransformer3DModel", {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}),
    (WAN[3], "WanTransformer3DModel", {"num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30,
                                       "in_channels": 48, "out_channels": 48}),
    (QWEN_IMAGE[0], "QwenImageTransformer2DModel", {}),
    (Z_IMAGE[0], "ZImageTransformer2DModel", {}),
    (LUMINA2[0], "Lumina2Transformer2DModel", {"cap_feat_dim": 2304}),
    (AURAFLOW[0], "AuraFlowTransformer2DModel", {}),
    (PIXART[0], "PixArtTransformer2DModel", {"caption_channels": 4096, "use_additional_conditions": True}),
    (PIXART[1], "PixArtTransformer2DModel", {"caption_channels": 4096, "use_additional_conditions": False}),
    (CASCADE[0], "StableCascadeUNet", _CASCADE),
    (CASCADE[1], "StableCascadeUNet", {**_CASCADE, "block_out_channels": [1536, 1536], "conditioning_dim": 1536,
                                       "num_attention_heads": [24, 24], "down_num_layers_per_block": [4, 12],
                                       "up_num_layers_per_block": [12, 4]}),
    (LTX[0], "LTXVideoTransformer3DModel", {"attention_head_dim": 128, "cross_attention_dim": 4096, "num_layers": 48}),
    (LTX[1], "LTXVideoTransformer3DModel", {}),
    (HIDREAM[0], "HiDreamImageTransformer2DModel", {"patch_size": 2, "in_channels": 16, "out_channels": 16,
                                                    "caption_channels": [4096, 4096], "llama_layers": list(range(48))}),
    (KREA2[0], "Krea2Transformer2DModel", {}),
]  # fmt: skip
model_cases = pytest.mark.parametrize(
    ("family", "name", "config"), MODELS, ids=[f"{family.name} {family.size}" for family, *_ in MODELS]
)


def weights_of(name: str, config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every matrix and convolution of a class, made without memory."""
    model = getattr(diffusers, name, None)
    if model is None:
        pytest.skip(f"this diffusers ({diffusers.__version__}) has no {name}")
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = model(**config)
    return {
        name: tuple(module.weight.shape)
        for name, module in made.named_modules()
        if getattr(module, "weight", None) is not None
        and module.weight.dim() >= 2
        and not isinstance(module, torch.nn.Embedding)
    }


def denoiser(family: Family) -> list[LayerName]:
    return [row for row in layers(family).values() if row.component == "unet"]


@model_cases
def test_every_weight_of_the_class_is_in_the_table_with_its_shape(
    family: Family, name: str, config: dict[str, Any]
) -> None:
    for weight, shape in weights_of(name, config).items():
        found = canonical_id(f"transformer.{weight}", family)
        assert found is not None, weight
        row = layers(family)[found]
        assert (row.shape[0], prod(row.shape[1:])) == (shape[0], prod(shape[1:])), weight


@model_cases
def test_the_table_has_nothing_that_the_class_has_not(family: Family, name: str, config: dict[str, Any]) -> None:
    known = weights_of(name, config)
    wholes = {row.whole for row in denoiser(family)}
    others = [row for row in denoiser(family) if not known.keys() & set(row.dotted_names) and row.id not in wholes]
    assert all(row.id.endswith("linear1_qkv") for row in others), [row.id for row in others]


# Converters: from the native names of a single file to those of the class ----------------------------------


class Forgiving(dict[str, Any]):
    """A checkpoint whose norms and biases are not there: the converters ask for each by name."""

    rows: dict[str, int]

    def pop(self, key: str, *default: Any) -> Any:
        if key in self or default:
            return dict.pop(self, key, *default)
        return torch.zeros(self.rows.get(key.replace(".bias", ".weight"), 2))


CONVERTERS: list[tuple[Family, str, int]] = [
    (FLUX[0], "convert_flux_transformer_checkpoint_to_diffusers", 0),
    (CHROMA[0], "convert_chroma_transformer_checkpoint_to_diffusers", 0),
    (FLUX2[0], "convert_flux2_transformer_checkpoint_to_diffusers", 0),
    (SD3[0], "convert_sd3_transformer_checkpoint_to_diffusers", 0),
    (SD3[1], "convert_sd3_transformer_checkpoint_to_diffusers", 0),
    (HUNYUAN_VIDEO[0], "convert_hunyuan_video_transformer_to_diffusers", -1),
    (WAN[0], "convert_wan_transformer_to_diffusers", 0),
    (Z_IMAGE[0], "convert_z_image_transformer_checkpoint_to_diffusers", 0),
    (LUMINA2[0], "convert_lumina2_to_diffusers", 0),
    (AURAFLOW[0], "convert_auraflow_transformer_checkpoint_to_diffusers", 0),
    (LTX[1], "convert_ltx_transformer_checkpoint_to_diffusers", 0),
    (KREA2[0], "convert_krea2_transformer_checkpoint_to_diffusers", 0),
    (CASCADE[0], "convert_stable_cascade_unet_single_file_to_diffusers", 0),
]


def numbered(family: Family, spelling: int) -> tuple[dict[str, Any], dict[str, int]]:
    """A single file in which every row of every weight holds a number of its own, and each weight's first one."""
    firsts: dict[str, int] = {}
    tensors = Forgiving()
    count = 0
    for row in denoiser(family):
        if row.whole is not None:
            continue
        key = f"{row.dotted_names[spelling]}.weight".replace("attn.in_proj.weight", "attn.in_proj_weight")
        tensors[key] = torch.arange(count, count + row.shape[0], dtype=torch.float64)[:, None]
        firsts[row.id] = count
        count += row.shape[0]
    tensors.rows = {key: tensor.shape[0] for key, tensor in tensors.items()}
    return tensors, firsts


@pytest.mark.parametrize(
    ("family", "converter", "spelling"), CONVERTERS, ids=[f"{one.name} {one.size}" for one, *_ in CONVERTERS]
)
def test_trap_10_pieces_are_the_rows_that_the_converter_cuts(family: Family, converter: str, spelling: int) -> None:
    convert = getattr(single_file_utils, converter, None)
    if convert is None:
        pytest.skip(f"this diffusers ({diffusers.__version__}) has no {converter}")
    tensors, firsts = numbered(family, spelling)
    seen = set()
    for key, tensor in convert(tensors).items():
        found = canonical_id(f"transformer.{key.removesuffix('.weight')}", family)
        if found is None or tensor.dim() != 2:
            assert not key.endswith(".weight") or tensor.dim() != 2, key
            continue
        row = layers(family)[found]
        start = firsts[row.whole or row.id]
        whole = layers(family)[row.whole or row.id].shape[0]
        first, last = row.share.rows(whole) or (0, 0)
        wanted = torch.arange(start + first, start + last, dtype=torch.float64)
        if row.swapped:
            wanted = torch.cat(wanted.chunk(2)[::-1])
        assert torch.equal(tensor[:, 0], wanted), key
        seen.add(found)
    cut = {row.whole for row in denoiser(family)}
    assert len(seen) > 100
    missing = {r.id for r in denoiser(family)} - seen - cut
    assert all(name.endswith("linear1_qkv") for name in missing), sorted(missing)[:9]
