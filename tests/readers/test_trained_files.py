"""Really trained LoRAs, where a folder of them is at hand: resized they act as their best approximations do."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from lib_resize import Outcome
from lib_resize.studies.inspection import Finding, describe
from tests.readers.lora_material import How, Thin, load, metadata_of, output, resized

FOLDER = Path(os.environ.get("RESIZE_LORA_TRAINED") or Path(__file__).parents[2].parent / "shared" / "data")

pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason=f"no folder of trained LoRAs: {FOLDER} (RESIZE_LORA_TRAINED names another)"
)

SD15 = {"sd15_analog_rank4": 4, "sd15_disney_rank1": 1}
TOYS = {"toy_unet_thick_rank32": 32, "toy_unet_outline_rank64": 64}
PTI = ("cloneofsimo_analog_svd_rank4", "cloneofsimo_lora_disney")
PRESETS = ("high", "medium", "low")
HALF = 1e-3


def trained(name: str) -> Path:
    path = FOLDER / f"{name}.safetensors"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path


def deltas(path: Path) -> dict[str, Thin]:
    """Name -> ``alpha / rank * up @ down``."""
    tensors, found = load(path), {}
    for key in tensors:
        name, _, part = key.partition(".lora_up.")
        if part == "weight":
            up, down = tensors[key], tensors[f"{name}.lora_down.weight"]
            scale = float(tensors[f"{name}.alpha"].item()) / len(down) if f"{name}.alpha" in tensors else 1.0
            found[name] = Thin(scale * up.reshape(len(up), -1), down.reshape(len(down), -1))
    return found


@cache
def true_deltas(source: Path) -> dict[str, Thin]:
    return deltas(source)


def norm(matrices: dict[str, Thin]) -> float:
    return float(np.linalg.norm([matrix.norm for matrix in matrices.values()]))


def check(source: Path, outcome: Outcome, tolerance: float = HALF) -> None:
    """Every layer is the best approximation of its rank, and the reported weight retention is that of the file."""
    assert outcome.plan is not None
    true, found = true_deltas(source), deltas(output(outcome))
    ranks = {line.name: line.new_rank for line in outcome.plan.layers}
    assert ranks.keys() == true.keys()
    assert found.keys() == {name for name, rank in ranks.items() if rank}
    for name, delta in found.items():
        assert delta.difference(true[name].truncation(ranks[name])) < tolerance, name
    assert outcome.plan.retention == pytest.approx(norm(found) / norm(true), rel=2 * tolerance)


def test_the_folder_holds_the_files_that_are_tested() -> None:
    """Else all tests here might be skipped without a word."""
    assert {f"{name}.safetensors" for name in (*SD15, *TOYS, *PTI)} <= {path.name for path in FOLDER.iterdir()}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", [*SD15, *TOYS])
def test_presets_keep_what_they_promise(name: str, preset: str, tmp_path: Path) -> None:
    source = trained(name)
    outcome = resized(source, preset, tmp_path)
    check(source, outcome)
    assert outcome.plan is not None
    assert outcome.plan.retention >= {"high": 0.95, "medium": 0.92, "low": 0.88}[preset]


@pytest.mark.parametrize("rank", [1, 3, 9999])
@pytest.mark.parametrize("name", [*SD15, *TOYS])
def test_uniform_rank(name: str, rank: int, tmp_path: Path) -> None:
    source = trained(name)
    outcome = resized(source, f"rank={rank}", tmp_path)
    check(source, outcome)
    assert outcome.plan is not None
    most = min(rank, (SD15 | TOYS)[name])
    assert {line.new_rank for line in outcome.plan.layers} <= {0, *range(1, most + 1)}
    assert max(line.new_rank for line in outcome.plan.layers) == most


@pytest.mark.parametrize("name", [*SD15, *TOYS])
def test_less_retention_is_a_smaller_file(name: str, tmp_path: Path) -> None:
    plans = [resized(trained(name), preset, tmp_path, How(dry_run=True)).plan for preset in PRESETS]
    sizes = [plan.bytes_after for plan in plans if plan is not None]
    assert sizes == sorted(sizes, reverse=True)
    if name in TOYS:
        assert sizes[0] > sizes[1] > sizes[2]
        assert sizes[0] < 0.7 * trained(name).stat().st_size


@pytest.mark.parametrize("name", TOYS)
@pytest.mark.parametrize("size", [0.4, 1.0])
def test_size_is_met(name: str, size: float, tmp_path: Path) -> None:
    source = trained(name)
    outcome = resized(source, f"fro_lora=1,size={size}", tmp_path)
    check(source, outcome)
    assert output(outcome).stat().st_size <= size * (1 << 20)
    assert output(outcome).stat().st_size > size * (1 << 20) - 4096


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [
        ("sd15_analog_rank4", "32", 1e-5),
        ("sd15_analog_rank4", "8", 0.1),
        ("toy_unet_thick_rank32", "bf16", 1e-2),
        ("toy_unet_thick_rank32", "8", 0.1),
        ("toy_unet_outline_rank64", "same", HALF),
    ],
)
def test_every_dtype(name: str, dtype: str, tolerance: float, tmp_path: Path) -> None:
    source = trained(name)
    check(source, resized(source, "medium", tmp_path, How(dtype)), tolerance)


@pytest.mark.parametrize("name", PTI)
def test_layers_without_names_are_written_under_kohyas(name: str, tmp_path: Path) -> None:
    outcome = resized(trained(name), "medium", tmp_path)
    assert outcome.plan is not None
    assert any("cloneofsimo" in note for note in outcome.plan.notes)
    factors = [key for key in load(output(outcome)) if not key.startswith("<")]
    assert factors
    assert all(key.startswith(("lora_unet_", "lora_te_")) for key in factors)


def test_families(tmp_path: Path) -> None:
    found: dict[str, Finding] = {name: describe(trained(name), threads=2) for name in (*SD15, *TOYS)}
    assert {name: finding.family for name, finding in found.items()} == {
        **dict.fromkeys(SD15, "SD1.5"),
        **dict.fromkeys(TOYS, "unknown"),
    }
    for name in SD15:
        metadata = metadata_of(output(resized(trained(name), "high", tmp_path)))
        assert metadata["ss_base_model_version"] == "sd_v1"
    for name in TOYS:
        before = metadata_of(trained(name)).get("ss_base_model_version")
        assert metadata_of(output(resized(trained(name), "high", tmp_path))).get("ss_base_model_version") == before
    for name, finding in found.items():
        assert max(finding.ranks) == (SD15 | TOYS)[name]


@pytest.mark.parametrize("name", TOYS)
def test_the_size_that_inspect_predicts_is_that_of_the_file(name: str, tmp_path: Path) -> None:
    predicted = describe(trained(name), threads=2).predicted
    for share, size in predicted.items():
        path = output(resized(trained(name), f"fro_lora=1,min_rank=1,retain={share}", tmp_path))
        assert size is not None
        assert abs(path.stat().st_size - size) <= 64  # the predicted file has another name


def test_sources_are_left_as_they_are(tmp_path: Path) -> None:
    source = trained("sd15_analog_rank4")
    before = source.stat().st_mtime_ns, source.read_bytes()
    resized(source, "low", tmp_path)
    assert (source.stat().st_mtime_ns, source.read_bytes()) == before
