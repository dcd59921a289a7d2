"""A reference that chose or computed something else would be no reference: both are checked in float64."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from lib_resize.demo.synthetic import LoraOptions, write_checkpoint, write_lora
from tests.material import low_rank_factors

references = pytest.importorskip("benchmarks.references", reason="the reference paths are written with torch")

FUSED = "conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("references")
    write_checkpoint(folder / "base.safetensors", dtype="F32")
    write_lora(folder / "lora.safetensors", LoraOptions(conv=True, dtype="F32"))
    return folder


def resized(folder: Path, recipe: str) -> dict[str, np.ndarray]:
    output = folder / "out"
    words = [str(folder / "base.safetensors"), str(folder / "lora.safetensors")]
    norms = folder / "norms.json"
    for old in output.glob("*"):
        old.unlink()
    assert references.main([*words, "-o", str(output), "-r", recipe, "--norms", str(norms)]) == 0
    (written,) = output.iterdir()
    return load_file(written)


def flat(tensors: dict[str, np.ndarray], key: str) -> np.ndarray:
    return tensors[key].astype(np.float64).reshape(tensors[key].shape[0], -1)


def delta(tensors: dict[str, np.ndarray], name: str) -> np.ndarray:
    up, down = flat(tensors, f"{name}.lora_up.weight"), flat(tensors, f"{name}.lora_down.weight")
    product: np.ndarray = float(tensors[f"{name}.alpha"]) / down.shape[0] * up @ down
    return product


def weight(base: dict[str, np.ndarray], name: str) -> np.ndarray:
    """The base weight of three layers, each found by hand."""
    if name.endswith("layers_1_self_attn_k_proj"):
        return base[FUSED][32:64].astype(np.float64)
    keys = {
        "lora_unet_middle_block_0_in_layers_2": "model.diffusion_model.middle_block.0.in_layers.2.weight",
        "lora_te1_text_model_encoder_layers_0_mlp_fc2": "conditioner.embedders.0.transformer."
        "text_model.encoder.layers.0.mlp.fc2.weight",
    }
    return flat(base, keys[name])


LAYERS = (
    "lora_te2_text_model_encoder_layers_1_self_attn_k_proj",
    "lora_unet_middle_block_0_in_layers_2",
    "lora_te1_text_model_encoder_layers_0_mlp_fc2",
)


@pytest.mark.parametrize(
    ("recipe", "threshold"),
    [
        ("fro_ckpt=1,thr=-2.6", -2.6),
        ("fro_lora,thr=-0.7", -0.7),
        ("spn_lora=1,params=1,thr=-1.6", -1.6),
        ("subspace=1,thr=-1.2,rescale=0.5", -1.2),
    ],
)
@pytest.mark.parametrize("name", LAYERS)
def test_threshold_keeps_exactly_the_dimensions_of_the_definition(
    folder: Path, recipe: str, threshold: float, name: str
) -> None:
    source, base = load_file(folder / "lora.safetensors"), load_file(folder / "base.safetensors")
    whole, w = delta(source, name), weight(base, name)
    gain = 0.5 if "rescale" in recipe else 1.0
    left, s, right = np.linalg.svd(gain * whole, full_matrices=False)
    left, s, right = left[:, :8], s[:8], right[:8]
    magnitudes = {
        "fro_ckpt": math.log10(np.linalg.norm(w)),
        "fro_lora": math.log10(np.linalg.norm(s)),
        "spn_lora": (math.log10(s[0]) + math.log10(sum(w.shape))) / 2,
        "subspace": np.log10(np.abs(np.einsum("nk,nm,km->k", left, w, right))),
    }
    scores = np.log10(s) - magnitudes[recipe.split("=")[0].split(",")[0]]
    kept = scores >= threshold
    found = resized(folder, recipe)
    assert found.get(f"{name}.lora_down.weight", np.empty((0,))).shape[0] == kept.sum()
    if kept.any():
        expected = (left[:, kept] * s[kept]) @ right[kept]
        assert np.linalg.norm(delta(found, name) - expected) < 1e-3 * np.linalg.norm(expected)


def test_size_is_not_exceeded_by_tensors_and_nearly_reached(folder: Path) -> None:
    found = resized(folder, "spn_ckpt=1,size=0.25")
    size = sum(array.nbytes for key, array in found.items() if not key.endswith(".alpha"))
    assert 0.98 * 0.25 * 2**20 < size <= 0.25 * 2**20


def test_zero_layers_are_dropped(folder: Path) -> None:
    assert not any("te1_text_model_encoder_layers_2_" in key for key in resized(folder, "spn_lora=1,thr=-9"))


def test_norms_are_remembered(folder: Path) -> None:
    resized(folder, "spn_ckpt=1,fro_ckpt=1,thr=-2")
    (known,) = references.read_norms(folder / "norms.json").values()
    assert set(known) == {"frobenius", "spectral"}
    assert len(known["spectral"]) > 200


@pytest.mark.parametrize("recipe", ["fro_ckpt=1", "thr=1", "fro_ckpt=1,thr=1,size=1", "fro=1,thr=1"])
def test_a_recipe_that_is_none_is_refused(recipe: str) -> None:
    with pytest.raises(ValueError, match="expected scores"):
        references.parse_recipe(recipe)


def test_full_matrix_and_randomised_truncation_agree_with_the_best_one() -> None:
    import torch

    torch.manual_seed(0)
    spectrum = 0.5 ** np.arange(8, dtype=np.float64)
    up, down = (torch.from_numpy(factor) for factor in low_rank_factors((40, 30), spectrum, condition=3.0))
    for method, slack in (("full", 1e-10), ("randomised", 1e-2)):
        left, right = references.FULL_METHODS[method](up, down, 3)
        error = torch.linalg.matrix_norm(up @ down - left @ right)
        assert error <= (1 + slack) * np.linalg.norm(spectrum[3:])


def test_extrapolation_counts_every_layer(folder: Path) -> None:
    found = references.full_matrix_seconds(folder / "lora.safetensors", "randomised")
    assert found.layers == 284
    assert 0 < found.sampled < 60
    assert found.wall > 0
