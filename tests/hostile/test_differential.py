"""Random LoRAs against the definition in float64 (see `definition`): nothing of the package but its command is used.

Long: ``RESIZE_LORA_FUZZ=20000 pytest -n 0 tests/hostile/test_differential.py`` tries so many seeds of each kind;
``RESIZE_LORA_FUZZ_FROM=4000`` begins at that seed.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lib_resize.cli import main as cli
from tests.hostile.definition import ROUNDOFF, Tensors, deltas, load, save

COUNT = int(os.environ.get("RESIZE_LORA_FUZZ", "4"))
FIRST = int(os.environ.get("RESIZE_LORA_FUZZ_FROM", "0"))
SEEDS = range(FIRST, FIRST + COUNT)
DTYPES = {"16": "F16", "32": "F32", "bf16": "BF16", "8": "F8_E4M3"}
KINDS = ("lora", "locon", "tucker", "loha", "lokr", "lokr pair")
ALPHAS = (None, 0.5, 1.0, 4.0, 16.0, -3.0, 0.015625, 448.0)
RECIPES = ("rank=3", "fro_lora=1,retain=0.9", "spn_lora=1,thr=-0.7", "fro_lora=1,retain=0.6", "rank=40", "sv_fro=0.8")


def rounding(dtype: str) -> float:
    """What the two rounded factors of a delta may be off, and what a decomposition in float32 is."""
    return 4 * float(ROUNDOFF[dtype]) + 1e-4


Shape = tuple[str, int, int]
"""Kind, rows and columns of a layer; of a convolution, of one of its taps."""


def random_shapes(rng: np.random.Generator, kinds: tuple[str, ...]) -> list[Shape]:
    return [
        (str(rng.choice(kinds)), int(rng.integers(4, 60)), int(rng.integers(4, 60)))
        for _ in range(int(rng.integers(1, 7)))
    ]


def random_lora(rng: np.random.Generator, shapes: list[Shape], dtype: str) -> tuple[Tensors, dict[str, str]]:
    """Strengths over orders of magnitude, dimensions that are alike, weak or missing, alphas of all sizes."""
    tensors: Tensors = {}
    alpha = rng.choice(np.array(ALPHAS, object))
    for i, (kind, n, m) in enumerate(shapes):
        for suffix, values in random_layer(rng, kind, n, m).items():
            tensors[f"lora_unet_layer_{i}.{suffix}"] = values
        if alpha is not None:
            tensors[f"lora_unet_layer_{i}.alpha"] = np.array(float(alpha))
    return tensors, {key: "F32" if key.endswith(".alpha") else dtype for key in tensors}


def random_layer(rng: np.random.Generator, kind: str, n: int, m: int) -> Tensors:
    rank = min(n, int(rng.integers(1, 17 if kind in ("lora", "locon") else 5)))
    up = rng.standard_normal((n, rank)) * np.logspace(0, -rng.uniform(0, 2), rank)
    down = rng.standard_normal((rank, m)) * 10 ** rng.uniform(-2, 0)
    if rank > 1 and rng.random() < 0.2:
        up[:, -1] = up[:, 0]
    if kind == "lora":
        return {"lora_up.weight": up, "lora_down.weight": down}
    if kind == "locon":
        taps = np.repeat(down, 9, 1) * rng.standard_normal((rank, 9 * m))
        return {"lora_up.weight": up[:, :, None, None], "lora_down.weight": taps.reshape(rank, m, 3, 3)}
    if kind == "tucker":
        mid = rng.standard_normal((rank, rank, 3, 3))
        return {
            "lora_up.weight": up[:, :, None, None],
            "lora_mid.weight": mid,
            "lora_down.weight": down[:, :, None, None],
        }
    if kind == "loha":
        other = rng.standard_normal((n, rank)), rng.standard_normal((rank, m))
        return {"hada_w1_a": up, "hada_w1_b": down, "hada_w2_a": other[0], "hada_w2_b": other[1]}
    small = rng.standard_normal((int(rng.integers(2, 5)), int(rng.integers(2, 5))))
    if kind == "lokr":
        return {"lokr_w1": small, "lokr_w2": up @ down}
    return {"lokr_w1": small, "lokr_w2_a": up, "lokr_w2_b": down}


def stored(path: Path, tensors: Tensors, dtypes: dict[str, str]) -> Tensors:
    """Write the file; the numbers that are in it then."""
    save(path, tensors, dtypes)
    return load(path)[0]


def command(folder: Path, *words: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the report's entry of the one result."""
    report = folder / "report.json"
    code = cli.main([*words, "--report", str(report), "--report-layers", "--overwrite", "--threads", "1"])
    entry, *_ = json.loads(report.read_text("utf-8"))
    return code, entry


def refused_as_too_far_apart(code: int, entry: dict[str, Any], dtype: str) -> bool:
    """Whether fp8, and only fp8, was refused since rounding would do too much to a layer."""
    return code == 1 and dtype == "F8_E4M3" and "fp8 would change" in entry["error"]


def check(entry: dict[str, Any], old: Tensors, sizes: dict[str, float], dtype: str) -> None:
    """Every layer is the best of its rank, and the figures of the report are those of the file.

    ``sizes``: Frobenius norm by layer that rounding is relative to, where it is more than that of the delta.
    """
    tensors, dtypes = load(Path(entry["output"]))
    assert {dtypes[key] for key in tensors if not key.endswith(".alpha")} <= {dtype}
    assert entry["bytes_after"] == Path(entry["output"]).stat().st_size
    new = deltas(tensors)
    assert new.keys() <= old.keys()
    said = {layer["name"]: layer["error_lora"] for layer in entry["layers"]}
    whole = math.sqrt(sum(float(np.sum(one**2)) for one in old.values()))
    lost = 0.0
    for stem, one in old.items():
        found = new.get(stem, np.zeros_like(one))
        length, off = float(np.linalg.norm(one)), float(np.linalg.norm(found - one))
        allowed = rounding(dtype) * max(length, sizes.get(stem, 0.0)) + 1e-4 * whole
        if f"{stem}.lora_up.weight" in tensors or stem not in new:
            rank = len(tensors[f"{stem}.lora_down.weight"]) if stem in new else 0
            best = math.sqrt(float(np.sum(np.linalg.svd(one, compute_uv=False)[rank:] ** 2)))
            if f"{stem}.lora_mid.weight" not in tensors:
                assert off <= best + allowed, (stem, rank, off, best)
            assert best - allowed <= off, (stem, rank, off, best)
        assert abs(said[stem] * length - off) <= allowed, (stem, said[stem], off / length)
        lost += off**2
    retention = math.sqrt(max(0.0, 1.0 - lost / whole**2))
    assert entry["retention"] == pytest.approx(retention, abs=2 * rounding(dtype))


@pytest.mark.parametrize("seed", SEEDS)
def test_every_layer_is_the_best_of_its_rank(seed, tmp_path, capsys):
    rng = np.random.default_rng(seed)
    source, option = str(rng.choice(list(DTYPES.values()))), str(rng.choice([*DTYPES, "same"]))
    kinds = KINDS[:2] if rng.random() < 0.6 else KINDS
    shapes = random_shapes(rng, kinds)
    old = stored(tmp_path / "a.safetensors", *random_lora(rng, shapes, source))
    convert = str(rng.choice(["auto", "lora", "none"]))
    words = ["-r", str(rng.choice(RECIPES)), "-t", option, "--convert", convert, "-o", str(tmp_path / "out")]
    code, entry = command(tmp_path, "resize", str(tmp_path / "a.safetensors"), *words)
    capsys.readouterr()
    written = DTYPES.get(option, source)
    if refused_as_too_far_apart(code, entry, written):
        return
    if code and written == "F8_E4M3" and {kind for kind, *_ in shapes} - {"lora", "locon"}:
        assert "--convert lora" in entry["error"]
        return
    assert code == 0, entry
    check(entry, deltas(old), {}, written)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_merge_is_the_sum_at_its_strengths(seed, tmp_path, capsys):
    rng = np.random.default_rng(20_000_000 + seed)
    option = str(rng.choice(list(DTYPES)))
    shapes = random_shapes(rng, KINDS[:2])
    names: list[str] = []
    total: dict[str, np.ndarray] = {}
    sizes: dict[str, float] = {}
    for name in "abc"[: int(rng.integers(2, 4))]:
        dtype = str(rng.choice(list(DTYPES.values())))
        shared = shapes[: int(rng.integers(1, len(shapes) + 1))]
        found = stored(tmp_path / f"{name}.safetensors", *random_lora(rng, shared, dtype))
        strength = round(float(rng.choice([-1, 1]) * 10 ** rng.uniform(-1, 0.5)), 3)
        names.append(f"{tmp_path / name}.safetensors:{strength}")
        for stem, one in deltas(found).items():
            total[stem] = total.get(stem, 0.0) + strength * one
            sizes[stem] = sizes.get(stem, 0.0) + abs(strength) * float(np.linalg.norm(one))
    words = ["-r", str(rng.choice(RECIPES)), "-t", option, "-o", str(tmp_path / "out")]
    code, entry = command(tmp_path, "resize", ",".join(names), *words)
    if not refused_as_too_far_apart(code, entry, DTYPES[option]):
        assert code == 0, entry
        check(entry, total, sizes, DTYPES[option])
    made = tmp_path / "sum.safetensors"
    code, entry = command(tmp_path, "merge", *names, "-o", str(made), "-t", option)
    if refused_as_too_far_apart(code, entry, DTYPES[option]):
        return
    assert code == 0, entry
    result = deltas(load(made)[0])
    whole = math.sqrt(sum(float(np.sum(one**2)) for one in total.values()))
    for stem, one in total.items():
        off = float(np.linalg.norm(result[stem] - one))
        assert off <= rounding(DTYPES[option]) * max(sizes[stem], float(np.linalg.norm(one))) + 1e-4 * whole, stem
    capsys.readouterr()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_size_is_reached_from_below_within_one_dimension(seed, tmp_path, capsys):
    rng = np.random.default_rng(10_000_000 + seed)
    option = str(rng.choice(list(DTYPES)))
    source = tmp_path / "a.safetensors"
    tensors = stored(source, *random_lora(rng, random_shapes(rng, KINDS[:2]), "F32"))
    words = ["-t", option, "-o", str(tmp_path / "out")]
    code, entry = command(tmp_path, "resize", str(source), "-r", "rank=40", *words)
    assert code == 0, entry
    full = int(entry["bytes_after"])
    empty = 3000  # the record and the header, about
    target = int(rng.uniform(empty, max(empty + 1, full)))
    code, entry = command(tmp_path, "resize", str(source), "-r", f"fro_lora=1,size={target / 2**20:.9f}", *words)
    capsys.readouterr()
    if code:
        assert "size" in entry["error"]
        return
    size = Path(entry["output"]).stat().st_size
    largest = _bytes_of(option) * max(_per_rank(tensors))
    assert size == entry["bytes_after"]
    assert size <= target + 1
    if size < full:
        assert target - size < largest + 700, "one more dimension, with its share of the header, would have fitted"


def _bytes_of(option: str) -> int:
    return {"8": 1, "16": 2, "bf16": 2, "32": 4}[option]


def _per_rank(tensors: Tensors) -> list[int]:
    """Numbers that one dimension of each layer costs."""
    return [
        len(values) + tensors[key.replace("lora_up", "lora_down")][0].size
        for key, values in tensors.items()
        if key.endswith("lora_up.weight")
    ]
