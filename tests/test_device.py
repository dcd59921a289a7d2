"""The whole job on torch gives the file that numpy gives; on the CPU here, on a GPU where there is one."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from lib_resize.adapters.forms.form import WriteSpec
from lib_resize.adapters.read.adapter import read_adapter
from lib_resize.api import extract
from lib_resize.engine import analysing, batch, placement, runtime, writing
from lib_resize.engine.placement import EXTRACTION, FACTORS, NORMS, SUBSPACE, Placement
from lib_resize.engine.settings import Outcome, Settings
from lib_resize.errors import DeviceError
from lib_resize.files.reader import SafeFile
from lib_resize.linalg import arrays as arrays_module
from lib_resize.linalg.arrays import AUTO, NumpyArrays, TorchArrays, open_arrays
from lib_resize.linalg.casts import doubles
from lib_resize.progress import Quiet
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


@pytest.fixture
def placements(monkeypatch: pytest.MonkeyPatch) -> list[Placement]:
    """The placements of all runs, in which a device gets LoRAs of any rank."""
    made: list[Placement] = []

    class Noted(Placement):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            made.append(self)

    monkeypatch.setattr(runtime, "Placement", Noted)
    monkeypatch.setattr(placement, "LEAST_RANK", 1)
    return made


def left_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note what numpy decomposes and writes in a run."""
    calls: list[str] = []
    for module, name in ((analysing, "decompose_together"), (writing, "storage_arrays")):
        work = getattr(module, name)

        def noted(*arguments: Any, work: Any = work, name: str = name) -> Any:
            calls.append(name)
            return work(*arguments)

        monkeypatch.setattr(module, name, noted)
    return calls


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_writes_what_numpy_writes(checkpoint, lora, tmp_path, device, monkeypatch, placements) -> None:
    expected = resized(lora, checkpoint, tmp_path / "numpy", "cpu")
    monkeypatch.setenv("RESIZE_LORA_CACHE", str(tmp_path / "fresh"))
    monkeypatch.setattr(runtime, "open_arrays", lambda name: TorchArrays(name))
    calls = left_to_the_cpu(monkeypatch)
    outcomes = resized(lora, checkpoint, tmp_path / "torch", device)
    assert placements[-1].done == ({NORMS, SUBSPACE, FACTORS} if device != "mps" else {NORMS})
    assert (not calls) == (device != "mps"), "the device left layers to the CPU"
    for ours, theirs in zip(outcomes, expected, strict=True):
        our_plan, their_plan = plan_of(ours), plan_of(theirs)
        assert Path(our_plan.output).name == Path(their_plan.output).name
        assert our_plan.retention == pytest.approx(their_plan.retention, abs=1e-6)
        with SafeFile(our_plan.output) as one, SafeFile(their_plan.output) as two:
            assert one.header.entries == two.header.entries
            for key, entry in one.header.entries.items():
                found, wanted = (doubles(file.bits(key), entry.dtype) for file in (one, two))
                np.testing.assert_allclose(abs(found), abs(wanted), atol=2e-3 * abs(wanted).max())


class Failing(TorchArrays):
    """A device whose products fail after some of them."""

    def __init__(self, error: Exception, after: int) -> None:
        super().__init__("cpu")
        self._error, self._left = error, after

    @property
    def torch(self) -> Any:
        self._left -= 1
        if self._left < 0:
            raise self._error
        return super().torch


OUT_OF_MEMORY = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize("after", [0, 3, 30, 60, 100])
def test_where_a_device_that_was_found_fails_the_cpu_finishes(
    checkpoint, lora, tmp_path, monkeypatch, placements, after
) -> None:
    expected = resized(lora, checkpoint, tmp_path / "numpy", "cpu")
    monkeypatch.setenv("RESIZE_LORA_CACHE", str(tmp_path / "fresh"))
    monkeypatch.setattr(runtime, "found_device", lambda load: "cuda")
    monkeypatch.setattr(runtime, "TorchArrays", lambda name: Failing(OUT_OF_MEMORY, after))
    found = resized(lora, checkpoint, tmp_path / "torch", AUTO)
    assert placements[-1].notes == ["cpu ran out of memory; the CPU finished the work."]
    assert not placements[-1].may_use_device
    for ours, theirs in zip(found, expected, strict=True):
        assert plan_of(ours).notes == (*plan_of(theirs).notes, *placements[-1].notes)
        assert plan_of(ours).retention == pytest.approx(plan_of(theirs).retention, abs=1e-6)


def test_a_named_device_that_fails_is_an_error(checkpoint, lora, tmp_path, monkeypatch, placements) -> None:
    monkeypatch.setattr(runtime, "open_arrays", lambda name: Failing(OUT_OF_MEMORY, 3))
    monkeypatch.setattr(runtime, "TorchArrays", TorchArrays)
    settings = Settings(recipes=parse_recipes("rank=2"), output=tmp_path / "o", device="cuda")
    (outcome,) = batch.resize(expand([str(lora)]), settings)
    assert isinstance(outcome.error, DeviceError)
    assert "cuda is out of memory" in str(outcome.error)


def test_a_found_device_that_cannot_be_opened_leaves_the_work_to_the_cpu(
    checkpoint, lora, tmp_path, monkeypatch, placements
) -> None:
    monkeypatch.setattr(runtime, "found_device", lambda load: "meta")
    resized(lora, checkpoint, tmp_path / "o", AUTO)
    assert "device 'meta' cannot be used" in placements[-1].notes[0]


def test_low_ranks_and_runs_without_a_device_stay_on_the_cpu(lora, tmp_path, monkeypatch, placements) -> None:
    monkeypatch.setattr(placement, "LEAST_RANK", 64)
    monkeypatch.setattr(runtime, "open_arrays", TorchArrays)
    settings = Settings(recipes=parse_recipes("rank=2"), output=tmp_path / "o", device="cpu:0")
    assert [outcome.error for outcome in batch.resize(expand([str(lora)]), settings)] == [None]
    assert placements[-1].done == set()
    one = Placement()
    assert (one.may_use_device, one.device, one.device_for(NORMS), one.device_for(FACTORS, 128)) == (
        False,
        "cpu",
        None,
        None,
    )


@pytest.mark.parametrize(
    ("device", "is_loaded", "has_cuda", "expected"),
    [
        (None, True, True, True),
        (None, True, False, False),
        (None, False, True, False),
        (AUTO, False, True, True),
        (AUTO, True, False, False),
        ("cpu", True, True, False),
    ],
)
def test_without_a_name_only_a_torch_that_is_loaded_is_asked(
    device, is_loaded, has_cuda, expected, monkeypatch
) -> None:
    fake = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: has_cuda))
    monkeypatch.setattr(arrays_module, "sys", SimpleNamespace(modules={"torch": fake} if is_loaded else {}))
    monkeypatch.setattr(arrays_module, "_import_torch", lambda device: fake)
    with ExitStack() as stack:
        tools = runtime.open_runtime(stack, Quiet(), device=device)
        assert tools.placement.may_use_device == expected
        assert isinstance(tools.arrays, NumpyArrays)


def test_auto_without_torch_is_the_cpu(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    assert (arrays_module.found_device(load=True), arrays_module.resolved(AUTO), arrays_module.resolved("cuda:1")) == (
        None,
        "cpu",
        "cuda:1",
    )


def test_room_is_asked_for_once_and_given_back(monkeypatch) -> None:
    calls: list[Any] = []
    memory = SimpleNamespace(make_room=lambda bytes: calls.append(bytes), tidy=lambda: calls.append("tidy"))
    with ExitStack() as stack:
        tools = runtime.assisted_runtime(stack, Quiet(), "cpu", memory=memory)
        assert tools.placement.device_for(FACTORS, 32) is None
        assert calls == [], "nothing is asked before the first job"
        for _ in range(3):
            assert tools.placement.device_for(NORMS) is not None
        assert calls == [256 << 20]
    assert calls == [256 << 20, "tidy"]


def test_a_device_without_float64_measures_norms_alone() -> None:
    device = TorchArrays("cpu")
    device.has_float64 = False
    found = Placement(lambda: device)
    assert found.device_for(NORMS) is device
    assert [found.device_for(job, 128) for job in (FACTORS, SUBSPACE, EXTRACTION)] == [None] * 3
    assert found.done == {NORMS}


def test_an_extraction_is_the_devices(checkpoint, tmp_path, monkeypatch, placements) -> None:
    rng = np.random.default_rng(0)
    changed = {
        key: np.asarray(values + 0.01 * rng.standard_normal(values.shape), values.dtype)
        for key, values in load_file(str(checkpoint)).items()
    }
    save_file(changed, str(tmp_path / "tuned.safetensors"))
    plans = []
    for device, opened in (("cpu", open_arrays), ("cpu:0", TorchArrays)):
        monkeypatch.setattr(runtime, "open_arrays", opened)
        out = tmp_path / f"{device.replace(':', '')}.safetensors"
        plans.append(extract(tmp_path / "tuned.safetensors", checkpoint, out, rank=4, device=device).plan)
    assert placements[-1].done == {EXTRACTION, FACTORS}
    assert plans[1].retention == pytest.approx(plans[0].retention, abs=1e-5)


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
