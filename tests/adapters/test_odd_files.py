"""Files that look like LoRAs and are none, or say little: swapped, quantised, zero, of experts, with odd names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lib_resize.adapters.read.adapter import read_adapter
from lib_resize.errors import LayerError, UnsupportedError
from lib_resize.files.reader import SafeFile
from tests.adapters.lorafiles import best, delta, factors, kohya, relative, tensors_of, write
from tests.adapters.test_resize_file import refused, resized

FLUX = "transformer.transformer_blocks.0.attn.to_q"


def pair(
    stem: str, up: np.ndarray, down: np.ndarray, words: tuple[str, str] = ("lora_B", "lora_A")
) -> dict[str, np.ndarray]:
    return {f"{stem}.{word}.weight": np.ascontiguousarray(part) for word, part in zip(words, (up, down), strict=True)}


def notes(path: Path) -> tuple[str, ...]:
    with SafeFile(path) as file:
        return read_adapter(file).notes


# Swapped and transposed ---------------------------------------------------------------------------------------

TURNS = {
    "swapped": lambda up, down: (down, up),
    "transposed": lambda up, down: (up.T, down.T),
}


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("words", [("lora_B", "lora_A"), ("lora_up", "lora_down"), ("lora.up", "lora.down")])
@pytest.mark.parametrize(("n", "m"), [(64, 64), (64, 48)])
def test_swapped_and_transposed_factors_are_refused(tmp_path, turn, words, n, m) -> None:
    source = pair("a.to_q", *TURNS[turn](*factors(n, m, 4)), words) | pair("a.to_k", *TURNS[turn](*factors(n, m, 4)))
    error = refused(write(tmp_path / "x.safetensors", source))
    assert isinstance(error, LayerError)
    assert "swapped or transposed" in str(error)
    assert "(64, 4)" in str(error) or "(48, 4)" in str(error)


def test_one_swapped_layer_among_many_is_found_by_the_shapes_of_its_family(tmp_path) -> None:
    rng = np.random.default_rng(0)
    up, down = (rng.standard_normal(shape).astype(np.float16) for shape in ((3072, 2), (2, 3072)))
    stems = [f"transformer.transformer_blocks.{i}.attn.to_q" for i in range(4)]
    source = {key: part for stem in stems for key, part in pair(stem, up, down).items()}
    error = refused(write(tmp_path / "x.safetensors", source | pair(stems[2], down, up)))
    assert "swapped or transposed" in str(error)
    assert stems[2] in str(error)


def test_a_small_layer_of_a_large_rank_is_resized_with_a_note(tmp_path) -> None:
    source = kohya("lora_unet_a", 40, 40) | kohya("lora_unet_b", 30, 30) | kohya("lora_unet_c", 4, 4, rank=6)
    found, outcome = resized(write(tmp_path / "x.safetensors", source))
    assert outcome.plan is not None
    assert any("rank above both of their sides (first lora_unet_c: rank 6, 4 times 4)" in n for n in outcome.plan.notes)
    assert relative(delta(found, "lora_unet_c"), best(delta(source, "lora_unet_c"), 2)) < 7e-4


def test_a_file_of_ours_may_have_ranks_above_its_sides(tmp_path) -> None:
    source = write(tmp_path / "x.safetensors", kohya("lora_unet_a", 8, 8))
    _, outcome = resized(source, "rank=12,pad")
    assert outcome.plan is not None
    found, again = resized(outcome.plan.output, "rank=2")
    assert again.plan is not None
    assert [layer.new_rank for layer in again.plan.layers] == [2]
    assert "lora_unet_a.alpha" in found


# Quantised ------------------------------------------------------------------------------------------------------

QUANTISED = {
    "integers with scales": ".lora_down.weight_scale",
    "fp8 with scales": ".lora_up.scale_weight",
    "a scale for each factor": ".lora_up.scale",
    "a scale for the layer": ".weight_scale",
    "ComfyUI's mark": ".lora_down.comfy_quant",
    "bitsandbytes, 4 bits": ".lora_A.weight.quant_state.bitsandbytes__nf4",
    "bitsandbytes' block sizes": ".lora_A.weight.absmax",
    "bitsandbytes, 8 bits": ".lora_A.SCB",
    "GPTQ": ".lora_B.qzeros",
    "an input's scale": ".input_scale",
}


@pytest.mark.parametrize("suffix", QUANTISED.values(), ids=QUANTISED)
def test_quantised_factors_are_refused_as_such(tmp_path, suffix) -> None:
    source = kohya("lora_unet_a") | kohya("lora_unet_b") | {f"lora_unet_a{suffix}": np.ones((), np.float32)}
    error = refused(write(tmp_path / "x.safetensors", source))
    assert isinstance(error, UnsupportedError)
    assert "quantised LoRA (1 layers, first lora_unet_a)" in str(error)
    assert "save it in float16 or bfloat16" in str(error)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32])
@pytest.mark.parametrize("suffixes", [(".lora_up.weight", ".lora_down.weight"), (".lora_B.weight", ".lora_A.weight")])
def test_integers_without_scales_are_refused_as_quantised(tmp_path, dtype, suffixes) -> None:
    source = {f"a{suffixes[0]}": np.ones((24, 4), dtype), f"a{suffixes[1]}": np.ones((4, 16), dtype)}
    error = refused(write(tmp_path / "x.safetensors", source))
    assert "quantised" in str(error)
    assert "save it in float16" in str(error).lower()


def test_a_mark_for_the_whole_file_is_enough(tmp_path) -> None:
    source = kohya("lora_unet_a") | {"scaled_fp8": np.zeros(2, np.float32)}
    assert "quantised" in str(refused(write(tmp_path / "x.safetensors", source)))


# Experts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stem", ["base_model.model.layers.0.mlp.experts", "model.layers.0.experts.base_layer", "lora_unet_layers_0_experts"]
)
def test_factors_of_stacked_experts_are_refused_by_their_names(tmp_path, stem) -> None:
    error = refused(write(tmp_path / "x.safetensors", kohya("lora_unet_a") | pair(stem, *factors(24, 16, 8))))
    assert isinstance(error, UnsupportedError)
    assert "LoRA of stacked experts" in str(error)


@pytest.mark.parametrize("where", ["configuration", "metadata"])
def test_a_configuration_with_target_parameters_is_refused(tmp_path, where) -> None:
    fields = {"r": 4, "target_parameters": ["feed_forward.gate_up_proj"]}
    metadata = {"lora_adapter_metadata": json.dumps({f"transformer.{key}": value for key, value in fields.items()})}
    stem = "base_model.model.layers.0.feed_forward" if where == "configuration" else "transformer.layers.0.feed_forward"
    path = write(
        tmp_path / "adapter_model.safetensors",
        pair(stem, *factors(24, 16, 8)),
        metadata if where == "metadata" else None,
    )
    if where == "configuration":
        (tmp_path / "adapter_config.json").write_text(json.dumps(fields | {"lora_alpha": 4}))
    error = refused(path)
    assert isinstance(error, UnsupportedError)
    assert "target_parameters" in str(error)


def test_a_stack_of_factors_is_called_one(tmp_path) -> None:
    source = pair("a.moe", np.ones((4, 24, 2), np.float32), np.ones((4, 2, 16), np.float32))
    assert "one pair for each expert" in str(refused(write(tmp_path / "x.safetensors", source)))


def test_a_layer_inside_of_an_expert_is_an_ordinary_one(tmp_path) -> None:
    found, _ = resized(write(tmp_path / "x.safetensors", pair("layers.0.experts.3.w1", *factors(24, 16, 4))))
    assert found["layers.0.experts.3.w1.lora_A.weight"].shape == (2, 16)


# Names of adapters ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "adapter", ["default", "default_0", "default_0.default", "my.style", "v1.5", "a.b.c", "weight"]
)
def test_an_adapters_name_in_the_keys_is_no_hindrance(tmp_path, adapter) -> None:
    up, down = factors(24, 16, 6)
    source = {f"{FLUX}.lora_A.{adapter}.weight": down, f"{FLUX}.lora_B.{adapter}.weight": up}
    source |= {f"{FLUX}.lora_B.{adapter}.bias": np.ones(24, np.float32)}
    found, _ = resized(write(tmp_path / "x.safetensors", source))
    assert found.keys() == source.keys()
    pieces = found[f"{FLUX}.lora_B.{adapter}.weight"] @ found[f"{FLUX}.lora_A.{adapter}.weight"]
    assert relative(pieces, best(up @ down, 2)) < 7e-4


def test_two_adapters_in_one_file_are_refused(tmp_path) -> None:
    up, down = factors(24, 16, 6)
    source = {f"a.lora_A.{name}.weight": down for name in ("one", "two")}
    source |= {f"a.lora_B.{name}.weight": up for name in ("one", "two")}
    assert "two tensors with one role" in str(refused(write(tmp_path / "x.safetensors", source)))


# Zero -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["rank=2", "retain=0.95", "fro_lora,thr=-1", "size=1"])
def test_alpha_zero_everywhere_is_the_reason_given(tmp_path, recipe) -> None:
    source = kohya("lora_unet_a", alpha=0) | kohya("lora_unet_b", alpha=0)
    error = refused(write(tmp_path / "x.safetensors", source), recipe)
    assert "alpha is 0 in all 2 layers" in str(error)
    assert "alpha = rank" in str(error)
    assert "thr=" not in str(error)


@pytest.mark.parametrize("zeroed", ["up", "down"])
def test_zero_factors_everywhere_are_the_reason_given(tmp_path, zeroed) -> None:
    source = kohya("lora_unet_a") | kohya("lora_unet_b")
    source |= {key: np.zeros_like(part) for key, part in source.items() if f"lora_{zeroed}" in key}
    error = refused(write(tmp_path / "x.safetensors", source))
    assert "all 2 layers are zero" in str(error)
    assert "thr=" not in str(error)


def test_one_layer_of_alpha_zero_is_left_out_with_a_note(tmp_path) -> None:
    source = kohya("lora_unet_a") | kohya("lora_unet_b", alpha=0)
    found, outcome = resized(write(tmp_path / "x.safetensors", source))
    assert {key.partition(".")[0] for key in found} == {"lora_unet_a"}
    assert outcome.plan is not None
    assert any("alpha is 0 in 1 layers (first lora_unet_b)" in note for note in outcome.plan.notes)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("suffix", [".alpha", ".scale"])
def test_an_alpha_that_is_no_number_is_named(tmp_path, value, suffix) -> None:
    source = kohya("lora_unet_a", alpha=None) | {f"lora_unet_a{suffix}": np.array(value, np.float32)}
    error = refused(write(tmp_path / "x.safetensors", source))
    assert f"lora_unet_a{suffix} is {value}" in str(error)


def test_a_negative_alpha_keeps_its_sign(tmp_path) -> None:
    source = kohya("lora_unet_a", alpha=-2.0)
    path = write(tmp_path / "x.safetensors", source)
    found, _ = resized(path, "rank=6")
    assert relative(delta(found, "lora_unet_a"), delta(source, "lora_unet_a")) < 7e-4
    assert tensors_of(path).keys() == found.keys()
    assert not notes(path)
