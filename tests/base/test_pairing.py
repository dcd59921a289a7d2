"""Every LoRA layer finds its own piece of the base model, in every layout of the checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_resize.base.checkpoint_keys import looks_like_checkpoint
from lib_resize.base.model_index import read_base
from lib_resize.base.pairing import partner
from lib_resize.base.weights import BaseModel, BaseWeight, Partner
from lib_resize.names.architecture import (
    SD2_UNET,
    SD15_UNET,
    SDXL_UNET,
    UNetConfig,
    Weight,
    clip_l_weights,
    open_clip_weights,
    unet_weights,
)
from lib_resize.names.families import SD2, SD15, SDXL
from lib_resize.names.family import Family, layers
from lib_resize.names.identify import canonical_id

Shapes = dict[str, tuple[int, ...]]
TINY = UNetConfig(channels=32, depths=(0, 1, 2), middle_depth=2, context=64, label_channels=96)
TINY15 = UNetConfig(
    channels=32,
    multipliers=(1, 2, 4, 4),
    depths=(1, 1, 1, 0),
    middle_depth=1,
    context=24,
    label_channels=None,
)


def unet(config: UNetConfig, prefix: str, words: Callable[[Weight], str]) -> Shapes:
    found = {f"{prefix}{words(w)}.weight": w.shape for w in unet_weights(config)}
    return found | {key.replace(".weight", ".bias"): shape[:1] for key, shape in found.items()}


def clip(prefix: str, layers: int, width: int, short: bool = False) -> Shapes:
    keys = {w.stored: w.shape for w in clip_l_weights(layers, width)}
    keys |= {"text_model.embeddings.token_embedding.weight": (99, width)}
    keys |= {"text_model.final_layer_norm.weight": (width,)}
    return {prefix + (key.removeprefix("text_model.") if short else key): shape for key, shape in keys.items()}


def open_clip(prefix: str, layers: int, width: int) -> Shapes:
    found: Shapes = {f"{prefix}token_embedding.weight": (99, width), f"{prefix}logit_scale": ()}
    for w in open_clip_weights(layers, width):
        rows = 3 * w.shape[0] if w.part is not None else w.shape[0]
        found[prefix + w.stored] = (rows, w.shape[1])
    return found


def sgm(weight: Weight) -> str:
    return weight.sgm


def own(weight: Weight) -> str:
    return weight.diffusers


VAE: Shapes = {
    "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
    "first_stage_model.encoder.down.0.block.0.conv1.weight": (128, 128, 3, 3),
    "model_ema.diffusion_modelinput_blocks00weight": (320, 4, 3, 3),
}


def sdxl_file(config: UNetConfig, small: tuple[int, int], large: tuple[int, int]) -> Shapes:
    return {
        **VAE,
        **unet(config, "model.diffusion_model.", sgm),
        **clip("conditioner.embedders.0.transformer.", *small),
        **open_clip("conditioner.embedders.1.model.", *large),
    }


def sdxl_diffusers(config: UNetConfig, small: tuple[int, int], large: tuple[int, int], prefix: str) -> Shapes:
    return {
        **unet(config, prefix, own),
        **clip("text_encoder.", *small),
        **clip("text_encoder_2.", *large),
        "text_encoder_2.text_projection.weight": (large[1], large[1]),
    }


FULL = sdxl_file(SDXL_UNET, (12, 768), (32, 1280))
BASES: dict[str, tuple[Family, Shapes]] = {
    "SDXL": (SDXL, FULL),
    "SDXL without text encoders": (SDXL, unet(SDXL_UNET, "diffusion_model.", sgm)),
    "SDXL bare": (SDXL, unet(SDXL_UNET, "", sgm)),
    "SDXL inpainting": (SDXL, unet(UNetConfig(in_channels=9), "model.diffusion_model.", sgm)),
    "SDXL diffusers": (SDXL, sdxl_diffusers(SDXL_UNET, (12, 768), (32, 1280), "unet.")),
    "SDXL bare diffusers": (SDXL, unet(SDXL_UNET, "", own)),
    "SDXL tiny": (SDXL, sdxl_file(TINY, (2, 16), (3, 32))),
    "SDXL tiny diffusers": (SDXL, sdxl_diffusers(TINY, (2, 16), (3, 32), "unet.")),
    "SDXL tiny bare diffusers": (SDXL, sdxl_diffusers(TINY, (2, 16), (3, 32), "")),
    "SD1.5": (
        SD15,
        VAE | unet(SD15_UNET, "model.diffusion_model.", sgm) | clip("cond_stage_model.transformer.", 12, 768),
    ),
    "SD1.5 of old": (
        SD15,
        unet(SD15_UNET, "model.diffusion_model.", sgm) | clip("cond_stage_model.transformer.", 12, 768, short=True),
    ),
    "SD1.5 diffusers": (SD15, unet(SD15_UNET, "unet.", own) | clip("text_encoder.", 12, 768)),
    "SD1.5 tiny": (
        SD15,
        unet(TINY15, "model.diffusion_model.", sgm) | clip("cond_stage_model.transformer.", 2, 24),
    ),
    "SD2": (
        SD2,
        unet(SD2_UNET, "model.diffusion_model.", sgm) | open_clip("cond_stage_model.model.", 24, 1024),
    ),
    "SD2 in new words": (
        SD2,
        unet(SD2_UNET, "model.diffusion_model.", sgm) | open_clip("conditioner.embedders.0.model.", 24, 1024),
    ),
    "SD2 diffusers": (SD2, unet(SD2_UNET, "unet.", own) | clip("text_encoder.", 23, 1024)),
}
base_cases = pytest.mark.parametrize(("family", "shapes"), BASES.values(), ids=BASES)


@base_cases
def test_the_family_of_a_base_shows_in_its_keys(family: Family, shapes: Shapes) -> None:
    assert read_base(shapes).family == family


@base_cases
def test_every_unet_weight_and_no_bias_is_paired(family: Family, shapes: Shapes) -> None:
    base = read_base(shapes)
    unets = {name: weight for name, weight in base.weights.items() if name.startswith("lora_unet_")}
    wanted = {
        key
        for key, shape in shapes.items()
        if len(shape) > 1 and not key.startswith(("text_", "cond", "first_stage_model", "model_ema"))
    }
    assert {weight.key for weight in unets.values()} == wanted
    assert len(unets) == len(wanted)
    assert all(weight.shape == shapes[weight.key] and weight.rows is None for weight in unets.values())


@base_cases
def test_every_piece_is_part_of_a_stored_tensor(family: Family, shapes: Shapes) -> None:
    for weight in {*read_base(shapes).weights.values(), *read_base(shapes).generic.values()}:
        rows = weight.rows or (0, shapes[weight.key][0])
        assert weight.shape == (rows[1] - rows[0], *shapes[weight.key][1:])
        assert 0 <= rows[0] < rows[1] <= shapes[weight.key][0]


@pytest.mark.parametrize("name", ["SDXL", "SDXL diffusers"])
def test_a_full_base_has_a_partner_of_the_right_shape_for_every_layer(name: str) -> None:
    base = read_base(BASES[name][1])
    assert base.weights.keys() == layers(SDXL).keys()
    for layer_id, row in layers(SDXL).items():
        assert base.weights[layer_id].matrix == (row.shape[0], prod(row.shape[1:]))


@pytest.mark.parametrize(("name", "owner", "depth", "width"), [("SDXL", "te2", 32, 1280), ("SD2", "te", 24, 1024)])
def test_slices_cover_the_fused_attention_in_the_order_q_k_v(name: str, owner: str, depth: int, width: int) -> None:
    base = read_base(BASES[name][1])
    for index in range(depth):
        start = f"lora_{owner}_text_model_encoder_layers_{index}_self_attn"
        found = [base.weights[f"{start}_{part}_proj"] for part in "qkv"]
        assert [w.rows for w in found] == [(0, width), (width, 2 * width), (2 * width, 3 * width)]
        assert {w.key.partition("resblocks.")[2] for w in found} == {f"{index}.attn.in_proj_weight"}


def test_open_clip_mlp_and_output_are_paired_whole() -> None:
    base = read_base(FULL)
    start, stored = (
        "lora_te2_text_model_encoder_layers_5_",
        "conditioner.embedders.1.model.transformer.resblocks.5.",
    )
    assert base.weights[start + "mlp_fc1"] == BaseWeight(stored + "mlp.c_fc.weight", (5120, 1280))
    assert base.weights[start + "mlp_fc2"] == BaseWeight(stored + "mlp.c_proj.weight", (1280, 5120))
    assert base.weights[start + "self_attn_out_proj"] == BaseWeight(stored + "attn.out_proj.weight", (1280, 1280))


def test_the_text_projection_is_transposed_in_open_clip_only() -> None:
    single, split = read_base(FULL), read_base(BASES["SDXL diffusers"][1])
    assert single.weights["lora_te2_text_projection"].transposed
    assert not split.weights["lora_te2_text_projection"].transposed
    assert BaseWeight("x", (3, 5), transposed=True).matrix == (5, 3)


def test_an_open_clip_projection_stored_as_a_linear_layer_is_not_transposed() -> None:
    shapes = dict(FULL)
    shapes["conditioner.embedders.1.model.text_projection.weight"] = shapes.pop(
        "conditioner.embedders.1.model.text_projection"
    )
    assert not read_base(shapes).weights["lora_te2_text_projection"].transposed


def test_a_fused_tensor_that_has_no_thirds_is_left_out() -> None:
    key = "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight"
    base = read_base(FULL | {key: (3841, 1280)})
    assert "lora_te2_text_model_encoder_layers_0_self_attn_q_proj" not in base.weights
    assert "lora_te2_text_model_encoder_layers_1_self_attn_q_proj" in base.weights


def test_the_vae_and_the_copies_are_nobodys_partner() -> None:
    used = {weight.key for weight in read_base(FULL).generic.values()}
    assert not used & VAE.keys()


def test_both_layouts_of_one_model_pair_the_same_layers() -> None:
    single, split = (read_base(BASES[name][1]) for name in ("SDXL tiny", "SDXL tiny diffusers"))
    assert single.weights.keys() == split.weights.keys()
    assert all(single.weights[name].matrix == split.weights[name].matrix for name in single.weights)


@pytest.mark.parametrize(
    "stem",
    [
        "lora_unet_middle_block_1_transformer_blocks_1_attn2_to_k",
        "lora_unet_mid_block_attentions_0_transformer_blocks_1_attn2_to_k",
        "unet.mid_block.attentions.0.transformer_blocks.1.attn2.processor.to_k",
        "base_model.model.mid_block.attentions.0.transformer_blocks.1.attn2.to_k",
    ],
)
@pytest.mark.parametrize("name", ["SDXL tiny", "SDXL tiny diffusers"])
def test_any_key_format_matches_any_layout(name: str, stem: str) -> None:
    found = partner(read_base(BASES[name][1]), canonical_id(stem, SDXL), stem)
    assert found is not None
    assert found.matrix == (128, 64)
    assert found.key.endswith("transformer_blocks.1.attn2.to_k.weight")


def test_a_lora_of_another_family_finds_no_partner_by_like_words() -> None:
    stem = "diffusion_model.input_blocks.4.1.proj_in"
    base = read_base(FULL)
    assert partner(base, canonical_id(stem, SDXL), stem) is not None
    assert partner(base, canonical_id(stem, SD15), stem) is None
    assert all(partner(base, name, name) is None for name in layers(SD15))


TOY: Shapes = {
    "model.diffusion_model.d0t.attn1.to_q.weight": (64, 64),
    "model.diffusion_model.d0r.conv1.weight": (64, 32, 3, 3),
    "model.diffusion_model.d0r.norm1.weight": (64,),
    "cond_stage_model.transformer.words.layer.0.fc.weight": (48, 24),
}


def test_a_model_of_unknown_family_pairs_by_its_own_names() -> None:
    base = read_base(TOY)
    assert base.family is None
    assert not base.weights
    assert base.generic.keys() == {
        "lora_unet_d0t_attn1_to_q",
        "lora_unet_d0r_conv1",
        "lora_te1_words_layer_0_fc",
    }
    for stem in ("lora_unet_d0r_conv1", "diffusion_model.d0r.conv1", "lycoris_d0r_conv1", "d0r.conv1"):
        assert partner(base, None, stem) == Partner(
            (BaseWeight("model.diffusion_model.d0r.conv1.weight", (64, 32, 3, 3)),)
        )
    for stem in ("lora_te_words_layer_0_fc", "text_encoder.words.layer.0.fc"):
        assert partner(base, None, stem) is not None
    assert partner(base, None, "lora_unet_d0r_norm1") is None


def test_a_layer_outside_the_tables_of_a_known_family_pairs_by_its_own_name() -> None:
    stem = "lora_unet_input_blocks_4_1_transformer_blocks_2_attn1_to_q"
    key = "model.diffusion_model.input_blocks.4.1.transformer_blocks.2.attn1.to_q.weight"
    assert partner(read_base(FULL), None, stem) is None
    assert partner(read_base(FULL | {key: (640, 640)}), None, stem) == Partner((BaseWeight(key, (640, 640)),))


def test_if_a_layer_is_there_twice_the_first_counts() -> None:
    first, again = unet(TINY, "model.diffusion_model.", sgm), unet(TINY, "diffusion_model.", sgm)
    assert all(weight.key in first for weight in read_base(first | again).weights.values())
    assert all(weight.key in again for weight in read_base(again | first).weights.values())


def test_an_empty_header_is_a_base_without_weights() -> None:
    assert read_base({}) == BaseModel(None, {}, {})


@base_cases
def test_bases_look_like_checkpoints(family: Family, shapes: Shapes) -> None:
    assert looks_like_checkpoint(shapes)


def test_a_toy_base_looks_like_a_checkpoint() -> None:
    assert looks_like_checkpoint(TOY)


@pytest.mark.parametrize(
    "key",
    [
        "lora_unet_input_blocks_4_1_proj_in.lora_down.weight",
        "lora_unet_input_blocks_4_1_proj_in.hada_w1_a",
        "unet.down_blocks.1.attentions.0.proj_in.lora.down.weight",
        "base_model.model.down_blocks.1.attentions.0.proj_in.lora_A.weight",
        "diffusion_model.input_blocks.4.1.proj_in.lokr_w1",
        "diffusion_model.input_blocks.4.1.proj_in.diff",
        "diffusion_model.input_blocks.4.1.norm.w_norm",
        "diffusion_model.input_blocks.4.1.proj_in.a1.weight",
        "oft_unet_input_blocks_4_1_proj_in.oft_blocks",
        "lycoris_down_blocks_1_attentions_0_proj_in.dora_scale",
    ],
)
def test_an_adapter_never_looks_like_a_checkpoint(key: str) -> None:
    assert not looks_like_checkpoint([key])
    assert not looks_like_checkpoint([*FULL, key])


@pytest.mark.parametrize("key", ["text_model.encoder.layers.0.mlp.fc1.weight", "down_blocks", "emb_params", ""])
def test_files_without_a_denoiser_are_not_checkpoints(key: str) -> None:
    assert not looks_like_checkpoint([key])


@given(st.dictionaries(st.text(max_size=30), st.lists(st.integers(0, 9), max_size=4).map(tuple), max_size=8))
def test_strange_keys_and_shapes_harm_nothing(shapes: Shapes) -> None:
    base = read_base(shapes)
    assert {weight.key for weight in base.generic.values()} <= shapes.keys()
