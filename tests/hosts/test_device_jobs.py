"""A job in a host uses the host's device for what it does faster, where the model is; with torch on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lib_resize.adapters.read.adapter import read_adapter
from lib_resize.base.checkpoint import Checkpoint
from lib_resize.engine import placement
from lib_resize.engine.analysing import analyse
from lib_resize.engine.analysis import Analysis
from lib_resize.engine.placement import FACTORS, NORMS, SUBSPACE
from lib_resize.engine.runtime import Runtime, cpu_runtime
from lib_resize.files.reader import SafeFile
from lib_resize.hosts.device_jobs import host_runtime
from lib_resize.hosts.forge import ForgeHost
from lib_resize.hosts.live import open_reference
from lib_resize.hosts.live_checkpoint import FILE, MEMORY, LiveCheckpoint
from lib_resize.linalg.device_subspace import PlacedMatrix
from lib_resize.progress import Quiet
from lib_resize.recipe.grammar import parse_recipe
from tests.hosts.standins import WebUI, add_backend, forge_model

RECIPE = parse_recipe("subspace=1,spn_ckpt=1,thr=-1")


@pytest.fixture
def webui(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WebUI:
    """Forge, whose device is torch's CPU by its other name."""
    monkeypatch.setenv("RESIZE_LORA_CACHE", str(tmp_path / "norms"))
    monkeypatch.setattr(placement, "LEAST_RANK", 1)
    webui = WebUI(tmp_path, forge_model(checkpoint))
    backend: Any = add_backend(webui, "cpu:0")
    backend.free_memory = lambda amount, device: webui.calls.append((amount, webui.lock._lock.locked()))
    webui.install(monkeypatch)
    monkeypatch.setattr(ForgeHost, "device", lambda self: "cpu:0")
    return webui


def analysed(lora: Path, base: Checkpoint, runtime: Runtime) -> Analysis:
    with SafeFile(lora) as file:
        return analyse(read_adapter(file), base, [RECIPE], runtime)


def test_all_jobs_of_the_device_are_done_where_the_model_is(
    webui: WebUI, checkpoint: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = ForgeHost()
    live = open_reference(host)
    assert isinstance(live.checkpoint, LiveCheckpoint)
    read: list[PlacedMatrix] = []
    monkeypatch.setattr(PlacedMatrix, "bits", property(read.append))
    with host_runtime(host, Quiet()) as tools:
        found = analysed(lora, live.checkpoint, tools)
    assert tools.placement.done == {NORMS, SUBSPACE, FACTORS}
    assert tools.placement.notes == []
    assert (live.kind, live.device, live.note) == (MEMORY, "cpu:0", "")
    assert read == [], "a weight was read by way of the CPU"
    live.close()
    monkeypatch.setenv("RESIZE_LORA_CACHE", str(tmp_path / "other norms"))
    base = Checkpoint(checkpoint)
    with cpu_runtime(Quiet()) as tools:
        expected = analysed(lora, base, tools)
    base.close()
    for ours, theirs in zip(found.layers, expected.layers, strict=True):
        np.testing.assert_allclose(ours.s, theirs.s, rtol=1e-6, atol=1e-9)
        assert (ours.base is None) == (theirs.base is None)
        if ours.base is not None and theirs.base is not None:
            assert ours.base.fro == pytest.approx(theirs.base.fro, rel=1e-5)
            assert ours.base.spn == pytest.approx(theirs.base.spn, rel=1e-4)
            assert ours.base.subspace is not None
            assert theirs.base.subspace is not None
            strong = theirs.base.subspace > 1e-3 * theirs.base.subspace.max()
            np.testing.assert_allclose(ours.base.subspace[strong], theirs.base.subspace[strong], rtol=1e-2)


def test_room_is_asked_of_the_host_under_its_lock_and_given_back(webui: WebUI, checkpoint: Path, lora: Path) -> None:
    host = ForgeHost()
    base = Checkpoint(checkpoint)
    with host_runtime(host, Quiet()) as tools:
        assert webui.calls == []
        analysed(lora, base, tools)
        assert webui.calls == [(256 << 20, True)]
    assert webui.calls == [(256 << 20, True), "empty cache"]
    assert base.measured_on == "cpu:0"
    base.close()


def test_the_device_that_measured_a_file_is_reported(
    webui: WebUI, checkpoint: Path, lora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = ForgeHost()
    reference = open_reference(host)
    assert isinstance(reference.checkpoint, LiveCheckpoint)
    reference.checkpoint._leave_memory("a test says so")
    with host_runtime(host, Quiet()) as tools:
        analysed(lora, reference.checkpoint, tools)
    assert (reference.kind, reference.device) == (FILE, "cpu:0")
    reference.close()
    again = open_reference(host)
    with host_runtime(host, Quiet()) as tools:
        assert again.checkpoint is not None
        with SafeFile(lora) as file:
            analyse(read_adapter(file), again.checkpoint, [parse_recipe("spn_ckpt=1,thr=-1")], tools)
    assert (again.kind, again.device) == ("cache", "cpu"), "nothing was measured"
    again.close()


def test_a_device_that_fails_leaves_the_job_to_the_cpu_with_a_note(
    webui: WebUI, checkpoint: Path, lora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: Any, **more: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr("lib_resize.linalg.device_norms.norms_of_stack", failing)
    base = Checkpoint(checkpoint)
    with host_runtime(ForgeHost(), Quiet()) as tools:
        found = analysed(lora, base, tools)
    assert tools.placement.notes == ["cpu:0 ran out of memory; the CPU finished the work."]
    assert base.measured_on == "cpu"
    assert all(facts.base is None or facts.base.spn for facts in found.layers)
    assert webui.calls[0] == (256 << 20, True)
    base.close()


def test_weights_in_memory_that_are_not_finite_are_read_from_the_file(
    webui: WebUI, lora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "lib_resize.hosts.memory_norms.norms_of_stack",
        lambda stack, arrays, spectral: [(float("inf"), float("nan"))] * len(stack),
    )
    live = open_reference(ForgeHost())
    assert live.checkpoint is not None
    with host_runtime(ForgeHost(), Quiet()) as tools:
        found = analysed(lora, live.checkpoint, tools)
    assert live.kind == FILE
    assert "holds NaN or infinite values in memory" in live.note
    assert all(facts.base is None or 0 < (facts.base.fro or 0) < np.inf for facts in found.layers)
    live.close()


@pytest.mark.parametrize("device", ["cpu", "mps", "privateuseone:0"])
def test_other_devices_get_no_job_but_the_norms_in_memory(
    device: str, webui: WebUI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ForgeHost, "device", lambda self: device)
    with host_runtime(ForgeHost(), Quiet()) as tools:
        assert not tools.placement.may_use_device
