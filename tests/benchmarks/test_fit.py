"""The benchmark of fitted factors, on models that are made here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "fitting"))

from benchmarks import fit
from tests.fitting.small_net import save_lora

MODEL = """
import torch
from torch import nn

class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(9, 16)
        self.first = nn.Conv2d(4, 16, 3, padding=1)
        self.middle = nn.Linear(16, 16)
        self.last = nn.Conv2d(16, 4, 1)

    def forward(self, x, t, y):
        h = torch.tanh(self.first(x)) + self.emb(y)[:, :, None, None]
        h = h + torch.tanh(self.middle(h.movedim(1, -1))).movedim(-1, 1)
        return torch.tanh(self.last(h))

def lora_targets(net):
    return {"first": net.first, "middle": net.middle, "last": net.last}

def sample(net, y, noise, steps, trajectory=None):
    x = noise
    for step in range(steps):
        if trajectory is not None:
            trajectory.append((x, torch.tensor(step)))
        x = 0.8 * x - 0.3 * net(x, torch.full((len(x),), step), y)
    return x
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    (tmp_path / "model.py").write_text(MODEL, "utf-8")
    space: dict[str, Any] = {}
    exec(MODEL, space)
    torch.manual_seed(0)
    save_file(space["UNet"]().state_dict(), str(tmp_path / "base.safetensors"))
    shapes = {"first": (16, 4, 3, 3), "middle": (16, 16), "last": (4, 16, 1, 1)}
    save_lora(tmp_path / "lora.safetensors", {name: shape for name, shape in shapes.items() if name != "last"})
    return tmp_path


def test_the_report_compares_files_of_the_same_bytes(toy: Path, capsys) -> None:
    words = ["--toy", str(toy), "--lora", str(toy / "lora.safetensors"), "--share", "0.2", "--seeds", "1"]
    assert fit.main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    whole = 2 * 8 * (16 + 36 + 16 + 16)
    assert 0.1 * whole < found["bytes"] <= 0.2 * whole
    assert 0 < found["fitted"]["eps"] < found["plain"]["eps"] < 1
    assert found["ratio_eps"] == pytest.approx(found["bytes"] / found["bytes_for_eps"])
    assert found["ratio_eps"] < 1
    assert found["kept_fit"] is True
    assert fit.main(words) == 0
    printed = capsys.readouterr().out
    assert f"{found['bytes']} bytes of factors" in printed
    assert f"{found['fitted']['px']:10.5f}" in printed


def test_plain_truncation_of_all_ranks_has_no_error(toy: Path) -> None:
    from lib_resize.engine.analysing import analyse
    from lib_resize.engine.reading import read_lora
    from lib_resize.engine.runtime import cpu_runtime
    from lib_resize.files.reader import SafeFile
    from lib_resize.progress import Quiet

    with cpu_runtime(Quiet(), 1) as runtime, SafeFile(toy / "lora.safetensors") as file:
        analysis = analyse(read_lora(file), None, [], runtime)
        job = fit.planned(analysis, 0.51, toy)
        assert fit.factor_bytes(job) == fit.original_bytes(analysis) // 2
        errors = fit.Judge(fit.Toy(toy), job, 1).errors(fit.write(job, runtime), runtime)
    assert errors.px < 0.005
    assert errors.eps < 0.005


@pytest.mark.parametrize(("error", "size"), [(0.1, 100), (0.01, 200), (0.0316227766, 141), (0.5, 100), (1e-9, 400)])
def test_needed_bytes_follow_the_curve(error: float, size: int) -> None:
    assert fit.needed_bytes([(400, 0.001), (100, 0.1), (200, 0.01)], error) == size


def test_the_curve_goes_on_until_the_aim_is_between_two_points() -> None:
    asked: list[float] = []

    def point(factor: float) -> fit.Point:
        asked.append(factor)
        return round(1000 * factor), fit.Errors(0.1 / factor**4, 0.2 / factor**2)

    first = (1000, fit.Errors(0.1, 0.2))
    found = fit._curve(first, fit.Errors(0.05, 0.1), point)
    assert asked == [pytest.approx(fit.POINTS**step) for step in range(1, len(asked) + 1)]
    assert found[-1][1].eps <= 0.1 < found[-2][1].eps
    asked.clear()
    fit._curve(first, fit.Errors(0.2, 0.1), point)
    assert min(asked) < 1 < max(asked)
