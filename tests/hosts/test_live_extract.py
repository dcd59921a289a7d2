"""What was changed in the memory of a WebUI comes out as a LoRA: the loaded model against its file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from lib_resize.base.model_index import read_base
from lib_resize.files.header import read_header
from lib_resize.hosts.a1111 import A1111Host
from lib_resize.hosts.forge import ForgeHost
from lib_resize.panel.service import Service
from tests.hosts.standins import (
    WebUI,
    a1111_fp8,
    a1111_merge,
    a1111_model,
    add_backend,
    forge_merge,
    forge_model,
    tensors_of,
)

CHANGED = {
    "model.diffusion_model.middle_block.1.proj_in.weight": None,
    "model.diffusion_model.input_blocks.1.0.in_layers.2.weight": None,
    "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight": (0, 3),
}


def edited(checkpoint: Path) -> tuple[dict[str, torch.Tensor], dict[str, np.ndarray]]:
    """The tensors with some of them changed by a little of rank 2, and the true differences by layer."""
    tensors, true, chance = tensors_of(checkpoint), {}, np.random.default_rng(3)
    base = read_base({key: entry.shape for key, entry in read_header(checkpoint).entries.items()})
    for key in CHANGED:
        before = tensors[key]
        n, m = before.shape[0], int(np.prod(before.shape[1:]))
        change = 0.05 * chance.standard_normal((n, 2)) @ chance.standard_normal((2, m))
        tensors[key] = (before.double() + torch.from_numpy(change.reshape(before.shape))).to(before.dtype)
        whole = (tensors[key].double() - before.double()).numpy().reshape(n, m)
        for name, weight in base.weights.items():
            if weight.key == key:
                rows = weight.rows or (0, n)
                true[name] = whole[rows[0] : rows[1]]
    return tensors, true


Make = Callable[[Path, pytest.MonkeyPatch, Path, Any], Any]


def in_a1111(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tensors: Any) -> Any:
    model = a1111_model(checkpoint, tensors)
    a1111_merge(model)
    WebUI(tmp_path, model).install(monkeypatch)
    return A1111Host()


def in_forge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tensors: Any) -> Any:
    model = forge_model(checkpoint, tensors)
    forge_merge(model)
    webui = WebUI(tmp_path, model)
    add_backend(webui)
    webui.install(monkeypatch)
    return ForgeHost()


@pytest.fixture
def served() -> Iterator[list[Service]]:
    services: list[Service] = []
    yield services
    for service in services:
        service.close()
        service.desk.queue.join()
        service.desk.library.join()


def ask(service: Service, method: str, **params: Any) -> Any:
    return json.loads(service.call(json.dumps({"id": 1, "method": method, "params": params})))


def finished(service: Service, id: str) -> Any:
    for _ in range(1000):
        job = next(job for job in ask(service, "status")["result"]["queue"] if job["id"] == id)
        if job["state"] in ("done", "failed", "cancelled"):
            return job
        time.sleep(0.02)
    raise AssertionError("it never ended")


@pytest.mark.parametrize("make", [in_a1111, in_forge])
def test_an_edit_in_memory_comes_out_and_a_merged_lora_does_not(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: Path, served: list[Service]
) -> None:
    tensors, true = edited(checkpoint)
    host = make(tmp_path, monkeypatch, checkpoint, tensors)
    service = Service(host, tmp_path / "library.json")
    served.append(service)
    job = finished(service, ask(service, "extract", target={"rank": 4}, name="edit")["result"]["job"])
    assert job["state"] == "done", job["error"]
    made = load_file(host.lora_roots()[0] / "edit.safetensors")
    found = {key.split(".")[0] for key in made}
    assert found == true.keys()
    for name, wanted in true.items():
        up, down = made[f"{name}.lora_up.weight"], made[f"{name}.lora_down.weight"]
        rank = len(down)
        delta = float(made[f"{name}.alpha"]) / rank * up.reshape(-1, rank).astype(float) @ down.reshape(rank, -1)
        assert np.linalg.norm(delta - wanted) < 0.01 * np.linalg.norm(wanted), name
    notes = job["result"]["notes"]
    assert any("of the difference" in note for note in notes)
    assert any("layers are equal" in note for note in notes)


def test_an_untouched_model_has_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: Path, served: list[Service]
) -> None:
    host = in_a1111(tmp_path, monkeypatch, checkpoint, None)
    service = Service(host, tmp_path / "library.json")
    served.append(service)
    before = sorted(host.lora_roots()[0].rglob("*"))
    job = finished(service, ask(service, "extract", target={"preset": "medium"})["result"]["job"])
    assert job["state"] == "failed"
    assert "no layer differs" in job["error"]["message"]
    assert sorted(host.lora_roots()[0].rglob("*")) == before


def test_weights_that_are_rounded_to_fp8_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: Path, served: list[Service]
) -> None:
    model = a1111_model(checkpoint)
    a1111_fp8(model, keep_exact=False)
    WebUI(tmp_path, model).install(monkeypatch)
    service = Service(A1111Host(), tmp_path / "library.json")
    served.append(service)
    job = finished(service, ask(service, "extract", target={"rank": 4})["result"]["job"])
    assert (job["state"], "fp8" in job["error"]["message"]) == ("failed", True)


def test_without_a_model_it_is_reported_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: list[Service]
) -> None:
    WebUI(tmp_path, None).install(monkeypatch)
    service = Service(A1111Host(), tmp_path / "library.json")
    served.append(service)
    assert ask(service, "extract", target={"rank": 4})["error"]["kind"] == "reference"
    assert ask(service, "extract", tuned="nobody", base="none", target={"rank": 4})["error"]["kind"] == "file"
