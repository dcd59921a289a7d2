"""GLoRA in the panel: its delta rests on the reference, in every step from the list to the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lib_resize.recipe.grammar import ALL_RANKS
from tests.panel.panelhost import Browser

N, M, R, LAYERS = 48, 40, 6, 3


def random(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def parts(seed: int) -> dict[str, np.ndarray]:
    shapes = {"a1": (M, R), "a2": (R, M), "b1": (N, R), "b2": (R, M)}
    return {f"{role}.weight": random(*shape, seed=seed + i) for i, (role, shape) in enumerate(shapes.items())}


@pytest.fixture
def bases(root: Path, tmp_path: Path, host) -> list[Path]:
    """Two checkpoints in the host's list, and two GLoRAs, one of them with a LoHa layer, in its folder."""
    layers = {f"lora_unet_{i}.{role}": value for i in range(LAYERS) for role, value in parts(10 * i).items()}
    save_file(layers, str(root / "gl.safetensors"))
    loha = {
        f"hada_w{side}_{end}": random(*((N, 2) if end == "a" else (2, M)), seed=90) for side in "12" for end in "ab"
    }
    both = layers | {f"lora_unet_loha.{role}": value for role, value in loha.items()}
    save_file(both, str(root / "both.safetensors"))
    paths = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    host.checkpoint_files = paths
    for seed, path in enumerate(paths):
        names = [*map(str, range(LAYERS)), "loha"]
        weights = {f"diffusion_model.{name}.weight": random(N, M, seed=100 * seed + i) for i, name in enumerate(names)}
        save_file(weights, str(path))
    return paths


def deltas(path: Path, base: Path) -> list[np.ndarray]:
    """As ComfyUI applies them: ``alpha / rank * (b1 b2 + W a1 a2)``."""
    found, weights = load_file(str(path)), load_file(str(base))
    made = []
    for i in range(LAYERS):
        a1, a2, b1, b2 = (found[f"lora_unet_{i}.{role}.weight"].astype(np.float64) for role in ("a1", "a2", "b1", "b2"))
        scale = float(found.get(f"lora_unet_{i}.alpha", np.float32(len(b2)))) / len(b2)
        made.append(scale * (b1 @ b2 + weights[f"diffusion_model.{i}.weight"].astype(np.float64) @ a1 @ a2))
    return made


def written(root: Path, result) -> Path:
    return next(path for path in root.rglob("*.safetensors") if path.stem == result["output"])


@pytest.mark.parametrize("reference", ["one.safetensors", "two.safetensors"])
def test_what_is_written_is_what_was_shown_and_what_the_reference_makes_of_it(
    browser: Browser, bases, root: Path, reference: str
) -> None:
    options = {"reference": reference, "dtype": "32"}
    shown = browser.analysed("gl", reference=reference)["files"][0]
    assert shown["layers"] == LAYERS
    assert shown["reference"]["title"] == reference
    plan = browser.ask("plan", name="gl", target={"rank": 3}, options=options)
    result = browser.resized("gl", target={"rank": 3}, options=options)
    assert (result["bytes_after"], result["retention"]) == (plan["bytes_after"], pytest.approx(plan["retention"]))
    base = next(path for path in bases if path.name == reference)
    before, after = (deltas(path, base) for path in (root / "gl.safetensors", written(root, result)))
    lost = np.hypot.reduce([np.linalg.norm(new - old) for new, old in zip(after, before, strict=True)])
    share = lost / np.hypot.reduce([np.linalg.norm(old) for old in before])
    assert np.sqrt(1 - share**2) == pytest.approx(plan["retention"], abs=1e-5)


def test_another_reference_is_another_analysis(browser: Browser, bases) -> None:
    browser.analysed("gl", reference="one.safetensors")
    options = {"reference": "two.safetensors"}
    error = browser.error("plan", name="gl", target={"rank": 3}, options=options)
    assert (error["kind"], "two.safetensors" in error["message"]) == ("not_analysed", True)
    browser.analysed("gl", reference="two.safetensors")
    assert browser.ask("plan", name="gl", target={"rank": 3}, options=options)["retention"] > 0


def test_without_a_reference_it_is_refused_with_a_remedy(browser: Browser, bases) -> None:
    job = browser.wait(browser.ask("analyse", names=["gl"], reference="none")["job"])
    assert job["state"] == "failed"
    assert job["error"]["kind"] == "reference"
    assert "GLoRA" in job["error"]["message"]
    assert "Choose it as the reference" in job["error"]["message"]
    browser.analysed("gl", reference="one.safetensors")
    error = browser.error("plan", name="gl", target={"rank": 3}, options={"reference": "none"})
    assert (error["kind"], "Choose it" in error["message"]) == ("reference", True)


def test_recipes_that_ask_of_the_base_and_conversions_go_together_with_it(browser: Browser, bases, root: Path) -> None:
    """Scores are measured on the analysis that uses the reference; the LoHa layer is resized to LoRA."""
    options = {"reference": "one.safetensors", "convert": "lora"}
    recipe = "subspace=0.5,spn_ckpt=0.5,size=0.02"
    browser.analysed("both", reference="one.safetensors")
    browser.analysed("both", reference="one.safetensors", recipe=recipe, convert="lora")
    plan = browser.ask("plan", name="both", recipe=recipe, options=options)
    result = browser.resized("both", recipe=recipe, options=options)
    assert result["bytes_after"] == plan["bytes_after"] <= 0.02 * (1 << 20)
    assert any(key.endswith("lora_up.weight") for key in load_file(str(written(root, result))))


def test_a_prompt_with_glora_is_baked_with_the_reference(browser: Browser, bases, root: Path) -> None:
    factors = {"lora_up.weight": random(N, 2, seed=50), "lora_down.weight": random(2, M, seed=51)}
    plain = {f"lora_unet_{i}.{role}": value for i in range(LAYERS) for role, value in factors.items()}
    save_file(plain, str(root / "plain.safetensors"))
    prompt = "<lora:gl:0.5> <lora:plain:-2>"
    job = browser.wait(browser.ask("bake", prompt=prompt, name="mix", options={"reference": "none"})["job"])
    assert "GLoRA" in job["error"]["message"]
    options = {"reference": "one.safetensors", "dtype": "32"}
    result = browser.done(browser.ask("bake", prompt=prompt, name="mix", recipe=ALL_RANKS, options=options)["job"])
    found = load_file(str(written(root, result)))
    for i, old in enumerate(deltas(root / "gl.safetensors", bases[0])):
        wanted = 0.5 * old - 2 * factors["lora_up.weight"].astype(np.float64) @ factors["lora_down.weight"]
        up, down = found[f"lora_unet_{i}.lora_up.weight"], found[f"lora_unet_{i}.lora_down.weight"]
        scale = float(found[f"lora_unet_{i}.alpha"]) / len(down)
        assert np.linalg.norm(scale * up.astype(np.float64) @ down - wanted) < 1e-5 * np.linalg.norm(wanted)
