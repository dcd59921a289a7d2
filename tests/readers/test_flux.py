"""Flux LoRAs in diffusers' own spelling: written by diffusers, resized, and read by diffusers again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lib_resize.cli import main as cli
from lib_resize.files.header import read_header

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore")  # those of third parties are not our business

TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "ff.net.0.proj", "proj_out", "proj_mlp"]


def tiny() -> Any:
    """A Flux transformer of two blocks."""
    torch.manual_seed(0)
    return diffusers.FluxTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=[4, 4, 8],
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A LoRA of rank 8 as diffusers saves it."""
    model = tiny()
    model.add_adapter(peft.LoraConfig(r=8, lora_alpha=8, target_modules=TARGETS))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    folder = tmp_path_factory.mktemp("flux")
    layers = peft.get_peft_model_state_dict(model)
    diffusers.FluxPipeline.save_lora_weights(folder, transformer_lora_layers=layers)
    path: Path = folder / "pytorch_lora_weights.safetensors"
    return path


def deltas(path: Path) -> dict[str, np.ndarray]:
    """Of every layer, as diffusers applies it."""
    state = diffusers.FluxPipeline.lora_state_dict(path)
    model = tiny()
    model.load_lora_adapter(state, prefix="transformer")
    found = {
        name: (module.get_delta_weight("default_0")).detach().double().numpy()
        for name, module in model.named_modules()
        if isinstance(module, peft.tuners.lora.LoraLayer)
    }
    assert found
    return found


def best(matrix: np.ndarray, rank: int) -> np.ndarray:
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    found: np.ndarray = (u[:, :rank] * s[:rank]) @ vt[:rank]
    return found


def test_a_reduced_file_is_the_best_of_its_rank_to_diffusers(trained, tmp_path) -> None:
    assert cli.main(["resize", str(trained), "-r", "rank=3", "-t", "32", "-o", str(tmp_path)]) == 0
    (made,) = tmp_path.iterdir()
    before, after = deltas(trained), deltas(made)
    assert after.keys() == before.keys()
    for name, delta in before.items():
        np.testing.assert_allclose(after[name], best(delta, 3), atol=1e-5 * np.linalg.norm(delta))


def test_names_stay_as_they_were_and_no_alpha_is_added(trained, tmp_path) -> None:
    assert cli.main(["resize", str(trained), "-r", "rank=3,rsvd,pad", "-o", str(tmp_path)]) == 0
    (made,) = tmp_path.iterdir()
    assert read_header(made).entries.keys() == read_header(trained).entries.keys()
    assert all(key.startswith("transformer.") for key in read_header(made).entries)


def test_an_upsampled_file_does_the_same_at_twice_the_rank(trained, tmp_path) -> None:
    assert cli.main(["upsample", str(trained), "--rank", "16", "-o", str(tmp_path)]) == 0
    (made,) = tmp_path.iterdir()
    before, after = deltas(trained), deltas(made)
    for name, delta in before.items():
        np.testing.assert_allclose(after[name], delta, atol=1e-5 * np.linalg.norm(delta))
    shapes = {entry.shape for key, entry in read_header(made).entries.items() if "lora_A" in key}
    assert {shape[0] for shape in shapes} == {16}
