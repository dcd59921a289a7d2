"""The whole job on torch gives the file that numpy gives; on the CPU here, on a GPU where there is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from lib_resize.adapters.forms.form import WriteSpec
from lib_resize.adapters.read.adapter import read_adapter
from lib_resize.engine import batch, runtime
from lib_resize.engine.settings import Outcome, Settings
from lib_resize.errors import DeviceError
from lib_resize.files.reader import SafeFile
from lib_resize.linalg.arrays import NumpyArrays, TorchArrays, open_arrays
from lib_resize.linalg.casts import doubles
from lib_resize.prompts.sources import expand
from lib_resize.recipe.grammar import parse_recipes
from tests.material import plan_of

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


def resized(lora: Path, checkpoint: Path, out: Path, device: str) -> list[Outcome]:
    settings = Settings(recipes=parse_recipes(RECIPES), output=out, base=checkpoint, device=device)
    outcomes = list(batch.resize(expand([str(lora)]), settings))
    assert [outcome.error for outcome in outcomes] == [None] * 4
    return outcomes


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_writes_what_numpy_writes(checkpoint, lora, tmp_path, device, monkeypatch) -> None:
    expected = resized(lora, checkpoint, tmp_path / "numpy", "cpu")
    monkeypatch.setenv("RESIZE_LORA_CACHE", str(tmp_path / "fresh"))
    monkeypatch.setattr(runtime, "open_arrays", lambda name: TorchArrays(name))
    for ours, theirs in zip(resized(lora, checkpoint, tmp_path / "torch", device), expected, strict=True):
        our_plan, their_plan = plan_of(ours), plan_of(theirs)
        assert Path(our_plan.output).name == Path(their_plan.output).name
        assert our_plan.retention == pytest.approx(their_plan.retention, abs=1e-6)
        with SafeFile(our_plan.output) as one, SafeFile(their_plan.output) as two:
            assert one.header.entries == two.header.entries
            for key, entry in one.header.entries.items():
                found, wanted = (doubles(file.bits(key), entry.dtype) for file in (one, two))
                np.testing.assert_allclose(abs(found), abs(wanted), atol=2e-3 * abs(wanted).max())


def test_the_cpu_is_numpy() -> None:
    assert isinstance(open_arrays("cpu"), NumpyArrays)


@pytest.mark.parametrize("device", ["warp", "cuda:99", "meta"])
def test_a_device_that_cannot_work_is_refused(device: str) -> None:
    with pytest.raises(DeviceError, match="Use `-d cpu`"):
        open_arrays(device)


def test_a_missing_torch_is_reported(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(DeviceError, match="needs torch, which is not installed"):
        open_arrays("cuda")


@pytest.mark.parametrize("kind", ["tucker", "loha", "lokr", "full"])
def test_other_kinds_are_the_same_on_a_device(tmp_path, kind) -> None:
    """torch on the CPU replaces a device: the same code, other arrays."""
    rng = np.random.default_rng(0)
    shapes: dict[str, dict[str, tuple[int, ...]]] = {
        "tucker": {"lora_up.weight": (24, 4, 1, 1), "lora_mid.weight": (4, 4, 3, 3), "lora_down.weight": (4, 16, 1, 1)},
        "loha": {"hada_w1_a": (24, 4), "hada_w1_b": (4, 16), "hada_w2_a": (24, 4), "hada_w2_b": (4, 16)},
        "lokr": {"lokr_w1": (4, 4), "lokr_w2": (12, 10)},
        "full": {"diff": (24, 16)},
    }
    tensors = {f"a.{role}": rng.standard_normal(shape).astype(np.float32) for role, shape in shapes[kind].items()}
    save_file(tensors, str(tmp_path / "x.safetensors"))
    found = {}
    for name, arrays in (("cpu", NumpyArrays()), ("torch", TorchArrays("cpu"))):
        with SafeFile(tmp_path / "x.safetensors") as file:
            (layer,) = read_adapter(file).layers
            solved = layer.form.decompose(arrays)
            found[name] = layer.form.full(layer.form.values(WriteSpec(solved, np.arange(2), arrays)))
    np.testing.assert_allclose(found["torch"], found["cpu"], atol=1e-5 * np.abs(found["cpu"]).max())
