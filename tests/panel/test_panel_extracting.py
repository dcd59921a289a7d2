"""Extract a LoRA, of two checkpoints of the host's list."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.panel.panelhost import Browser

LAYER = "middle_block.1.proj_in"


@pytest.fixture
def pair(checkpoint: Path, host, tmp_path: Path) -> np.ndarray:
    """A base and a tuned model in the list, which differ in one layer by rank 1; the difference, (n, m)."""
    tensors, key = load_file(checkpoint), f"model.diffusion_model.{LAYER}.weight"
    tensors = {name: values.astype(np.float32) for name, values in tensors.items()}
    n, m = tensors[key].shape
    change = np.outer(np.linspace(-1, 1, n), np.linspace(0.5, 1, m)).astype(np.float32) * 0.05
    save_file(tensors, tmp_path / "base.safetensors")
    save_file({**tensors, key: tensors[key] + change}, tmp_path / "tuned.safetensors")
    host.checkpoint_files = [tmp_path / "base.safetensors", tmp_path / "tuned.safetensors"]
    return change


@pytest.mark.parametrize("target", [{"rank": 2}, {"preset": "high"}, {"size": 0.1}])
def test_two_checkpoints_become_a_lora_that_can_be_undone(
    browser: Browser, root: Path, pair: np.ndarray, target: dict[str, object]
) -> None:
    order = {"tuned": "tuned.safetensors", "base": "base.safetensors", "target": target}
    result = browser.done(browser.ask("extract", **order)["job"])
    assert (result["extracted"], result["output"]) == (True, "tuned-base")
    assert any("100.0 % of the difference" in note for note in result["notes"])
    made = load_file(root / "tuned-base.safetensors")
    up, down = (made[f"lora_unet_{LAYER.replace('.', '_')}.lora_{word}.weight"] for word in ("up", "down"))
    delta = float(made[f"lora_unet_{LAYER.replace('.', '_')}.alpha"]) / len(down) * up.astype(float) @ down
    assert np.linalg.norm(delta - pair) < 5e-3 * np.linalg.norm(pair)
    assert browser.ask("undo", result=result["result"])["result"]["state"] == "trashed"
    assert not (root / "tuned-base.safetensors").exists()


def test_a_model_and_itself_have_no_difference(browser: Browser, root: Path, pair: np.ndarray) -> None:
    before = sorted(root.iterdir())
    order = {"tuned": "base.safetensors", "base": "base.safetensors", "target": {"rank": 4}}
    job = browser.wait(browser.ask("extract", **order)["job"])
    assert job["state"] == "failed"
    assert "no layer differs" in job["error"]["message"]
    assert sorted(root.iterdir()) == before
