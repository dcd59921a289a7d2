"""The benchmark's table says what was measured, and its material is made once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import accuracy, bench, run, speed
from benchmarks.harness import MIB, Part, Sample
from lib_resize.demo.models import SMALL
from lib_resize.demo.synthetic import LoraOptions, write_lora
from lib_resize.files.header import read_header
from tests.material import low_rank_factors

OPTIONS = bench.Options(goals=["G1"], pairs=3, slow_pairs=1, samples=4, per_shape=1, cores=2)


@pytest.mark.parametrize(
    ("value", "at_least", "met"),
    [(4.0, True, True), (3.99, True, False), (4.0, False, True), (4.01, False, False)],
)
def test_a_goal_is_met_on_its_side_only(value: float, at_least: bool, met: bool) -> None:
    assert bench.Row("G1", "ratio", value, 4.0, at_least).met is met


def test_table_shows_value_goal_and_verdict() -> None:
    table = run.goal_table([bench.Row("G1", "wall", 3.456, 4), bench.Row("G7", "peak", 281, 300, False, " MiB")])
    assert "| G1 | wall | 3.46x | ≥ 4x | **missed** |" in table
    assert "| G7 | peak | 281 MiB | ≤ 300 MiB | met |" in table


def test_limit_table_shares_all_but_the_start() -> None:
    limit = bench.Limit([Part("reading", 0.4), Part("algebra", 0.6)], cores=2, start_up=0.2, source_hash=0.1)
    assert limit.seconds == pytest.approx(0.7)
    assert "| **wall on 2 cores** | **0.700** |" in run.limit_table("r32", limit)


def test_report_names_what_could_not_be_measured(tmp_path: Path) -> None:
    runtime = bench.Runtime(bench.Material(tmp_path, tmp_path, tmp_path), tmp_path, OPTIONS)
    runtime.measured["r32 warm: ours"] = [Sample(1.0, 2.0, 3 << 20), Sample(3.0, 2.0, 3 << 20)]
    text = run.report(runtime, [], {"G4": "no torch"}, small=True)
    assert "| r32 warm: ours | 2.00 (1.00 .. 3.00) | 2.00 | 3 | 0.0 | 2 |" in text
    assert "G4 could not be measured" in text
    assert "no torch" in text
    assert "goals do not apply" in text


def test_material_is_made_where_it_is_missing_and_reused_where_not(tmp_path: Path) -> None:
    first = run.make_material(tmp_path / "my material", SMALL)
    times = [path.stat().st_mtime_ns for path in (first.base, first.r32, first.r128)]
    again = run.make_material(tmp_path / "my material", SMALL)
    assert [path.stat().st_mtime_ns for path in (again.base, again.r32, again.r128)] == times
    assert read_header(first.r128).metadata["ss_network_dim"] == "128"


def test_unknown_goals_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"G11.*G1, G2"):
        run.main(["--goals", "G1,G11", "--material", str(tmp_path)])


def test_every_goal_is_known() -> None:
    goals = [f"G{number}" for number in range(1, 11)] + [f"S{number}" for number in range(1, 11)]
    assert list(run.GOALS) == goals


def test_a_prototype_takes_turns_with_the_others_and_is_left_out_without_one(tmp_path: Path, monkeypatch) -> None:
    asked: list[list[str]] = []
    sample = Sample(1.0, 1.0, MIB)

    def interleaved(commands, pairs, warm_ups, patience):
        asked.append(list(commands))
        return {name: [replace(sample, cpu=2.0)] if name == "prototype" else [sample] for name in commands}

    monkeypatch.setattr(bench, "interleave", interleaved)
    material = bench.Material(tmp_path, tmp_path, tmp_path)
    with_one = bench.Runtime(material, tmp_path, replace(OPTIONS, prototype=tmp_path / "a.py"))
    assert [row.value for row in speed.s3(with_one)] == [0.5, 0.5]
    assert asked[0] == ["ours", "reference", "reference, one thread", "prototype"]
    assert list(speed.s3(bench.Runtime(material, tmp_path, OPTIONS))) == []


def test_headers_for_the_list_say_the_same_of_their_tensors(tmp_path: Path) -> None:
    source = write_lora(tmp_path / "a.safetensors", LoraOptions(rank=4))
    found = [read_header(path) for path in speed.many_headers(source, tmp_path / "many").iterdir()]
    assert len(found) == speed.HEADERS
    assert all(header.entries == found[0].entries for header in found)
    assert len({header.metadata["ss_output_name"] for header in found}) == speed.HEADERS


def test_a_cold_run_deletes_its_norms_and_a_warm_one_keeps_them(tmp_path: Path) -> None:
    runtime = bench.Runtime(bench.Material(tmp_path, tmp_path, tmp_path), tmp_path, OPTIONS)
    warm, cold = runtime.ours("a", [tmp_path]), runtime.ours("a", [tmp_path], cold=True)
    assert Path(cold.environment["RESIZE_LORA_CACHE"]) in cold.remove
    assert Path(warm.environment["RESIZE_LORA_CACHE"]) not in warm.remove
    assert cold.environment["RESIZE_LORA_CACHE"] != warm.environment["RESIZE_LORA_CACHE"]


# The judge of accuracy must itself be able to fail.


def lora_layer(s: list[float], seed: int) -> accuracy.Layer:
    up, down = low_rank_factors((40, 30), s, condition=3.0, seed=seed)
    return accuracy.Layer(up.astype(np.float16), down.astype(np.float16), 0.5)


def test_distance_is_that_of_the_full_matrices() -> None:
    layer, other = lora_layer([3.0, 2.0, 1.0], 1), lora_layer([1.0, 0.5], 2)
    left, right = 0.5 * other.up.astype(float), other.down.astype(float)
    full = 0.5 * layer.up.astype(float) @ layer.down.astype(float) - left @ right
    assert accuracy.distance(layer, left, right) == pytest.approx(np.linalg.norm(full), rel=1e-12)


def test_exact_svd_is_that_of_the_full_matrix() -> None:
    layer = lora_layer([3.0, 2.0, 1.0], 1)
    u, s, vt = accuracy.exact_svd(layer)
    full = 0.5 * layer.up.astype(float) @ layer.down.astype(float)
    assert np.allclose((u * s) @ vt, full, atol=1e-13)
    assert np.allclose(s, np.linalg.svd(full, compute_uv=False)[:3], atol=1e-13)


def test_an_unchanged_file_has_only_its_rounding_and_a_damaged_one_more(tmp_path: Path) -> None:
    source = write_lora(tmp_path / "a.safetensors", LoraOptions(rank=4))
    assert accuracy.delta_excess(source, source, 20) < 0.1
    other = write_lora(tmp_path / "b.safetensors", LoraOptions(rank=4, seed=1))
    assert accuracy.delta_excess(source, other, 20) > 100


def test_singular_values_of_a_made_up_lora_are_exact(tmp_path: Path) -> None:
    source = write_lora(tmp_path / "a.safetensors", LoraOptions(rank=8))
    assert accuracy.worst_sigma_error(source, 20) < 1e-9
