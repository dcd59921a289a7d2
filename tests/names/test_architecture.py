"""Names and shapes of all layers, against published counts and against the real diffusers models."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from lib_resize.names.architecture import (
    SD2_UNET,
    SD15_UNET,
    SDXL_UNET,
    UNetConfig,
    clip_l_weights,
    open_clip_weights,
    unet_weights,
)

TINY = UNetConfig(channels=32, depths=(0, 1, 2), middle_depth=2, context=64, label_channels=96)
CONFIGS = {"SDXL": SDXL_UNET, "SD1.5": SD15_UNET, "SD2": SD2_UNET, "tiny": TINY}

SDXL_SHAPES = {
    "attention": {
        (640, 640): 70,
        (640, 2048): 20,
        (640, 2560): 10,
        (5120, 640): 10,
        (1280, 1280): 372,
        (1280, 2048): 120,
        (1280, 5120): 60,
        (10240, 1280): 60,
    },
    "conv": {
        (320, 1280): 5,
        (640, 1280): 5,
        (1280, 1280): 7,
        (320, 640, 1, 1): 2,
        (320, 960, 1, 1): 1,
        (640, 320, 1, 1): 1,
        (640, 960, 1, 1): 1,
        (640, 1280, 1, 1): 1,
        (640, 1920, 1, 1): 1,
        (1280, 640, 1, 1): 1,
        (1280, 1920, 1, 1): 1,
        (1280, 2560, 1, 1): 2,
        (320, 320, 3, 3): 8,
        (320, 640, 3, 3): 2,
        (320, 960, 3, 3): 1,
        (640, 320, 3, 3): 1,
        (640, 640, 3, 3): 8,
        (640, 960, 3, 3): 1,
        (640, 1280, 3, 3): 1,
        (640, 1920, 3, 3): 1,
        (1280, 640, 3, 3): 1,
        (1280, 1280, 3, 3): 11,
        (1280, 1920, 3, 3): 1,
        (1280, 2560, 3, 3): 2,
    },
    "edge": {
        (1280, 320): 1,
        (1280, 1280): 2,
        (1280, 2816): 1,
        (320, 4, 3, 3): 1,
        (4, 320, 3, 3): 1,
    },
}


@pytest.mark.parametrize("role", SDXL_SHAPES)
def test_sdxl_has_every_shape_as_often_as_the_real_model(role: str) -> None:
    assert Counter(w.shape for w in unet_weights(SDXL_UNET) if w.role == role) == SDXL_SHAPES[role]


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("SDXL", {"attention": 722, "conv": 66, "edge": 6}),
        ("SD1.5", {"attention": 192, "conv": 86, "edge": 4}),
        ("SD2", {"attention": 192, "conv": 86, "edge": 4}),
    ],
)
def test_each_role_has_the_number_of_layers_that_kohya_finds(name: str, counts: dict[str, int]) -> None:
    assert Counter(weight.role for weight in unet_weights(CONFIGS[name])) == counts


def test_only_sd15_projects_with_convolutions() -> None:
    attention = [w for w in unet_weights(SD15_UNET) if w.role == "attention"]
    assert Counter(len(w.shape) for w in attention) == {2: 160, 4: 32}
    assert all(w.sgm.endswith(("proj_in", "proj_out")) for w in attention if len(w.shape) == 4)
    assert all(len(w.shape) == 2 for w in unet_weights(SD2_UNET) if w.role == "attention")


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_two_vocabularies_are_a_bijection(config: UNetConfig) -> None:
    weights = unet_weights(config)
    assert len({w.sgm for w in weights}) == len({w.diffusers for w in weights}) == len(weights)


@pytest.mark.parametrize(
    ("name", "sgm", "diffusers"),
    [
        ("SDXL", "input_blocks.0.0", "conv_in"),
        ("SDXL", "input_blocks.3.0.op", "down_blocks.0.downsamplers.0.conv"),
        ("SDXL", "input_blocks.4.0.skip_connection", "down_blocks.1.resnets.0.conv_shortcut"),
        (
            "SDXL",
            "input_blocks.8.1.transformer_blocks.9.attn2.to_out.0",
            "down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_out.0",
        ),
        ("SDXL", "middle_block.1.proj_in", "mid_block.attentions.0.proj_in"),
        ("SDXL", "middle_block.2.emb_layers.1", "mid_block.resnets.1.time_emb_proj"),
        ("SDXL", "output_blocks.2.2.conv", "up_blocks.0.upsamplers.0.conv"),
        ("SDXL", "output_blocks.5.2.conv", "up_blocks.1.upsamplers.0.conv"),
        ("SDXL", "output_blocks.8.0.in_layers.2", "up_blocks.2.resnets.2.conv1"),
        ("SDXL", "label_emb.0.2", "add_embedding.linear_2"),
        ("SDXL", "out.2", "conv_out"),
        ("SD1.5", "output_blocks.2.1.conv", "up_blocks.0.upsamplers.0.conv"),
        ("SD1.5", "output_blocks.8.2.conv", "up_blocks.2.upsamplers.0.conv"),
        ("SD1.5", "input_blocks.1.1.proj_in", "down_blocks.0.attentions.0.proj_in"),
        ("SD1.5", "output_blocks.11.1.proj_out", "up_blocks.3.attentions.2.proj_out"),
    ],
)
def test_one_layer_bears_both_names(name: str, sgm: str, diffusers: str) -> None:
    assert {w.sgm: w.diffusers for w in unet_weights(CONFIGS[name])}[sgm] == diffusers


def test_a_narrow_model_bears_a_part_of_the_full_models_names() -> None:
    full = {(w.sgm, w.diffusers, w.role) for w in unet_weights(SDXL_UNET)}
    assert {(w.sgm, w.diffusers, w.role) for w in unet_weights(TINY)} < full
    assert max(max(w.shape) for w in unet_weights(TINY)) == 8 * 4 * 32


def test_levels_without_their_depth_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        unet_weights(UNetConfig(multipliers=(1, 2, 4), depths=(0, 2)))


def test_an_inpainting_model_differs_only_in_its_first_convolution() -> None:
    plain, inpaint = unet_weights(SDXL_UNET), unet_weights(UNetConfig(in_channels=9))
    changed = [(a, b) for a, b in zip(plain, inpaint, strict=True) if a != b]
    assert [(a.shape, b.shape) for a, b in changed] == [((320, 4, 3, 3), (320, 9, 3, 3))]


def test_text_encoders_have_the_published_shapes() -> None:
    assert Counter(w.shape for w in clip_l_weights()) == {(768, 768): 48, (3072, 768): 12, (768, 3072): 12}
    large = Counter(w.shape for w in open_clip_weights(projection=False))
    assert large == {(1280, 1280): 128, (5120, 1280): 32, (1280, 5120): 32}


def test_clip_l_is_stored_under_its_own_names() -> None:
    assert all(w.stored == f"{w.name}.weight" and w.part is None for w in clip_l_weights(2, 16))


def test_open_clip_holds_q_k_and_v_in_one_tensor_in_this_order() -> None:
    fused: dict[str, list[tuple[int | None, str]]] = {}
    for weight in open_clip_weights(3, 16):
        if weight.stored.endswith("in_proj_weight"):
            fused.setdefault(weight.stored, []).append((weight.part, weight.name.rpartition(".")[2]))
    assert sorted(fused) == [f"transformer.resblocks.{n}.attn.in_proj_weight" for n in range(3)]
    assert all(sorted(parts) == [(0, "q_proj"), (1, "k_proj"), (2, "v_proj")] for parts in fused.values())


def test_only_the_text_projection_is_transposed() -> None:
    transposed = [w for w in open_clip_weights(2, 16) if w.transposed]
    assert [(w.name, w.stored) for w in transposed] == [("text_projection", "text_projection")]
    assert not any(w.name == "text_projection" for w in open_clip_weights(2, 16, projection=False))


_SDXL_BLOCKS: dict[str, Any] = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "use_linear_projection": True,
}
_DIFFUSERS: dict[str, dict[str, Any]] = {
    "SDXL": {
        "block_out_channels": (320, 640, 1280),
        "transformer_layers_per_block": (1, 2, 10),
        "cross_attention_dim": 2048,
        "projection_class_embeddings_input_dim": 2816,
        **_SDXL_BLOCKS,
    },
    "SD1.5": {"cross_attention_dim": 768},
    "SD2": {"cross_attention_dim": 1024, "use_linear_projection": True},
    "tiny": {
        "block_out_channels": (32, 64, 128),
        "transformer_layers_per_block": (1, 1, 2),
        "cross_attention_dim": 64,
        "projection_class_embeddings_input_dim": 96,
        **_SDXL_BLOCKS,
    },
}


@pytest.mark.parametrize("name", CONFIGS)
def test_diffusers_own_model_has_exactly_these_weights(name: str) -> None:
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        model = diffusers.UNet2DConditionModel(attention_head_dim=8, **_DIFFUSERS[name])
    real = {k: tuple(v.shape) for k, v in model.state_dict().items() if k.endswith(".weight") and v.ndim > 1}
    assert {f"{w.diffusers}.weight": w.shape for w in unet_weights(CONFIGS[name])} == real
