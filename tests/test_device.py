"""The whole job on torch gives the file that numpy gives; on the CPU here, on a GPU where there is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lib_resize import batch
from lib_resize.errors import DeviceError
from lib_resize.files.reader import SafeFile
from lib_resize.linalg.arrays import NumpyArrays, TorchArrays, open_arrays
from lib_resize.linalg.casts import doubles
from lib_resize.recipe.grammar import parse_recipes
from lib_resize.sources import expand

RECIPES = "fro_ckpt=1,thr=-3:spn_ckpt=1,thr=-2:subspace=1,thr=-1:medium"


def _missing(device: str) -> bool:
    return not (torch.cuda.is_available() if device == "cuda" else torch.backends.mps.is_available())


DEVICES = [
    "cpu",
    *(
        pytest.param(name, marks=[pytest.mark.gpu, pytest.mark.skipif(_missing(name), reason=f"no {name} device here")])
        for name in ("cuda", "mps")
    ),
]


def resized(lora: Path, checkpoint: Path, out: Path, device: str) -> list[batch.Outcome]:
    settings = batch.Settings(recipes=parse_recipes(RECIPES), output=out, base=checkpoint, device=device)
    outcomes = list(batch.resize(expand([str(lora)]), settings))
    assert [outcome.error for outcome in outcomes] == [None] * 4
    return outcomes


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_writes_what_numpy_writes(checkpoint, lora, tmp_path, device, monkeypatch) -> None:
    expected = resized(lora, checkpoint, tmp_path / "numpy", "cpu")
    monkeypatch.setenv("RESIZE_LORA_CACHE", str(tmp_path / "fresh"))
    monkeypatch.setattr(batch, "open_arrays", lambda name: TorchArrays(name))
    for ours, theirs in zip(resized(lora, checkpoint, tmp_path / "torch", device), expected, strict=True):
        assert Path(ours.plan.output).name == Path(theirs.plan.output).name
        assert ours.plan.retention == pytest.approx(theirs.plan.retention, abs=1e-6)
        with SafeFile(ours.plan.output) as one, SafeFile(theirs.plan.output) as two:
            assert one.header.entries == two.header.entries
            for key, entry in one.header.entries.items():
                found, wanted = (doubles(file.bits(key), entry.dtype) for file in (one, two))
                np.testing.assert_allclose(abs(found), abs(wanted), atol=2e-3 * abs(wanted).max())


def test_the_cpu_is_numpy() -> None:
    assert isinstance(open_arrays("cpu"), NumpyArrays)


@pytest.mark.parametrize("device", ["warp", "cuda:99", "meta"])
def test_a_device_that_cannot_work_is_refused(device: str) -> None:
    with pytest.raises(DeviceError, match="Take `-d cpu`"):
        open_arrays(device)


def test_a_missing_torch_is_told(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(DeviceError, match="needs torch, which is not installed"):
        open_arrays("cuda")
