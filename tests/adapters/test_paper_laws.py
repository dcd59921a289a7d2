"""What a paper on compressing LoRAs after training claims of them, as laws: strength, and adding several."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lib_resize.adapters.write.style import Style
from lib_resize.engine.batch import resize
from lib_resize.engine.settings import Settings
from lib_resize.prompts.sources import expand
from lib_resize.recipe.grammar import parse_recipes
from tests.adapters.lorafiles import delta, kohya, relative, tensors_of, write

STEMS = ("lora_unet_a", "lora_unet_b")


def lora(path: Path, seed: int) -> Path:
    written: Path = write(path, kohya("lora_unet_a", seed=seed) | kohya("lora_unet_b", 40, 30, 8, seed=seed + 100))
    return written


def deltas(argument: str, recipe: str, out: Path) -> dict[str, np.ndarray]:
    settings = Settings(recipes=parse_recipes(recipe), output=out, style=Style("F32"), overwrite=True)
    (outcome,) = resize(expand([argument]), settings)
    assert outcome.error is None, outcome.error
    assert outcome.plan is not None
    found = tensors_of(Path(outcome.plan.output))
    return {stem: delta(found, stem) for stem in STEMS}


def tail(matrix: np.ndarray, rank: int) -> float:
    return float(np.linalg.norm(np.linalg.svd(matrix, compute_uv=False)[rank:]))


@pytest.mark.parametrize("strength", [0.25, 0.8, 1.7, -0.5])
@pytest.mark.parametrize("recipe", ["rank=1", "rank=3", "fro_lora=1,retain=0.9", "sv_fro=0.8"])
def test_the_scaled_compressed_delta_is_the_compressed_scaled_delta(tmp_path, strength, recipe) -> None:
    source = lora(tmp_path / "x.safetensors", 1)
    plain = deltas(str(source), recipe, tmp_path / "plain")
    scaled = deltas(f"{source}:{strength}", recipe, tmp_path / "scaled")
    for stem in STEMS:
        assert relative(scaled[stem], strength * plain[stem]) < 1e-5
    if strength > 0:
        rescaled = deltas(str(source), f"{recipe},rescale={strength}", tmp_path / "rescaled")
        for stem in STEMS:
            assert relative(rescaled[stem], strength * plain[stem]) < 1e-5


@pytest.mark.parametrize("rank", [1, 2, 4])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.7, -0.4), (1.2, 0.3, 0.5)])
def test_compressed_loras_add_up_to_the_compressed_sum_within_their_tails(tmp_path, rank, weights) -> None:
    """``||sum w_i [W_i]_k - [sum w_i W_i]_k|| <= sum |w_i| tail_k(W_i) + tail_k(sum w_i W_i)``."""
    sources = [lora(tmp_path / f"{i}.safetensors", i) for i in range(len(weights))]
    merged = ",".join(f"{path}:{weight}" for path, weight in zip(sources, weights, strict=True))
    together = deltas(merged, f"rank={rank}", tmp_path / "together")
    apart = [deltas(str(path), f"rank={rank}", tmp_path / "apart") for path in sources]
    whole = [{stem: delta(tensors_of(path), stem) for stem in STEMS} for path in sources]
    for stem in STEMS:
        total = sum(weight * one[stem] for weight, one in zip(weights, whole, strict=True))
        added = sum(weight * one[stem] for weight, one in zip(weights, apart, strict=True))
        tails = sum(abs(weight) * tail(one[stem], rank) for weight, one in zip(weights, whole, strict=True))
        distance = np.linalg.norm(added - together[stem])
        assert distance <= (tails + tail(total, rank)) * (1 + 1e-5)
        assert distance > 1e-3 * np.linalg.norm(total)  # they are not the same: the bound is not idle
        assert np.linalg.norm(added - total) <= tails * (1 + 1e-5)


def test_nothing_is_lost_in_adding_where_the_rank_holds_all(tmp_path) -> None:
    sources = [lora(tmp_path / f"{i}.safetensors", i) for i in range(2)]
    together = deltas(",".join(f"{path}:1.0" for path in sources), "rank=16", tmp_path / "together")
    for stem in STEMS:
        total = np.sum([delta(tensors_of(path), stem) for path in sources], axis=0)
        assert relative(together[stem], total) < 1e-5
