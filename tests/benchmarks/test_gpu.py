"""The benchmark of a GPU runs without one, at small shapes, and sees results that differ."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import gpu
from lib_resize.linalg import device_norms


def test_it_runs_on_a_cpu_and_prints_its_goals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "figures.json"
    assert gpu.main(["--device", "cpu", "--small", "--ranks", "8,64", "--out", str(out)]) == 0
    figures = {one["what"]: one["value"] for one in json.loads(out.read_text("utf-8"))}
    assert {what.split()[0] for what in figures} >= {"r8", "r64", "Frobenius", "both"}
    assert sum(what.startswith("r64 whole resize") for what in figures) == 2
    assert all(value >= 0 for value in figures.values())
    printed = capsys.readouterr().out
    assert "D1 cold norms of SDXL" in printed
    assert "D2 whole resize of rank 64" in printed


def test_a_wrong_result_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = device_norms.largest_singular_values
    monkeypatch.setattr(device_norms, "largest_singular_values", lambda stack, arrays: 1.01 * right(stack, arrays))
    assert gpu.main(["--device", "cpu", "--small", "--ranks", "8"]) == 1
    assert "too much: largest difference of a norm" in capsys.readouterr().out
