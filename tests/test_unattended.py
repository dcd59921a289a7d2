"""A night's work on a folder: kohya's figures, priority, the device's memory, stopping, going on, and the report."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lib_resize.cli import main as cli
from lib_resize.cli import output, priority, work
from lib_resize.cli.report import layer_lines
from lib_resize.demo.synthetic import LoraOptions, write_lora
from lib_resize.engine import analysing, batch, runtime
from lib_resize.engine.batch import resize
from lib_resize.engine.settings import Settings
from lib_resize.errors import InternalError
from lib_resize.linalg.arrays import TorchArrays
from lib_resize.plans import LayerPlan, Plan
from lib_resize.prompts.sources import expand
from lib_resize.recipe.grammar import parse_recipes
from tests.material import plan_of


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "loras" / "sub").mkdir(parents=True)
    write_lora(tmp_path / "loras" / "one.safetensors", LoraOptions(rank=4, seed=1))
    write_lora(tmp_path / "loras" / "sub" / "two.safetensors", LoraOptions(rank=8, seed=2))
    return tmp_path / "loras"


# kohya's figures ---------------------------------------------------------------------------------------------


def test_the_figures_of_kohyas_script_by_their_definitions(lora, tmp_path) -> None:
    (outcome,) = resize(expand([str(lora)]), Settings(recipes=parse_recipes("sv_fro=0.9"), output=tmp_path))
    shares = []
    plan = plan_of(outcome)
    assert outcome.job is not None
    for layer, facts in zip(plan.layers, outcome.job.analysis.layers, strict=True):
        if not facts.s[0] > 0:
            assert (layer.fro_retained, layer.sum_retained, layer.max_ratio) == (None, None, None)
            continue
        kept = facts.s[: layer.new_rank]
        shares.append(np.linalg.norm(kept) / np.linalg.norm(facts.s))
        assert layer.fro_retained == pytest.approx(shares[-1], abs=1e-9)
        assert layer.sum_retained == pytest.approx(kept.sum() / facts.s.sum())
        assert layer.max_ratio == pytest.approx(kept[0] / kept[-1])
        assert layer.fro_retained is not None
        assert layer.fro_retained >= 0.9 - 1e-9
    assert plan.layer_retention == pytest.approx((np.mean(shares), np.std(shares)))


def test_they_are_printed_in_its_words(lora, tmp_path, capsys) -> None:
    assert run("resize", lora, "-r", "rank=2", "-o", tmp_path, "-v", "--report", tmp_path / "r.json") == 0
    plan, _ = json.loads((tmp_path / "r.json").read_text("utf-8"))
    mean, deviation = plan["layer_retention_mean"], plan["layer_retention_std"]
    assert f"Average Frobenius norm retention: {mean:.2%} | std: {deviation:0.3f}" in capsys.readouterr().out
    layer = LayerPlan("x", 8, 2, 0.6, None, 0.8, 0.5, 3.21)
    made = Plan("a", "b", "r", None, 2, 1, 1.0, layers=(layer,), copied=(), dropped=())
    assert list(layer_lines(made)) == [
        "dim: 8->2 rle_lora: 60.00% x | sum(S) retained: 50.0%, fro retained: 80.0%, max(S) ratio: 3.2"
    ]


def test_a_lora_of_zeros_has_no_average() -> None:
    layer = LayerPlan("x", 8, 0, 1.0, None)
    made = Plan("a", "b", "r", None, 2, 1, 1.0, layers=(layer,), copied=(), dropped=("x",))
    assert made.layer_retention is None
    assert made.as_json()["layer_retention_mean"] is None
    assert list(layer_lines(made)) == ["dim: 8->0 rle_lora: 100.00% x"]


# Priority ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="niceness is a word of Unix")
@pytest.mark.parametrize("words", [[], ["--nice"]])
def test_nice_lowers_the_priority_of_the_process(folder, words) -> None:
    niceness = max(os.nice(0), priority.NICENESS) if words else os.nice(0)
    code = f"""
import os
from lib_resize.cli import main as cli
assert cli.main(["resize", {str(folder)!r}, "-r", "rank=1", "--dry-run", *{words!r}]) == 0
print("niceness", os.nice(0))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith(f"niceness {niceness}\n")


@pytest.mark.skipif(sys.platform == "win32", reason="niceness is a word of Unix")
def test_a_process_of_low_priority_is_not_lowered_further(monkeypatch) -> None:
    asked = []

    def nice(by: int) -> int:
        asked.append(by)
        return 15

    monkeypatch.setattr(os, "nice", nice)
    assert priority.lower_priority()
    assert asked == [0, 0]


def test_on_windows_the_class_of_this_very_process_is_set() -> None:
    asked = []

    def set_class(handle: int, wanted: int) -> int:
        asked.append((handle, wanted))
        return 1

    kernel32 = SimpleNamespace(GetCurrentProcess=lambda: 0xFFFFFFFFFFFFFFFF, SetPriorityClass=set_class)
    assert priority.lower_priority_on_windows(kernel32)
    assert asked == [(0xFFFFFFFFFFFFFFFF, 0x4000)]
    kernel32.SetPriorityClass = lambda handle, wanted: 0
    assert not priority.lower_priority_on_windows(kernel32)


@pytest.mark.skipif(sys.platform != "win32", reason="Windows alone")
def test_windows_lowers_the_priority() -> None:
    code = (
        "from lib_resize.cli import priority as p; p.lower_priority(); print(hex(p._kernel32().GetPriorityClass(-1)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == hex(priority.BELOW_NORMAL)


def test_a_system_that_refuses_is_reported_and_the_work_goes_on(folder, monkeypatch, capsys) -> None:
    monkeypatch.setattr(output, "lower_priority", lambda: False)
    assert run("resize", folder, "-r", "rank=1", "--dry-run", "--nice") == 0
    assert "--nice: this system does not allow the priority to be lowered" in capsys.readouterr().err


# The device's memory -----------------------------------------------------------------------------------------


@pytest.fixture
def on_torch(monkeypatch) -> list[TorchArrays]:
    pytest.importorskip("torch")
    opened: list[TorchArrays] = []

    def open_arrays(_: str) -> TorchArrays:
        opened.append(TorchArrays("cpu"))
        return opened[-1]

    monkeypatch.setattr(runtime, "open_arrays", open_arrays)
    return opened


@pytest.mark.parametrize("most", [1 << 16, 1 << 28, 1 << 34])
def test_pieces_fit_in_the_limit_and_the_result_is_the_same(folder, tmp_path, on_torch, most) -> None:
    def tensors(name: str, **more) -> bytes:
        settings = Settings(recipes=parse_recipes("rank=2"), output=tmp_path / name, device="meta", **more)
        outcomes = list(resize(expand([str(folder)]), settings))
        assert [outcome.error for outcome in outcomes] == [None, None]
        return b"".join(Path(plan_of(outcome).output).read_bytes()[-4096:] for outcome in outcomes)

    assert tensors("free") == tensors("limited", max_vram=most)
    free, limited = on_torch
    assert limited.block_elements <= free.block_elements
    assert limited.block_elements * 32 <= most  # as stored, as float32, as float64, and a product


def test_on_cuda_torch_itself_holds_the_line() -> None:
    pytest.importorskip("torch")
    arrays = TorchArrays("cpu")
    drawn = []
    arrays._device = SimpleNamespace(type="cuda")
    arrays._torch = SimpleNamespace(
        cuda=SimpleNamespace(
            get_device_properties=lambda device: SimpleNamespace(total_memory=8 << 30),
            set_per_process_memory_fraction=lambda share, device: drawn.append(share),
        )
    )
    arrays.limit_memory(2 << 30)
    arrays.limit_memory(16 << 30)
    assert drawn == [0.25, 1.0]


def test_a_device_without_memory_left_is_a_failure_of_that_file_alone(folder, tmp_path, monkeypatch) -> None:
    class OutOfMemoryError(RuntimeError):
        pass

    calls = []

    def analyse(*arguments, **more):
        calls.append(1)
        if len(calls) == 1:
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return analysing.analyse(*arguments, **more)

    monkeypatch.setattr(batch, "analyse", analyse)
    first, second = resize(expand([str(folder)]), Settings(recipes=parse_recipes("rank=2"), output=tmp_path / "o"))
    assert re.search(r"two|one", str(first.error))
    assert "is out of memory" in str(first.error)
    assert second.error is None


def test_a_fault_of_ours_is_a_failed_line_and_the_batch_goes_on(folder, tmp_path, monkeypatch) -> None:
    calls = []

    def analyse(*arguments, **more):
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("shapes do not fit")
        return analysing.analyse(*arguments, **more)

    monkeypatch.setattr(batch, "analyse", analyse)
    settings = Settings(recipes=parse_recipes("rank=2"), output=tmp_path / "o")
    first, second = resize(expand([str(folder)]), settings)
    assert isinstance(first.error, InternalError)
    assert re.search(
        r"internal error \(RuntimeError at batch.py:\d+: shapes do not fit\). Please report it: https://",
        str(first.error),
    )
    assert second.error is None


@pytest.mark.parametrize("size", ["0", "-1", "nan", "much"])
def test_sizes_that_are_none_are_refused(folder, size, capsys) -> None:
    with pytest.raises(SystemExit):
        run("resize", folder, "--max-vram", size)
    assert "is not a size in GiB above 0" in capsys.readouterr().err


def test_a_limit_without_a_device_is_a_bad_command(folder, capsys) -> None:
    assert run("resize", folder, "-r", "rank=1", "--max-vram", "2", "--dry-run") == 2
    assert "limits the memory of a GPU, but the device is cpu" in capsys.readouterr().err


# Stopping and going on ---------------------------------------------------------------------------------------

PRESETS = "high:medium:low"


def test_a_stopped_night_reports_what_it_did_and_the_next_one_does_the_rest(folder, tmp_path, monkeypatch) -> None:
    out, report = tmp_path / "out", tmp_path / "report.json"
    words = ("resize", folder, "-o", out, "-r", PRESETS, "--skip-existing", "--continue-on-error", "--report", report)

    def stopped(*arguments):
        for count, outcome in enumerate(resize(*arguments)):
            if count == 4:
                raise KeyboardInterrupt
            yield outcome

    monkeypatch.setattr(work, "resize_all", stopped)
    assert run(*words) == 130
    *done, last = json.loads(report.read_text("utf-8"))
    assert len(done) == 4
    assert last["stopped"] is True
    assert all(Path(one["output"]).exists() for one in done)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    monkeypatch.setattr(work, "resize_all", resize)
    assert run(*words) == 0
    *second, last = json.loads(report.read_text("utf-8"))
    assert "stopped" not in last
    assert [bool(one.get("skipped")) for one in second].count(True) == len(before)
    after = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert len(after) == 6
    assert {path: after[path] for path in before} == before
    assert {path.parent.name for path in after} == {"out", "sub"}
