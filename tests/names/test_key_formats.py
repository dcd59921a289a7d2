"""Every key format of every layer finds its id, and families are distinguished."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib_resize.names.architecture import (
    REFINER_UNET,
    SD2_UNET,
    SD15_UNET,
    SDXL_UNET,
    UNetConfig,
    Weight,
    unet_weights,
)
from lib_resize.names.families import CASCADE, CHROMA, FAMILIES, FLUX, KOLORS, REFINER, SD2, SD3, SD15, SDXL, WAN
from lib_resize.names.family import Family, LayerName, flatten, layers
from lib_resize.names.identify import canonical_id, identify
from lib_resize.names.key_formats import PREFIXES, Prefix, file_key_format, key_format_of, split

CONFIGS = {SDXL: SDXL_UNET, SD15: SD15_UNET, SD2: SD2_UNET, REFINER: REFINER_UNET}
TINY = UNetConfig(channels=32, depths=(0, 1, 2), middle_depth=2, context=64, label_channels=96)


def old_processor(name: str) -> str:
    for attention in ("attn1", "attn2"):
        for projection, old in (("to_q",) * 2, ("to_k",) * 2, ("to_v",) * 2, ("to_out.0", "to_out")):
            if name.endswith(f".{attention}.{projection}"):
                return name.removesuffix(projection) + f"processor.{old}"
    return name


Speller = Callable[[Weight], str]
UNET_SPELLINGS: dict[str, Speller] = {
    "kohya (SGM)": lambda w: "lora_unet_" + flatten(w.sgm),
    "kohya (diffusers)": lambda w: "lora_unet_" + flatten(w.diffusers),
    "kohya OFT (SGM)": lambda w: "oft_unet_" + flatten(w.sgm),
    "kohya OFT (diffusers)": lambda w: "oft_unet_" + flatten(w.diffusers),
    "LyCORIS": lambda w: "lycoris_" + flatten(w.diffusers),
    "LyCORIS (SGM)": lambda w: "lycoris_" + flatten(w.sgm),
    "ComfyUI": lambda w: "diffusion_model." + w.sgm,
    "checkpoint": lambda w: "model.diffusion_model." + w.sgm,
    "diffusers": lambda w: "unet." + w.diffusers,
    "diffusers (old processor)": lambda w: "unet." + old_processor(w.diffusers),
    "bare diffusers": lambda w: w.diffusers,
    "bare diffusers (old processor)": lambda w: old_processor(w.diffusers),
    "bare SGM": lambda w: w.sgm,
    "PEFT": lambda w: "base_model.model." + w.diffusers,
    "PEFT of a pipeline": lambda w: "base_model.model.unet." + w.diffusers,
    "PEFT below unet": lambda w: "unet.base_model.model." + w.diffusers,
}

ENCODER_PREFIXES: dict[int, dict[str, tuple[str, ...]]] = {
    1: {
        "flat": ("lora_te_", "lora_te1_", "lycoris_", "lycoris_te_", "lycoris_te1_", "lycoris_text_encoder_"),
        "dotted": (
            "",
            "lora_te.",
            "lora_te1.",
            "text_encoder.",
            "text_encoders.clip_l.transformer.",
            "base_model.model.",
            "base_model.model.text_encoder.",
            "text_encoder.base_model.model.",
        ),
    },
    2: {
        "flat": ("lora_te2_", "lycoris_te2_", "lycoris_text_encoder_2_"),
        "dotted": (
            "lora_te2.",
            "text_encoder_2.",
            "text_encoders.clip_g.transformer.",
            "base_model.model.text_encoder_2.",
            "text_encoder_2.base_model.model.",
        ),
    },
}
LAYER_PARTS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.out_proj",
    "mlp.fc1",
    "mlp.fc2",
)


def encoder_names(depth: int) -> list[str]:
    return [f"text_model.encoder.layers.{n}.{part}" for n in range(depth) for part in LAYER_PARTS]


def native(family: Family, weight: Weight) -> str:
    return "lora_unet_" + flatten(weight.sgm if family in (SDXL, REFINER) else weight.diffusers)


def stems_of(config: UNetConfig, speller: Speller, role: str = "") -> dict[str, tuple[int, int]]:
    chosen = [w for w in unet_weights(config) if role in w.role]
    return {speller(w): (w.shape[0], prod(w.shape[1:])) for w in chosen}


@pytest.mark.parametrize("speller", UNET_SPELLINGS.values(), ids=UNET_SPELLINGS)
@pytest.mark.parametrize("family", CONFIGS, ids=[family.name for family in CONFIGS])
def test_every_unet_layer_in_every_key_format_finds_its_id(family: Family, speller: Speller) -> None:
    weights = unet_weights(CONFIGS[family])
    stems = [speller(w) for w in weights]
    assert len(set(stems)) == len(stems)
    assert [canonical_id(stem, family) for stem in stems] == [native(family, w) for w in weights]


@pytest.mark.parametrize(
    ("family", "slot", "owner", "depth"),
    [(SDXL, 1, "te1", 12), (SDXL, 2, "te2", 32), (SD15, 1, "te", 12), (SD2, 1, "te", 23)],
)
def test_every_text_layer_in_every_key_format_finds_its_id(family: Family, slot: int, owner: str, depth: int) -> None:
    for name in encoder_names(depth):
        wanted = f"lora_{owner}_{flatten(name)}"
        for body in (name, name.removeprefix("text_model.")):
            for prefix in ENCODER_PREFIXES[slot]["flat"]:
                assert canonical_id(prefix + flatten(body), family) == wanted
            for prefix in ENCODER_PREFIXES[slot]["dotted"]:
                assert canonical_id(prefix + body, family) == wanted


@pytest.mark.parametrize(
    "stem", ["lora_te2_text_projection", "text_encoder_2.text_projection", "lycoris_te2_text_projection"]
)
def test_the_text_projection_belongs_to_sdxl_alone(stem: str) -> None:
    assert canonical_id(stem, SDXL) == "lora_te2_text_projection"
    assert canonical_id(stem, SD15) is canonical_id(stem, SD2) is None


def test_a_family_with_one_encoder_has_no_second_one() -> None:
    stem = "lora_te2_text_model_encoder_layers_0_mlp_fc1"
    assert canonical_id(stem, SDXL) == stem
    assert canonical_id(stem, SD15) is canonical_id(stem, SD2) is None


def test_the_test_knows_every_prefix_of_the_table() -> None:
    stems = [speller(w) for speller in UNET_SPELLINGS.values() for w in unet_weights(SDXL_UNET)[:1]]
    stems += [p + "text_model" for kinds in ENCODER_PREFIXES.values() for row in kinds.values() for p in row]
    untested = {row.text for row in PREFIXES} - {split(stem)[0].text for stem in stems}
    assert untested == {"lycoris_unet_", "text_encoders.clip_h.transformer.", *OF_TRANSFORMERS}


OF_TRANSFORMERS = {
    "lora_unet__": "blocks_0_self_attn_q",
    "lora_transformer_": "blocks_0_attn1_to_q",
    "transformer.": "blocks.0.attn1.to_q",
    "base_model.model.transformer.": "blocks.0.attn1.to_q",
    "base_model.model.diffusion_model.": "blocks.0.self_attn.q",
    "transformer.base_model.model.": "blocks.0.attn1.to_q",
    "lora_prior_unet_": "down_blocks_0_0_channelwise_4",
    "lora_prior_te_": "text_model_encoder_layers_3_mlp_fc1",
    "lora_unet.": "blocks.0.self_attn.q",
    "lora_transformer.": "blocks.0.attn1.to_q",
    "net.": "blocks.0.self_attn.q",
    "dit.": "blocks.0.self_attn.q",
    "conditional_transformer.": "blocks.0.self_attn.q",
    "lora_te3.": "encoder.block.3.layer.0.SelfAttention.k",
    "lora_te3_": "encoder_block_3_layer_0_SelfAttention_k",
    "text_encoder_3.": "encoder.block.3.layer.0.SelfAttention.k",
    "text_encoders.t5xxl.transformer.": "encoder.block.3.layer.0.SelfAttention.k",
}


@pytest.mark.parametrize(("prefix", "body"), OF_TRANSFORMERS.items(), ids=OF_TRANSFORMERS)
def test_prefixes_of_transformers_work(prefix: str, body: str) -> None:
    family = CASCADE[0] if "prior" in prefix else FLUX[0] if "ayer" in body else WAN[0]
    found = canonical_id(prefix + body, family)
    assert found is not None
    assert layers(family)[found].component == ("te3" if "Self" in body else "te" if "text" in body else "unet")


@pytest.mark.parametrize("prefix", ["lora_te2_", "lora_te3_"])
def test_t5_of_flux_is_found_under_both_numbers(prefix: str) -> None:
    stem = prefix + "encoder_block_3_layer_0_SelfAttention_k"
    assert canonical_id(stem, FLUX[0]) == "lora_te3_encoder_block_3_layer_0_SelfAttention_k"
    assert canonical_id(prefix.replace("2", "3") + stem[len(prefix) :], SD3[0]) == canonical_id(stem, FLUX[0])


def test_the_rarer_prefixes_work_too() -> None:
    stem = "text_encoders.clip_h.transformer.text_model.encoder.layers.3.mlp.fc1"
    assert canonical_id(stem, SD2) == "lora_te_text_model_encoder_layers_3_mlp_fc1"
    stem = "lycoris_unet_mid_block_attentions_0_proj_in"
    assert canonical_id(stem, SDXL) == "lora_unet_middle_block_1_proj_in"


@pytest.mark.parametrize(
    "stem",
    [
        "",
        "lora_unet_",
        "unet.",
        "lora_unet_d0t_attn1_to_q",
        "lora_unet_input_blocks_1_1_proj_in",
        "lora_unet_input_blocks_4_1_transformer_blocks_2_attn1_to_q",
        "lora_unet_input_blocks_4_1_norm",
        "lora_unet_input.blocks.4.1.proj_in",
        "unet.input_blocks_4_1_proj_in",
        "lora_te1_text_model_encoder_layers_12_mlp_fc1",
        "bundle_emb.style.clip_l",
        "../../etc/passwd",
    ],
)
def test_names_outside_the_table_have_no_id(stem: str) -> None:
    assert canonical_id(stem, SDXL) is None


@given(st.sampled_from(PREFIXES), st.text(max_size=20))
def test_any_text_splits_into_a_known_prefix_and_the_rest(prefix: Prefix, rest: str) -> None:
    found, body = split(prefix.text + rest)
    assert found.text + body == prefix.text + rest
    assert len(found.text) >= len(prefix.text)


@given(st.sampled_from(FAMILIES), st.sampled_from(PREFIXES), st.data())
def test_an_id_is_only_given_to_a_name_that_the_table_spells_out(
    family: Family, prefix: Prefix, data: st.DataObject
) -> None:
    row = data.draw(st.sampled_from(list(layers(data.draw(st.sampled_from(FAMILIES))).values())))
    name = data.draw(st.sampled_from(row.dotted_names))
    body = flatten(name) if prefix.flat else name
    found = canonical_id(prefix.text + body, family)
    bears = [own for own in layers(family).values() if name in own.dotted_names]
    reached = [own.id for own in bears if family.components.index(own.component) in prefix.slots]
    assert found in reached if reached else found is None


@pytest.mark.parametrize("speller", UNET_SPELLINGS.values(), ids=UNET_SPELLINGS)
@pytest.mark.parametrize("role", ["attention", "conv", ""])
@pytest.mark.parametrize("family", CONFIGS, ids=[family.name for family in CONFIGS])
def test_a_unet_lora_is_of_its_own_family_in_every_key_format(family: Family, role: str, speller: Speller) -> None:
    found = identify(stems_of(CONFIGS[family], speller, role))
    if role == "conv" and family is SD2:
        assert found in (SD15, SD2)  # their convolutions are the same, in names and in shapes
    else:
        assert found == family


@pytest.mark.parametrize("speller", UNET_SPELLINGS.values(), ids=UNET_SPELLINGS)
def test_a_small_model_with_the_names_of_sdxl_is_sdxl(speller: Speller) -> None:
    assert identify(stems_of(TINY, speller)) == SDXL
    assert identify(stems_of(TINY, speller, "attention")) == SDXL


def test_shapes_decide_where_names_do_not() -> None:
    start = "diffusion_model.input_blocks.{}.1.transformer_blocks.{}.attn2.to_k"
    as_in_sd15 = {start.format(n, 0): (1280, 768) for n in (7, 8)}
    assert identify(as_in_sd15) == SD15
    assert identify({start.format(7, 0): (1280, 2048), start.format(7, 1): (1280, 2048)}) == SDXL
    assert identify(as_in_sd15 | {start.format(7, 1): (1280, 768)}) is None  # SDXL's names at widths of SD1.5


@given(st.data())
@settings(max_examples=50)
def test_any_part_of_a_kohya_file_with_one_cross_attention_key_shows_the_family(data: st.DataObject) -> None:
    family = data.draw(st.sampled_from([SDXL, SD15, SD2]))
    stems = stems_of(CONFIGS[family], lambda w: native(family, w), "attention")
    some = set(data.draw(st.lists(st.sampled_from(sorted(stems)), max_size=20)))
    one = data.draw(st.sampled_from([stem for stem in sorted(stems) if stem.endswith("attn2_to_k")]))
    assert identify({stem: stems[stem] for stem in some | {one}}) == family


@pytest.mark.parametrize(
    ("family", "prefix", "depth", "width"),
    [
        (SDXL, "lora_te1_", 12, 768),
        (SDXL, "lora_te2_", 32, 1280),
        (SD15, "lora_te_", 12, 768),
        (SD2, "lora_te_", 23, 1024),
    ],
)
def test_a_text_encoder_alone_shows_the_family(family: Family, prefix: str, depth: int, width: int) -> None:
    names = [n for n in encoder_names(depth) if "self_attn" in n]
    assert identify({prefix + flatten(name): (width, width) for name in names}) == family
    assert identify({prefix + flatten(names[0]): (width, width)}) == family


def test_sdxl_with_the_encoder_prefix_of_sd15_is_still_sdxl() -> None:
    stems = stems_of(SDXL_UNET, UNET_SPELLINGS["kohya (SGM)"], "attention")
    stems |= {"lora_te_" + flatten(name): (768, 768) for name in encoder_names(12)}
    assert identify(stems) == SDXL


def test_known_encoders_do_not_make_a_known_denoiser() -> None:
    attentions = [name for name in encoder_names(32) if "self_attn" in name]
    encoders = {f"lora_te1_{flatten(name)}": (768, 768) for name in attentions[:48]}
    encoders |= {f"lora_te2_{flatten(name)}": (1280, 1280) for name in attentions}
    other = {f"lora_unet_mystery_blocks_{n}_x_block_attn_qkv": (4608, 1536) for n in range(24)}
    assert identify(encoders) == SDXL
    assert identify(encoders | other) is None


@pytest.mark.parametrize(
    "stem",
    ["lora_unet_d{}t_attn1_to_q", "transformer.blocks.{}.attn.to_q", "unet:{}", "base_model.model.l{}"],
)
def test_an_unknown_model_has_no_family(stem: str) -> None:
    assert identify({stem.format(n): (64, 64) for n in range(9)}) is None


def test_half_of_the_layers_is_not_enough() -> None:
    known = {
        "lora_unet_input_blocks_4_1_proj_in": (640, 640),
        "lora_unet_middle_block_1_proj_in": (1280, 1280),
    }
    assert identify(known | {"lora_unet_x": (1, 1)}) == SDXL
    assert identify(known | {"lora_unet_x": (1, 1), "lora_unet_y": (1, 1)}) is None


def test_a_file_without_layers_has_no_family() -> None:
    assert identify({}) is None


@pytest.mark.parametrize(
    ("stem", "spelling"),
    [
        ("lora_unet_input_blocks_4_1_proj_in", "kohya (SGM)"),
        ("lora_unet_out_2", "kohya (SGM)"),
        ("lora_te2_text_projection", "kohya (SGM)"),
        ("lora_unet_down_blocks_1_attentions_0_proj_in", "kohya (diffusers)"),
        ("lora_unet_conv_in", "kohya (diffusers)"),
        ("oft_unet_mid_block_attentions_0_proj_in", "kohya (diffusers)"),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1", "kohya (diffusers)"),
        ("unet.down_blocks.1.attentions.0.proj_in", "diffusers"),
        (
            "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q",
            "diffusers (old processor)",
        ),
        ("mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out", "diffusers (old processor)"),
        ("down_blocks.1.attentions.0.proj_in", "diffusers"),
        ("text_encoder.encoder.layers.0.mlp.fc1", "diffusers"),
        ("text_model.encoder.layers.0.mlp.fc1", "diffusers"),
        ("base_model.model.down_blocks.1.attentions.0.proj_in", "PEFT"),
        ("unet.base_model.model.down_blocks.1.attentions.0.proj_in", "PEFT"),
        ("lycoris_down_blocks_1_attentions_0_proj_in", "LyCORIS"),
        ("diffusion_model.input_blocks.4.1.proj_in", "ComfyUI"),
        ("text_encoders.clip_g.transformer.text_model.encoder.layers.0.mlp.fc1", "ComfyUI"),
        ("input_blocks.4.1.proj_in", "ComfyUI"),
        ("lora_unet_d0t_attn1_to_q", "unknown"),
        ("unet:0", "unknown"),
        ("", "unknown"),
    ],
)
def test_the_key_format_of_a_stem_has_a_name(stem: str, spelling: str) -> None:
    assert key_format_of(stem) == spelling


def test_the_denoiser_decides_the_key_format_of_a_file() -> None:
    encoder = [f"lora_te1_{flatten(name)}" for name in encoder_names(12)]
    assert file_key_format([*encoder, "lora_unet_down_blocks_1_attentions_0_proj_in"]) == "kohya (diffusers)"
    assert file_key_format(encoder) == "kohya (SGM)"
    assert file_key_format([]) == "unknown"


# Transformers -----------------------------------------------------------------------------------------------

TRANSFORMERS = [family for family in FAMILIES if family not in (*CONFIGS, KOLORS)]
PRODUCERS: dict[str, Callable[[LayerName], str]] = {
    "ids": lambda row: row.id,
    "ComfyUI": lambda row: "diffusion_model." + row.dotted_names[0],
    "LyCORIS": lambda row: "lycoris_" + flatten(row.dotted_names[0]),
    "PEFT": lambda row: "base_model.model." + row.dotted_names[0],
    "diffusers": lambda row: "transformer." + row.dotted_names[-1],
    "musubi or Wan-Fun": lambda row: "lora_unet__" + flatten(row.dotted_names[0]),
}


def blocks_of(family: Family) -> list[LayerName]:
    """What trainers train: the matrices of the blocks."""
    return [row for row in layers(family).values() if row.component == "unet" and row.block != "EDGE"]


def stems_by(family: Family, spell: Callable[[LayerName], str], whole: bool) -> dict[str, tuple[int, int]]:
    """A LoRA of all whole weights, or of all that diffusers trains."""
    cut = {row.whole for row in blocks_of(family)}
    rows = [r for r in blocks_of(family) if (r.whole is None if whole else r.id not in cut and "qkv" not in r.id)]
    return {spell(row): (row.shape[0], prod(row.shape[1:])) for row in rows or blocks_of(family)}


@pytest.mark.parametrize("spell", PRODUCERS.values(), ids=PRODUCERS)
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "cut"])
@pytest.mark.parametrize("family", TRANSFORMERS, ids=[f"{one.name} {one.size}" for one in TRANSFORMERS])
def test_a_transformers_lora_is_of_its_own_family(
    family: Family, whole: bool, spell: Callable[[LayerName], str]
) -> None:
    found = identify(stems_by(family, spell, whole))
    if family.name == "Chroma":  # its layers are some of Flux.1's, and only the metadata distinguishes it
        found = identify(stems_by(family, spell, whole), ["chroma"])
    assert found is not None
    assert found.name == family.name


@pytest.mark.parametrize("family", TRANSFORMERS, ids=[f"{one.name} {one.size}" for one in TRANSFORMERS])
def test_the_size_of_a_transformer_shows_in_names_and_shapes(family: Family) -> None:
    rows = [row for row in layers(family).values() if row.component == "unet"]
    found = identify({row.id: (row.shape[0], prod(row.shape[1:])) for row in rows})
    alike = {"schnell": "dev", "14B": "14B from images", "sigma": "alpha"}
    assert found is not None
    assert found.size in (family.size, alike.get(family.size))


def test_only_metadata_distinguishes_chroma_from_a_flux_lora_without_modulation() -> None:
    known = stems_by(CHROMA[0], PRODUCERS["ids"], whole=True)
    stems = {stem: size for stem, size in known.items() if "distilled_guidance" not in stem}
    assert identify(known) == CHROMA[0]
    assert identify(stems) == FLUX[0]
    assert identify(stems, ["chroma"]) == CHROMA[0]
    assert identify(stems, ["", "chroma/lora"]) == CHROMA[0]
    assert identify(stems, ["flux1"]) == FLUX[0]


def test_kolors_is_identified_by_its_own_layer_or_shape_and_else_is_sdxl() -> None:
    stems = stems_of(SDXL_UNET, lambda w: "unet." + w.diffusers, "attention")
    assert identify(stems) == SDXL
    assert identify(stems, ["kolors"]) == KOLORS
    assert identify(stems | {"unet.encoder_hid_proj": (2048, 4096)}) == KOLORS
    assert identify(stems | {"unet.add_embedding.linear_1": (1280, 5632)}) == KOLORS


@pytest.mark.parametrize(
    ("stem", "spelling"),
    [
        ("lora_unet_double_blocks_0_img_attn_qkv", "kohya"),
        ("lora_unet_transformer_blocks_0_attn_to_q", "kohya"),
        ("lora_unet__blocks_0_self_attn_q", "kohya"),
        ("lora_transformer_transformer_blocks_0_attn_to_q", "OneTrainer"),
        ("transformer.transformer_blocks.0.attn.to_q", "diffusers"),
        ("transformer_blocks.0.attn.to_q", "diffusers"),
        ("diffusion_model.blocks.0.self_attn.q", "ComfyUI"),
        ("double_blocks.0.img_attn.qkv", "ComfyUI"),
        ("double_blocks.0.processor.qkv_lora1", "XLabs"),
        ("base_model.model.double_blocks.0.img_attn.qkv", "PEFT"),
        ("lycoris_transformer_blocks_0_attn_to_q", "LyCORIS"),
    ],
)
def test_key_formats_of_transformers_have_names(stem: str, spelling: str) -> None:
    assert key_format_of(stem) == spelling
