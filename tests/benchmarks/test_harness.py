"""The arithmetic of the benchmarks: ratios, counted work, the limit; and that a process is measured as it is."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path

import pytest

from benchmarks.harness import (
    Command,
    CommandFailedError,
    LayerWork,
    Limits,
    Sample,
    busy_neighbours,
    header_shapes,
    interleave,
    layers_of,
    limit_parts,
    limit_seconds,
    median,
    ranks_of,
    rate_at,
    ratio,
    run,
    wait_for_quiet,
)
from lib_resize.demo.models import FULL
from lib_resize.demo.synthetic import LoraOptions, lora_specs, write_lora

MIB = 1 << 20
posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows does not report one child's CPU time")
RATES = Limits(memory=10e9, syrk64=37e9, gemm32=72e9, sha256=1.8e9, core64={32: 10e9, 128: 20e9})


def python(code: str) -> Command:
    return Command([sys.executable, "-S", "-c", code])


# Samples


def test_median_is_taken_of_each_measure_by_itself() -> None:
    assert median([Sample(1, 9, 5), Sample(3, 7, 6), Sample(2, 8, 1)]) == Sample(2, 8, 5)


def test_ratio_is_reference_over_ours() -> None:
    found = ratio([Sample(6, 8, 30)], [Sample(2, 4, 10)])
    assert (found.wall, found.cpu, found.peak) == (3, 2, 3)


@posix
def test_sleep_costs_wall_time_and_no_cpu() -> None:
    sample = run(python("import time; time.sleep(0.3)"))
    assert sample.wall >= 0.3
    assert sample.cpu <= sample.wall - 0.25


@posix
def test_work_costs_cpu() -> None:
    idle = run(python("import time"))
    sample = run(python("import time\nstart = time.process_time()\nwhile time.process_time() < start + 0.25: pass"))
    assert 0.25 <= sample.cpu < 0.25 + 3 * idle.cpu


@posix
def test_peak_memory_is_that_of_the_child_and_not_of_this_process() -> None:
    held = bytearray(150 * MIB)
    small, large = run(python("pass")), run(python(f"bytearray({64 * MIB})"))
    assert small.peak < 50 * MIB < len(held)
    assert 60 * MIB < large.peak - small.peak < 80 * MIB


@posix
def test_a_command_that_fails_is_an_error_with_its_output() -> None:
    with pytest.raises(CommandFailedError, match=r"exit code 3[\s\S]*what went wrong"):
        run(python("print('what went wrong'); raise SystemExit(3)"))


@posix
def test_a_command_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(CommandFailedError, match="no-such-program"):
        run(Command(["no-such-program-at-all"]))


@posix
def test_interleaving_alternates_and_does_not_count_warm_ups(tmp_path: Path) -> None:
    log = tmp_path / "log of runs.txt"
    commands = {name: python(f"open({str(log)!r}, 'a').write({name!r})") for name in "AB"}
    samples = interleave(commands, pairs=2, warm_ups=1)
    assert log.read_text() == "ABABAB"
    assert [len(samples[name]) for name in "AB"] == [2, 2]


@posix
def test_paths_to_remove_are_gone_before_each_run(tmp_path: Path) -> None:
    folder = tmp_path / "cold"
    code = f"import os; os.mkdir({str(folder)!r})"  # fails where the folder is still there
    interleave({"cold": Command([sys.executable, "-S", "-c", code], remove=[folder])}, pairs=3)
    assert folder.is_dir()


# Counted work


def test_work_of_one_layer_is_counted_as_in_the_definition() -> None:
    layer = LayerWork(rows=1280, columns=2048, rank=32, kept=8)
    assert layer.gram_flops == 3328 * 32 * 32
    assert layer.output_flops == 2 * 3328 * 32 * 8
    assert layer.elements_in == 3328 * 32
    assert layer.elements_out == 3328 * 8
    assert layer.core_flops == pytest.approx((1 / 3 + 4 + 9) * 32**3)


def test_gram_work_of_a_full_rank_32_lora_takes_a_tenth_of_a_second_at_37_gigaflops() -> None:
    shapes = {spec.name: spec.shape for spec in lora_specs(LoraOptions(FULL, rank=32))}
    layers = layers_of(shapes, kept=0.25)
    parts = {part.name: part.seconds for part in limit_parts(layers, RATES)}
    assert len(layers) == 986
    assert parts["Gram matrices, float64"] == pytest.approx(0.10, abs=0.005)
    assert parts["SHA-256"] == pytest.approx(217.4 * MIB / 4 / 1.8e9, rel=0.01)


def test_limit_is_the_sum_of_its_parts_shared_by_the_cores() -> None:
    layers = [LayerWork(100, 50, 32, 4), LayerWork(10, 20, 32, 0)]
    parts = limit_parts(layers, RATES, item_in=2, item_out=4)
    read, written = 150 * 32 + 30 * 32, 150 * 4
    by_hand = (
        (2 * read * 2 + written * 4) / 10e9
        + (150 + 30) * 32**2 / 37e9
        + 2 * (1 / 3 + 4 + 9) * 32**3 / 10e9
        + 2 * 150 * 32 * 4 / 72e9
        + written * 4 / 1.8e9
    )
    assert sum(part.seconds for part in parts) == pytest.approx(by_hand)
    assert limit_seconds(parts, cores=2, start_up=0.2) == pytest.approx(by_hand / 2 + 0.2)


def test_casts_count_only_where_their_rate_is_known() -> None:
    layers = [LayerWork(100, 50, 32, 4)]
    without = limit_seconds(limit_parts(layers, RATES), 1)
    known = Limits(**{**RATES.__dict__, "cast_in": 1e9, "cast_out": 0.25e9})
    assert limit_seconds(limit_parts(layers, known), 1) - without == pytest.approx(2 * 4800 / 1e9 + 600 / 0.25e9)


def test_the_rate_of_the_nearest_rank_counts() -> None:
    rates = {8: 1.0, 32: 2.0, 128: 3.0}
    assert [rate_at(rates, rank) for rank in (0, 1, 8, 15, 20, 60, 70, 500)] == [1, 1, 1, 1, 2, 2, 3, 3]


def test_kept_ranks_come_from_the_written_file(tmp_path: Path) -> None:
    path = write_lora(tmp_path / "a.safetensors", LoraOptions(rank=4, conv=True))
    shapes = header_shapes(path)
    name = "lora_unet_input_blocks_1_0_in_layers_2"
    layers = layers_of(shapes, kept={name: 3})
    assert ranks_of(shapes) == {layer.removesuffix(".alpha"): 4 for layer in shapes if layer.endswith(".alpha")}
    assert LayerWork(rows=32, columns=32 * 9, rank=4, kept=3) in layers
    assert sum(layer.kept for layer in layers) == 3
    assert math.isclose(sum(layer.elements_in for layer in layers) * 2, path.stat().st_size, rel_tol=0.2)


def test_waiting_for_quiet_ends_with_the_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    monkeypatch.setattr(time, "sleep", naps.append)
    wait_for_quiet(0.0)
    assert naps == []


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="only Linux reports what other processes do")
def test_work_of_other_processes_is_not_counted_as_work_of_the_command() -> None:
    idle = [sys.executable, "-c", "import time; time.sleep(0.5)"]
    with busy_neighbours(1):
        assert run(Command(idle)).others > 0.3
