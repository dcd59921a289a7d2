"""Made-up models have SDXL's own names, sizes and kinds of spectrum, and known laws are known exactly."""

from __future__ import annotations

import hashlib
import json
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from lib_resize.demo import synthetic
from lib_resize.demo.models import FULL, SMALL, UNET_PREFIX, Model, checkpoint_specs
from lib_resize.demo.synthetic import LoraOptions, write_checkpoint, write_lora
from lib_resize.demo.values import trained_spectrum
from lib_resize.errors import UsageError
from lib_resize.files.header import Header, TensorSpec, read_header
from lib_resize.linalg.casts import STORAGE, doubles
from tests.material import file_size, low_rank_factors

MIB = 1 << 20


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("synthetic") / "基 base.safetensors")


@cache
def header_of(path: Path) -> Header:
    return read_header(path)


def matrix(path: Path, key: str) -> np.ndarray:
    """A stored tensor of any float dtype as a float64 matrix."""
    header = header_of(path)
    entry = header.entries[key]
    kind, start = STORAGE[entry.dtype], header.data_start + entry.start
    with path.open("rb") as file:
        file.seek(start)
        bits = np.frombuffer(file.read(entry.stop - entry.start), kind)
    values = doubles(bits, entry.dtype).reshape(entry.shape)
    return values.reshape(entry.shape[0], -1) if entry.shape else values


def delta(path: Path, name: str, down: str = ".lora_down.weight", up: str = ".lora_up.weight") -> np.ndarray:
    product: np.ndarray = matrix(path, name + up) @ matrix(path, name + down)
    return product


# Names and sizes


def test_full_lora_has_the_layers_that_kohya_trains() -> None:
    layers = synthetic.lora_layers(LoraOptions(FULL, rank=32))
    assert len(layers) == len({layer.name for layer in layers}) == 986
    assert sum(layer.text for layer in layers) == 72 + 192


def test_full_locon_adds_the_66_layers_of_residual_blocks() -> None:
    plain = {layer.name for layer in synthetic.lora_layers(LoraOptions(FULL))}
    with_conv = {layer.name for layer in synthetic.lora_layers(LoraOptions(FULL, conv=True))}
    assert len(with_conv) == 1052
    assert plain < with_conv


@pytest.mark.parametrize(("rank", "mib"), [(8, 54.76), (32, 217.87)])
def test_full_lora_has_the_size_of_published_files(rank: int, mib: float) -> None:
    options = LoraOptions(FULL, rank=rank)
    size = file_size(synthetic.lora_specs(options), synthetic.lora_metadata(options))
    assert round(size / MIB, 2) == mib


def test_full_checkpoint_has_sdxl_parameter_count() -> None:
    specs = checkpoint_specs(FULL)
    unet = [math.prod(spec.shape) for spec in specs if spec.name.startswith(UNET_PREFIX)]
    assert sum(unet) == 2_567_463_684  # the published count of SDXL's UNet


@pytest.mark.parametrize("model", [SMALL, FULL], ids=["small", "full"])
@pytest.mark.parametrize("conv", [False, True])
def test_every_lora_layer_has_its_weight_in_the_checkpoint(model: Model, conv: bool) -> None:
    shapes = {spec.name: spec.shape for spec in checkpoint_specs(model)}
    unet = {
        "lora_unet_" + key[len(UNET_PREFIX) :].removesuffix(".weight").replace(".", "_"): shape
        for key, shape in shapes.items()
        if key.startswith(UNET_PREFIX)
    }
    for layer in synthetic.lora_layers(LoraOptions(model, conv=conv, text_encoders=False)):
        assert unet[layer.name] == layer.shape


def test_small_names_are_a_part_of_the_full_ones() -> None:
    for spelling in synthetic.SPELLINGS:
        small = {layer.name for layer in synthetic.lora_layers(LoraOptions(conv=True, spelling=spelling))}
        full = {layer.name for layer in synthetic.lora_layers(LoraOptions(FULL, conv=True, spelling=spelling))}
        assert small < full


def test_small_model_has_every_kind_of_layer() -> None:
    options = LoraOptions(conv=True, text_projection=True)
    kinds = {(len(layer.shape), layer.shape[2:]) for layer in synthetic.lora_layers(options)}
    assert kinds == {(2, ()), (4, (3, 3)), (4, (1, 1))}
    keys = {spec.name for spec in checkpoint_specs(SMALL)}
    assert "conditioner.embedders.1.model.transformer.resblocks.2.attn.in_proj_weight" in keys
    assert "conditioner.embedders.1.model.text_projection" in keys


def test_conv_rank_holds_for_3x3_kernels_only() -> None:
    for layer in synthetic.lora_layers(LoraOptions(rank=8, conv=True, conv_rank=4)):
        assert layer.rank == (4 if layer.shape[2:] == (3, 3) else 8)


# Files


def test_checkpoint_is_read_by_the_library_and_is_small(checkpoint: Path) -> None:
    assert checkpoint.stat().st_size < 15_000_000
    with safe_open(str(checkpoint), framework="numpy") as file:
        assert set(file.keys()) == {spec.name for spec in checkpoint_specs(SMALL)}
        fused = file.get_tensor("conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight")
        positions = file.get_tensor("conditioner.embedders.0.transformer.text_model.embeddings.position_ids")
    assert fused.shape == (96, 32)
    assert fused.dtype == np.float16
    assert positions.tolist() == [list(range(77))]


def test_checkpoint_has_no_tensor_that_is_not_finite(checkpoint: Path) -> None:
    header = read_header(checkpoint)
    for key, entry in header.entries.items():
        if entry.dtype == "F16":
            assert np.isfinite(matrix(checkpoint, key)).all()
            assert np.abs(matrix(checkpoint, key)).max() < 100


def test_rows_of_fused_attention_differ_in_norm(checkpoint: Path) -> None:
    fused = matrix(checkpoint, "conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_weight")
    q, k, v = (np.linalg.norm(part) for part in np.split(fused, 3))
    assert q > 1.05 * k > 1.05 * 1.05 * v


def test_checkpoint_weights_are_of_easy_and_hard_kinds(checkpoint: Path) -> None:
    gaps = []
    for key, entry in read_header(checkpoint).entries.items():
        if len(entry.shape) >= 2 and entry.dtype == "F16":
            s = np.linalg.svd(matrix(checkpoint, key), compute_uv=False)
            gaps.append(s[0] / s[1])
    assert np.mean(np.array(gaps) > 1.2) > 0.4
    assert np.mean(np.array(gaps) < 1.1) > 0.2


@pytest.mark.parametrize("dtype", ["BF16", "F32", "F8_E4M3"])
def test_checkpoint_dtypes_hold_the_same_numbers(checkpoint: Path, tmp_path: Path, dtype: str) -> None:
    other = write_checkpoint(tmp_path / "other.safetensors", dtype=dtype)
    key = "model.diffusion_model.middle_block.1.proj_in.weight"
    assert read_header(other).entries[key].dtype == dtype
    half, values = matrix(checkpoint, key), matrix(other, key)
    assert np.linalg.norm(values - half) < 0.04 * np.linalg.norm(half)


@pytest.mark.parametrize("spelling", synthetic.SPELLINGS)
@pytest.mark.parametrize("dtype", synthetic.DTYPES)
def test_lora_is_read_by_the_library(tmp_path: Path, spelling: str, dtype: str) -> None:
    options = LoraOptions(conv=True, conv_rank=4, dora=True, spelling=spelling, dtype=dtype)
    path = write_lora(tmp_path / "lora.safetensors", options)
    specs = synthetic.lora_specs(options)
    with safe_open(str(path), framework="pt") as file:
        assert set(file.keys()) == {spec.name for spec in specs}
        assert all(tuple(file.get_slice(spec.name).get_shape()) == spec.shape for spec in specs)
        assert file.metadata()
    header = read_header(path)
    assert [TensorSpec(name, e.dtype, e.shape) for name, e in header.entries.items()] == specs


def test_all_key_formats_hold_the_same_delta(tmp_path: Path) -> None:
    kohya = write_lora(tmp_path / "kohya.safetensors")
    words = write_lora(tmp_path / "words.safetensors", LoraOptions(spelling="kohya-diffusers"))
    export = write_lora(tmp_path / "export.safetensors", LoraOptions(spelling="diffusers"))
    peft = write_lora(tmp_path / "peft.safetensors", LoraOptions(spelling="peft"))
    name = "down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q"
    expected = delta(kohya, "lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q")
    assert np.array_equal(delta(words, "lora_unet_" + name.replace(".", "_")), expected)
    assert np.array_equal(delta(export, "unet." + name, ".lora.down.weight", ".lora.up.weight"), expected)
    assert np.array_equal(delta(peft, "base_model.model." + name, ".lora_A.weight", ".lora_B.weight"), expected)


def test_peft_keeps_alpha_next_to_the_file(tmp_path: Path) -> None:
    write_lora(tmp_path / "adapter_model.safetensors", LoraOptions(spelling="peft", rank=6, conv=True, conv_rank=4))
    config = json.loads((tmp_path / "adapter_config.json").read_text("utf-8"))
    assert (config["r"], config["lora_alpha"]) == (6, 3.0)
    assert set(config["rank_pattern"].values()) == {4}
    assert len(config["target_modules"]) == 248


def test_fp8_lora_keeps_its_scale(tmp_path: Path) -> None:
    name = "lora_unet_middle_block_1_transformer_blocks_0_ff_net_2"
    half = write_lora(tmp_path / "half.safetensors")
    small = write_lora(tmp_path / "fp8.safetensors", LoraOptions(dtype="F8_E4M3"))
    expected, found = (float(matrix(path, f"{name}.alpha")) * delta(path, name) for path in (half, small))
    assert np.linalg.norm(found - expected) < 0.06 * np.linalg.norm(expected)


def test_alpha_keys_can_be_left_out_or_added() -> None:
    without = synthetic.lora_specs(LoraOptions(alpha_keys=False))
    added = synthetic.lora_specs(LoraOptions(alpha_keys=True, spelling="diffusers"))
    assert not any(spec.name.endswith(".alpha") for spec in without)
    assert sum(spec.name.endswith(".alpha") for spec in added) == len(added) // 3


def test_alpha_is_half_the_rank_unless_given(tmp_path: Path) -> None:
    name = "lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha"
    assert matrix(write_lora(tmp_path / "a.safetensors", LoraOptions(rank=6)), name) == 3.0
    assert matrix(write_lora(tmp_path / "b.safetensors", LoraOptions(rank=6, alpha=1)), name) == 1.0


def test_metadata_carries_a_true_hash_and_the_callers_fields(tmp_path: Path) -> None:
    path = write_lora(tmp_path / "a.safetensors", LoraOptions(metadata={"ss_output_name": "my 猫"}))
    header = read_header(path)
    region = path.read_bytes()[header.data_start :]
    assert header.metadata["sshs_model_hash"] == hashlib.sha256(region).hexdigest()
    assert header.metadata["ss_output_name"] == "my 猫"
    assert header.metadata["ss_base_model_version"] == "sdxl_base_v1-0"


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path: Path) -> None:
    first = write_lora(tmp_path / "1.safetensors").read_bytes()
    assert write_lora(tmp_path / "2.safetensors").read_bytes() == first
    assert write_lora(tmp_path / "3.safetensors", LoraOptions(seed=1)).read_bytes() != first


def test_unknown_options_are_refused_with_what_is_known(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="kohya, kohya-diffusers, diffusers, peft"):
        write_lora(tmp_path / "a.safetensors", LoraOptions(spelling="klingon"))
    with pytest.raises(UsageError, match="F16, BF16"):
        write_checkpoint(tmp_path / "a.safetensors", dtype="F4")
    assert not list(tmp_path.iterdir())


# Spectra


def test_spectra_of_a_lora_look_trained(tmp_path: Path) -> None:
    options = LoraOptions(rank=8)
    path = write_lora(tmp_path / "lora.safetensors", options)
    largest, fourth, condition = [], [], []
    for layer in synthetic.lora_layers(options):
        if layer.trained:
            s = np.linalg.svd(delta(path, layer.name), compute_uv=False)[:8]
            largest.append(s[0])
            fourth.append(s[3] / s[0])
            condition.append(np.linalg.cond(matrix(path, f"{layer.name}.lora_down.weight")))
    assert 0.02 < np.median(largest) < 0.08
    assert 0.15 < np.median(fourth) < 0.6
    assert np.median(condition) < 3


def test_stored_dimensions_are_not_the_singular_ones(tmp_path: Path) -> None:
    path = write_lora(tmp_path / "lora.safetensors")
    up = matrix(path, "lora_unet_middle_block_1_transformer_blocks_0_ff_net_0_proj.lora_up.weight")
    gram = up.T @ up
    assert np.abs(gram - np.diag(np.diag(gram))).max() > 0.1 * np.diag(gram).max()


def test_last_layer_of_the_first_text_encoder_is_zero_and_no_other(tmp_path: Path) -> None:
    path = write_lora(tmp_path / "lora.safetensors")
    zero = {
        key.removesuffix(".lora_up.weight")
        for key in read_header(path).entries
        if key.endswith(".lora_up.weight") and not matrix(path, key).any()
    }
    assert len(zero) == 6
    assert all(name.startswith("lora_te1_text_model_encoder_layers_2_") for name in zero)
    assert matrix(path, f"{zero.pop()}.lora_down.weight").all()


def test_full_spectra_fall_and_start_near_the_measured_median() -> None:
    spectra = [trained_spectrum(32, np.random.default_rng(seed)) for seed in range(200)]
    assert all(np.all(np.diff(s) < 0) for s in spectra)
    assert 0.03 < np.median([s[0] for s in spectra]) < 0.05


# Factors with known singular values


@given(
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    extra=st.integers(0, 6),
    condition=st.floats(1, 1e4),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_low_rank_factors_have_exactly_the_given_singular_values(
    rows: int, columns: int, extra: int, condition: float, seed: int, data: st.DataObject
) -> None:
    values = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=min(rows, columns))
    spectrum = sorted(data.draw(values), reverse=True)
    rank = len(spectrum) + extra
    up, down = low_rank_factors((rows, columns), spectrum, rank=rank, condition=condition, seed=seed)
    assert up.shape == (rows, rank)
    assert down.shape == (rank, columns)
    found = np.linalg.svd(up @ down, compute_uv=False)
    assert np.allclose(found[: len(spectrum)], spectrum, rtol=0, atol=1e-10 * condition * spectrum[0])
    assert np.all(found[len(spectrum) :] <= 1e-10 * condition * spectrum[0])


def test_condition_worsens_the_factors_and_not_the_product() -> None:
    up, down = low_rank_factors((40, 30), [1.0] * 8, condition=1e3)
    assert np.linalg.cond(up) == pytest.approx(1e3, rel=1e-6)
    assert np.linalg.cond(down) == pytest.approx(1e3, rel=1e-6)
    assert np.linalg.cond(low_rank_factors((40, 30), [1.0] * 8)[0]) == pytest.approx(1.0)


def test_impossible_factors_are_refused() -> None:
    with pytest.raises(UsageError, match="3 singular values"):
        low_rank_factors((2, 9), [3.0, 2.0, 1.0])
    with pytest.raises(UsageError, match="rank 2"):
        low_rank_factors((9, 9), [3.0, 2.0, 1.0], rank=2)
