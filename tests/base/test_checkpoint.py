"""The norms of checkpoints of all dtypes and layouts, compared with LAPACK."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from lib_resize.base.checkpoint import Checkpoint
from lib_resize.demo.synthetic import write_checkpoint
from lib_resize.errors import LayerError, UnsupportedError
from lib_resize.files.reader import SafeFile
from lib_resize.linalg.arrays import NumpyArrays
from lib_resize.linalg.casts import singles
from lib_resize.progress import Quiet

Q, K = "lora_te2_text_model_encoder_layers_1_self_attn_q_proj", "lora_te2_text_model_encoder_layers_1_self_attn_k_proj"
LAYERS = {
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k": (
        "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight", None, False),
    "lora_unet_middle_block_0_in_layers_2": ("model.diffusion_model.middle_block.0.in_layers.2.weight", None, False),
    "lora_te1_text_model_encoder_layers_0_mlp_fc1": (
        "conditioner.embedders.0.transformer.text_model.encoder.layers.0.mlp.fc1.weight", None, False),
    Q: ("conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_weight", 0, False),
    K: ("conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_weight", 1, False),
    "lora_te2_text_projection": ("conditioner.embedders.1.model.text_projection", None, True),
}  # fmt: skip


def expected(path: Path, key: str, third: int | None, transposed: bool) -> np.ndarray:
    with SafeFile(path) as file:
        weight = singles(file.bits(key), file.header.entries[key].dtype).astype(np.float64)
    if third is not None:
        weight = np.split(weight, 3)[third]
    weight = weight.reshape(len(weight), -1)
    return weight.T if transposed else weight


def norms_of(checkpoint: Checkpoint, name: str, size: tuple[int, int], spectral: bool = True):
    weight = checkpoint.partner(name, name, size)
    assert weight is not None
    with ThreadPoolExecutor(1) as pool:
        found = checkpoint.norms([weight], spectral=spectral, arrays=NumpyArrays(), pool=pool, progress=Quiet())
    return found[weight]


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F8_E4M3"])
def test_norms_are_those_of_the_stored_numbers(tmp_path: Path, dtype: str) -> None:
    path = write_checkpoint(tmp_path / "base.safetensors", dtype=dtype)
    checkpoint = Checkpoint(path)
    for name, place in LAYERS.items():
        weight = expected(path, *place)
        fro, spn = norms_of(checkpoint, name, weight.shape)
        assert fro == pytest.approx(np.linalg.norm(weight), rel=1e-5)
        assert spn == pytest.approx(np.linalg.norm(weight, 2), rel=1e-4)
    checkpoint.close()


def test_q_and_k_are_distinguished(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "base.safetensors")
    q, k = (expected(path, *LAYERS[name]) for name in (Q, K))
    assert abs(np.linalg.norm(q) - np.linalg.norm(k)) > 0.01 * np.linalg.norm(q)


def test_a_layer_of_another_size_has_no_partner(tmp_path: Path) -> None:
    checkpoint = Checkpoint(write_checkpoint(tmp_path / "base.safetensors"))
    assert checkpoint.partner(Q, Q, (7, 7)) is None
    assert checkpoint.partner("lora_unet_nowhere", "lora_unet_nowhere", (32, 32)) is None
    checkpoint.close()


def test_spectral_norms_are_added_to_cached_frobenius_norms(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "base.safetensors", seed=5)
    first, second = Checkpoint(path), Checkpoint(path)
    size = expected(path, *LAYERS[Q]).shape
    fro, none = norms_of(first, Q, size, spectral=False)
    assert none is None
    again, spn = norms_of(second, Q, size)
    assert again == fro
    assert spn is not None
    first.close()
    second.close()


def test_a_layout_of_diffusers_words_pairs_the_same_layers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    key = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    tensors = {key: rng.standard_normal((64, 48)).astype(np.float32),
               "down_blocks.1.resnets.0.conv1.weight": rng.standard_normal((64, 32, 3, 3)).astype(np.float32),
               "add_embedding.linear_1.weight": rng.standard_normal((128, 80)).astype(np.float32)}  # fmt: skip
    save_file(tensors, tmp_path / "unet.safetensors")
    checkpoint = Checkpoint(tmp_path / "unet.safetensors")
    name = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    assert norms_of(checkpoint, name, (64, 48))[0] == pytest.approx(np.linalg.norm(tensors[key]), rel=1e-5)
    checkpoint.close()


def test_a_weight_with_nan_stops_with_its_name(tmp_path: Path) -> None:
    key = "model.diffusion_model.input_blocks.4.1.proj_in.weight"
    weight = np.ones((64, 64), np.float32)
    weight[3, 3] = np.nan
    save_file({key: weight, "model.diffusion_model.label_emb.0.0.weight": weight}, tmp_path / "x.safetensors")
    checkpoint = Checkpoint(tmp_path / "x.safetensors")
    with pytest.raises(LayerError, match=r"proj_in\.weight holds NaN"):
        norms_of(checkpoint, "lora_unet_input_blocks_4_1_proj_in", (64, 64))
    checkpoint.close()


@pytest.mark.parametrize("tensors", [{"first_stage_model.x": (2, 2)}, {"lora_unet_a.lora_up.weight": (2, 2)}])
def test_what_is_no_base_model_is_refused(tmp_path: Path, tensors: dict[str, tuple[int, int]]) -> None:
    save_file({key: np.ones(shape, np.float32) for key, shape in tensors.items()}, tmp_path / "x.safetensors")
    with pytest.raises(UnsupportedError, match="no base model found"):
        Checkpoint(tmp_path / "x.safetensors")
