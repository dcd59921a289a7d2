"""A family is claimed where its widths agree, and not for models that have only its words."""

from __future__ import annotations

from math import prod

import pytest

from lib_resize.names.evidence import SMALL, read_hints
from lib_resize.names.families import FAMILIES, FLUX, FLUX2, HUNYUAN_VIDEO, LTX, PIXART, SDXL
from lib_resize.names.family import Family, LayerName, layers
from lib_resize.names.identify import identify

Stems = dict[str, tuple[int, int]]

JOINT = (
    "attn.to_q",
    "attn.to_k",
    "attn.to_v",
    "attn.to_out.0",
    "attn.add_q_proj",
    "attn.add_k_proj",
    "attn.to_add_out",
)
PLAIN = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0")
FEED = (("ff.net.0.proj", 4, 1), ("ff.net.2", 1, 4))


def squares(block: str, names: tuple[str, ...], width: int, count: int = 4) -> Stems:
    return {f"transformer.{block}.{n}.{name}": (width, width) for n in range(count) for name in names}


def fed(block: str, width: int, count: int = 4) -> Stems:
    return {
        f"transformer.{block}.{n}.{name}": (out * width, into * width) for n in range(count) for name, out, into in FEED
    }


def crossed(width: int, context: int, count: int = 4) -> Stems:
    names = {"attn2.to_q": width, "attn2.to_k": context, "attn2.to_v": context, "attn2.to_out.0": width}
    return {
        f"transformer.transformer_blocks.{n}.{name}": (width, into)
        for n in range(count)
        for name, into in names.items()
    }


# Layers of models that are not in our tables, as diffusers or their own files name them, at their real widths.
STRANGERS: dict[str, Stems] = {
    "HunyuanVideo 1.5": squares("transformer_blocks", JOINT, 2048, 54) | fed("transformer_blocks", 2048),
    "HunyuanVideo 1.5, four layers": squares("transformer_blocks", JOINT[:4], 2048, 1),
    "HunyuanImage 2.1": squares("transformer_blocks", JOINT, 3584, 20)
    | squares("single_transformer_blocks", JOINT[:3], 3584, 40),
    "HunyuanImage 2.1, fused": {f"lora_unet_double_blocks_{n}_img_attn_qkv": (10752, 3584) for n in range(20)},
    "ACE-Step": squares("transformer_blocks", ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"), 2560, 24),
    "Ideogram 4": {
        f"lora_unet_layers_{n}_{name}": size
        for n in range(4)
        for name, size in {"attention_qkv": (13824, 4608), "feed_forward_w1": (12288, 4608)}.items()
    },
    "OmniGen2": {
        f"transformer.layers.{n}.{name}": size
        for n in range(32)
        for name, size in {"attn.to_q": (2520, 2520), "attn.to_k": (840, 2520), "attn.to_v": (840, 2520)}.items()
    },
    "CogVideoX 5B": squares("transformer_blocks", PLAIN, 3072, 42),
    "CogVideoX 2B": squares("transformer_blocks", PLAIN, 1920, 30) | fed("transformer_blocks", 1920),
    "Sana 1.6B": squares("transformer_blocks", PLAIN, 2240, 20) | crossed(2240, 2240, 20),
    "Mochi": squares("transformer_blocks", PLAIN, 3072, 48),
    "CogView4": squares("transformer_blocks", PLAIN, 4096, 28),
    "CogView4 with feed-forward": squares("transformer_blocks", PLAIN, 4096, 28) | fed("transformer_blocks", 4096, 28),
    "Cosmos 2 2B": squares("transformer_blocks", PLAIN, 2048, 28)
    | crossed(2048, 1024, 28)
    | fed("transformer_blocks", 2048, 28),
    "Cosmos 2 2B, self attention": squares("transformer_blocks", PLAIN, 2048, 28),
    "Cosmos 2 14B": squares("transformer_blocks", PLAIN, 5120, 36) | crossed(5120, 1024, 36),
    "a Flux with a gated feed-forward": squares("transformer_blocks", JOINT, 3072, 6)
    | {f"transformer.transformer_blocks.{n}.ff.net.0.proj": (24576, 3072) for n in range(6)},
    "a Flux with a gated feed-forward, whose single blocks AuraFlow knows": squares(
        "transformer_blocks", JOINT, 3072, 6
    )
    | squares("single_transformer_blocks", JOINT[:3], 3072, 27)
    | {f"transformer.transformer_blocks.{n}.ff.net.0.proj": (24576, 3072) for n in range(6)},
    "AudioLDM": {
        f"unet.down_blocks.{level}.attentions.0.transformer_blocks.0.attn1.to_q": (width, width)
        for level, width in ((0, 128), (1, 256), (2, 640))
    },
}


@pytest.mark.parametrize("stems", STRANGERS.values(), ids=STRANGERS)
def test_the_words_of_a_family_at_other_widths_are_no_claim(stems: Stems) -> None:
    assert identify(stems) is None


@pytest.mark.parametrize("family", FAMILIES, ids=[f"{one.name} {one.size}".strip() for one in FAMILIES])
def test_no_family_is_claimed_at_widths_that_no_model_has(family: Family) -> None:
    def wider(row: LayerName) -> tuple[int, int]:
        return row.shape[0] * 5 // 4 + 1, prod(row.shape[1:]) * 5 // 4 + 1

    rows = [row for row in layers(family).values() if row.component == "unet" and min(row.shape[:2]) > SMALL]
    assert identify({row.id: wider(row) for row in rows}) is None
    assert identify({row.id: wider(row) for row in rows[:3]}, [family.base_model_version or ""]) is None


FEW = {
    f"{one.name} {one.size}".strip(): one for one in FAMILIES if one.name not in ("Kolors", "Chroma", "SDXL refiner")
}


@pytest.mark.parametrize("family", FEW.values(), ids=FEW)
def test_one_block_of_a_real_model_is_enough(family: Family) -> None:
    """A LoRA of a few layers, with the word that its trainer writes, is of its family."""
    rows = [row for row in layers(family).values() if row.component == "unet" and row.whole is None]
    block = next(row.block for row in rows if row.block[-1].isdigit() and row.block != "IN00")
    stems = {row.id: (row.shape[0], prod(row.shape[1:])) for row in rows if row.block == block}
    found = identify(stems, [family.base_model_version or family.hints[0]])
    assert found is not None
    assert found.name == family.name


def test_self_attention_alone_does_not_distinguish_families_that_share_it() -> None:
    """LTX-Video has the widths of CogView4 and Cosmos 2, PixArt those of DiT: cross attention or a word decides."""
    for family, width in ((LTX[0], 4096), (LTX[1], 2048), (PIXART[0], 1152)):
        stems = squares("transformer_blocks", PLAIN, width)
        assert identify(stems) is None
        assert identify(stems, [family.hints[0]]) == family
        assert identify(stems | crossed(width, width)) == family


def test_metadata_decides_between_families_that_both_agree() -> None:
    stems = squares("transformer_blocks", ("attn.to_q", "attn.to_k"), 3072, 2)
    assert identify(stems) == FLUX[0]
    assert identify(stems, ["flux2_klein_4b"]) == FLUX2[2]
    assert identify(stems, ["qwen_image"]).name == "Qwen-Image"  # type: ignore[union-attr]


def test_metadata_that_names_another_family_leaves_it_unknown() -> None:
    stems = squares("transformer_blocks", JOINT, 3072, 4)
    assert identify(stems, ["flux1"]) == FLUX[0]
    assert identify(stems, ["longcat_image"]) is None
    assert identify(stems, ["", "LongCat-Image/lora"]) is None
    assert identify(stems, ["", "unknown"]) == FLUX[0]


def test_metadata_does_not_outweigh_widths() -> None:
    """Files exist in which an earlier tool has written the wrong family."""
    stems = squares("transformer_blocks", JOINT, 2048, 54)
    assert identify(stems, ["flux1"]) is None
    assert identify(stems, ["hunyuan_video"]) is None


@pytest.mark.parametrize("width", [48, 256, SMALL])
def test_a_small_model_keeps_the_proportions_of_its_family(width: int) -> None:
    stems = squares("transformer_blocks", JOINT, width, 4) | fed("transformer_blocks", width)
    assert identify(stems) == FLUX[0]
    first, *others = queries = [stem for stem in stems if stem.endswith(".attn.to_q")]
    assert len(others) >= 2
    wide = (width, width + 1)
    assert identify(stems | {first: wide}) == FLUX[0], "one odd layer makes no other model"
    assert identify(stems | dict.fromkeys(queries, wide)) is None, "a kind of layer does"


def test_a_model_just_above_the_small_ones_is_not_small() -> None:
    assert identify(squares("transformer_blocks", JOINT, SMALL + 1, 4)) is None


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("sdxl_base_v1-0", {"SDXL"}),
        ("sdxl_1.0", {"SDXL"}),
        ("sdxl_", {"SDXL"}),
        ("stable-diffusion-xl-v1-base/lora", {"SDXL"}),
        ("sd_v1", {"SD1.5"}),
        ("sd_1.5", {"SD1.5"}),
        ("sd_2.1", {"SD2"}),
        ("sd_v2_v", {"SD2"}),
        ("stable-diffusion-v2-768-v/lora", {"SD2"}),
        ("stable-diffusion-3-medium/lora", {"SD3"}),
        ("flux1", {"Flux.1"}),
        ("Flux.1-dev/lora", {"Flux.1"}),
        ("flux_kontext", {"Flux.1"}),
        ("flux2_klein_4b", {"Flux.2"}),
        ("Flux.2-klein-9b/lora", {"Flux.2"}),
        ("hunyuan_video", {"HunyuanVideo"}),
        ("framepack", {"HunyuanVideo"}),
        ("wan_2.2_14b", {"Wan"}),
        ("wan2.1/lora", {"Wan"}),
        ("qwen_image_edit", {"Qwen-Image"}),
        ("zimage_diffsynth", {"Z-Image"}),
        ("lumina-2/lora", {"Lumina 2"}),
        ("krea2", {"Krea 2"}),
        ("chroma", {"Chroma"}),
    ],
)
def test_words_of_trainers_are_understood(word: str, names: set[str]) -> None:
    assert read_hints([word]).families == names


@pytest.mark.parametrize(
    "word",
    [
        "hunyuan_video_1_5",
        "hunyuan-video-1.5/lora",
        "hunyuan-image-2.1",
        "ideogram4",
        "omnigen2",
        "cosmos-predict2",
        "ltx2",
        "hidream_o1_image",
        "wan3",
        "flux3_dev",
        "sana",
        "cogview4",
        "ace_step",
        "anima",
        "mochi",
        "x" * 9999,
    ],
)
def test_words_of_other_families_are_not_ours(word: str) -> None:
    hints = read_hints([word])
    assert hints.excludes_known_families
    assert hints.unknown_value == word


@pytest.mark.parametrize("word", ["", "unknown", "None", "custom", "--"])
def test_some_words_say_nothing(word: str) -> None:
    assert not read_hints([word]).excludes_known_families


def test_one_word_that_we_know_is_enough() -> None:
    hints = read_hints(["sdxl_base_v1-0", "my-finetune/lora"])
    assert hints.families == {SDXL.name}
    assert not hints.excludes_known_families


def test_every_family_is_named_by_the_words_that_we_write() -> None:
    for family in FAMILIES:
        for word in (family.base_model_version, family.modelspec_architecture):
            assert word is None or family.name in read_hints([word]).families
    assert HUNYUAN_VIDEO[0].name in read_hints(["hunyuan-video/lora"]).families
