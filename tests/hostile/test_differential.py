"""Random LoRAs against the definition in float64, written here anew: nothing of the package but its command is used.

Long: ``RESIZE_LORA_FUZZ=20000 pytest -n 0 tests/hostile/test_differential.py`` tries so many files.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lib_resize import cli

COUNT = int(os.environ.get("RESIZE_LORA_FUZZ", "4"))
ROUNDING = 2e-3
"""More than float16 does to a delta, less than any mistake."""


def deltas(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """``alpha / rank * up @ down``, and the product of the scale with nothing where a file has no alpha."""
    found = {}
    for key in tensors:
        if not key.endswith(".lora_up.weight"):
            continue
        stem = key.removesuffix(".lora_up.weight")
        up, down = (tensors[f"{stem}.lora_{role}.weight"].astype(np.float64) for role in ("up", "down"))
        rank = len(down)
        alpha = float(tensors.get(f"{stem}.alpha", np.array(rank)))
        found[stem] = alpha / rank * up.reshape(len(up), -1) @ down.reshape(rank, -1)
    return found


def random_lora(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Some layers of all shapes, strengths over six orders, dimensions that are alike, weak or missing."""
    tensors: dict[str, np.ndarray] = {}
    kind = rng.choice([np.float16, np.float32])
    alpha = rng.choice([None, 0.5, 1.0, 4.0, 16.0, -3.0])
    for i in range(int(rng.integers(1, 7))):
        n, m, rank = (int(rng.integers(low, high)) for low, high in ((4, 60), (4, 60), (1, 17)))
        taps = (3, 3) if rng.random() < 0.3 else ()
        up = rng.standard_normal((n, rank)) * np.logspace(0, -rng.uniform(0, 2), rank)
        down = rng.standard_normal((rank, m, *taps)) * 10 ** rng.uniform(-2, 0)
        if rank > 1 and rng.random() < 0.2:
            up[:, -1] = up[:, 0]
        stem = f"lora_unet_layer_{i}"
        tensors[f"{stem}.lora_up.weight"] = up.reshape(n, rank, *((1, 1) if taps else ())).astype(kind)
        tensors[f"{stem}.lora_down.weight"] = down.astype(kind)
        if alpha is not None:
            tensors[f"{stem}.alpha"] = np.array(alpha, kind)
    return tensors


def run(folder: Path, tensors: dict[str, np.ndarray], recipe: str) -> tuple[Path, dict[str, object]]:
    source, out, report = folder / "a.safetensors", folder / "out", folder / "report.json"
    save_file(tensors, source)
    names = [str(source), "-r", recipe, "-o", str(out), "--report", str(report), "--overwrite", "--threads", "1"]
    assert cli.main(["resize", *names]) == 0
    (entry,) = json.loads(report.read_text("utf-8"))
    return Path(entry["output"]), entry


@pytest.mark.parametrize("seed", range(COUNT))
def test_every_layer_is_the_best_of_its_rank(seed, tmp_path, capsys):
    rng = np.random.default_rng(seed)
    tensors = random_lora(rng)
    recipe = rng.choice(["rank=3", "fro_lora=1,retain=0.9", "spn_lora=1,thr=-0.7", "fro_lora=1,keep=0.5", "rank=40"])
    path, entry = run(tmp_path, tensors, str(recipe).replace("fro_lora=1,keep=0.5", "fro_lora=1,retain=0.6"))
    old, new_tensors = deltas(tensors), load_file(path)
    new = deltas(new_tensors)
    whole = math.sqrt(sum(float(np.sum(one**2)) for one in old.values()))
    lost = 0.0
    for stem, delta in old.items():
        found = new.get(stem, np.zeros_like(delta))
        rank = len(new_tensors[f"{stem}.lora_down.weight"]) if stem in new else 0
        s = np.linalg.svd(delta, compute_uv=False)
        best = math.sqrt(float(np.sum(s[rank:] ** 2)))
        off = float(np.linalg.norm(found - delta))
        allowed = ROUNDING * float(np.linalg.norm(delta)) + 1e-4 * whole
        assert best - allowed <= off <= best + allowed, (stem, rank, off, best)
        lost += off**2
    retention = math.sqrt(max(0.0, 1.0 - lost / whole**2))
    assert entry["retention"] == pytest.approx(retention, abs=2 * ROUNDING)
    capsys.readouterr()


@pytest.mark.parametrize("seed", range(COUNT))
def test_a_size_is_reached_from_below_within_one_dimension(seed, tmp_path, capsys):
    rng = np.random.default_rng(10_000 + seed)
    tensors = random_lora(rng)
    full, _ = run(tmp_path, tensors, "rank=40")
    empty = 3000  # the record and the header, about
    target = int(rng.uniform(empty, max(empty + 1, full.stat().st_size)))
    source, report = tmp_path / "a.safetensors", tmp_path / "report.json"
    code = cli.main(
        f"resize {source} -r fro_lora=1,size={target / 2**20:.9f} -o {tmp_path / 'sized'} --report {report} "
        "--overwrite --threads 1".split()
    )
    capsys.readouterr()
    (entry,) = json.loads(report.read_text("utf-8"))
    if code:
        assert "size" in entry["error"]
        return
    size = Path(entry["output"]).stat().st_size
    largest = max(2 * sum(shape) for shape in _per_rank(tensors))
    assert size == entry["bytes_after"]
    assert size <= target + 1
    if size < full.stat().st_size:
        assert target - size < largest + 700, "one more dimension, with its share of the header, would have fitted"


def _per_rank(tensors: dict[str, np.ndarray]) -> list[tuple[int, int]]:
    return [
        (len(values), tensors[key.replace("lora_up", "lora_down")][0].size)
        for key, values in tensors.items()
        if key.endswith("lora_up.weight")
    ]
