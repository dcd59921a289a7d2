"""Keys are parted the same way by every writer's spelling."""

from __future__ import annotations

import time
import timeit

import pytest

from lib_resize.adapters.keys import suffixes
from lib_resize.adapters.keys.registry import kind_of
from lib_resize.adapters.keys.suffixes import ParsedKey, parse_key

STEM = "unet.down_blocks.1.attentions.0.to_out.0"


@pytest.mark.parametrize(
    ("key", "stem", "role"),
    [
        ("lora_unet_a_b.lora_up.weight", "lora_unet_a_b", "up"),
        ("lora_unet_a_b.lora_down.weight", "lora_unet_a_b", "down"),
        ("lora_unet_a_b.lora_mid.weight", "lora_unet_a_b", "mid"),
        ("lora_unet_a_b.alpha", "lora_unet_a_b", "alpha"),
        ("lora_unet_a_b.dora_scale", "lora_unet_a_b", "magnitude"),
        (f"{STEM}.lora_A.weight", STEM, "down"),
        (f"{STEM}.lora_B.weight", STEM, "up"),
        (f"{STEM}.lora_A.default.weight", STEM, "down"),
        (f"{STEM}.lora_B.my_adapter.weight", STEM, "up"),
        (f"{STEM}.lora_A", STEM, "down"),
        (f"{STEM}.lora_B.bias", STEM, "up_bias"),
        (f"{STEM}.lora.up.weight", STEM, "up"),
        (f"{STEM}.lora.down.weight", STEM, "down"),
        (f"{STEM}.lora_linear_layer.down.weight", STEM, "down"),
        (f"{STEM}.lora_magnitude_vector", STEM, "magnitude"),
        (f"{STEM}.lora_magnitude_vector.weight", STEM, "magnitude"),
        (f"{STEM}.lora_magnitude_vector.default.weight", STEM, "magnitude"),
        ("unet.mid.attn1.processor.to_q_lora.down.weight", "unet.mid.attn1.processor.to_q", "down"),
        ("double_blocks.0.processor.qkv_lora1.up.weight", "double_blocks.0.processor.qkv_lora1", "up"),
        ("unet:12:up", "unet:12", "pti_up"),
        ("lora_te_a.hada_w1_a", "lora_te_a", "hada_w1_a"),
        ("lora_te_a.lokr_w2_b", "lora_te_a", "lokr_w2_b"),
        ("lora_te_a.diff", "lora_te_a", "diff"),
        ("lora_te_a.oft_R.weight", "lora_te_a", "oft_R"),
        ("bundle_emb.cat.clip_l", "bundle_emb.cat.clip_l", ""),
        ("<s1>", "<s1>", ""),
        ("something.else", "something.else", ""),
    ],
)
def test_a_key_parts_into_stem_and_role(key: str, stem: str, role: str) -> None:
    found = parse_key(key)
    assert (found.stem, found.role) == (stem, role)
    assert found.role == "" or found.stem + found.suffix == key


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        (["a.lora_up.weight", "a.lora_down.weight", "a.alpha"], "LoRA"),
        (["a.lora_up.weight", "a.lora_down.weight", "a.lora_mid.weight"], "Tucker LoCon"),
        (["a.hada_w1_a", "a.hada_w1_b", "a.alpha"], "LoHa"),
        (["a.lokr_w1", "a.lokr_w2_a", "a.dora_scale"], "LoKr"),
        (["a.a1.weight", "a.a2.weight", "a.b1.weight", "a.b2.weight", "a.alpha"], "GLoRA"),
        (["a.oft_blocks", "a.alpha"], "OFT"),
        (["a.oft_diag"], "OFT"),
        (["a.oft_R.weight"], "OFT"),
        (["a.boft_R", "a.boft_s"], "BOFT"),
        (["a.on_input", "a.weight"], "IA3"),
        (["a.ia3_l"], "IA3"),
        (["a.lambda_layer", "a.p_layer.weight", "a.q_layer.weight", "a.alpha"], "T-LoRA"),
        (["unet:0:up", "unet:0:down"], "cloneofsimo LoRA"),
        (["input_blocks.1.0.up", "input_blocks.1.0.down"], "Control-LoRA"),
        (["lora_controlnet"], "unknown"),
        (["a.B"], "PaRa"),
        (["a.set_weight"], "weight replacement"),
        (["lllite_unet_x.down.0.weight"], "ControlNet-LLLite"),
        (["image_proj.norm.weight"], "IP-Adapter"),
        (["a.diff", "a.diff_b"], "weight difference"),
        (["a.w_norm", "a.b_norm"], "norm"),
        (["a.alpha"], "alpha without factors"),
        (["bundle_emb.cat.clip_g"], "embedding"),
        (["<s1>"], "embedding"),
        (["who.knows"], "unknown"),
    ],
)
def test_a_kind_is_known_by_its_keys(keys: list[str], kind: str) -> None:
    parts = [parse_key(key) for key in keys]
    by_stem: dict[str, dict[str, ParsedKey]] = {p.stem: {} for p in parts}
    for found in parts:
        by_stem[found.stem][found.role] = found
    stem = parts[0].stem
    assert kind_of(stem, by_stem[stem]).name == kind


@pytest.mark.parametrize("word", [".lora_A.", ".lora_B.", ".lora_", "_lora.", ":1", ".up", ".weight_scale", "_lora1"])
@pytest.mark.parametrize("end", [":", ".bias"])
def test_parting_a_long_key_is_linear(word: str, end: str) -> None:
    """Eight times the letters cost about eight times as much; were it quadratic, they would cost 64 times."""

    def cost(count: int) -> float:
        key = "a" + word * count + end
        return min(timeit.repeat(lambda: parse_key(key), timer=time.thread_time, number=1, repeat=3))

    assert cost(80_000) < 30 * cost(10_000)


@pytest.mark.parametrize(
    "stem", ["lora_unet_a_b", "lora_te1_c", "lora_te_scales", "lora_unet_", "scales", "lora_unet_a.b"]
)
@pytest.mark.parametrize("word", ["lora_up.weight", "lora_down.weight", "alpha", "weight_scale.alpha", "", "x.alpha"])
def test_the_short_way_of_usual_keys_gives_what_the_long_way_gives(stem, word, monkeypatch) -> None:
    short = parse_key(f"{stem}.{word}")
    monkeypatch.setattr(suffixes, "_KOHYA", {})
    assert parse_key(f"{stem}.{word}") == short
