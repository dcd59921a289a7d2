"""Models whose files name their weights otherwise than the host does, and references whose titles change."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from lib_resize.base.checkpoint import Checkpoint
from lib_resize.base.weights import Partner
from lib_resize.errors import UnsupportedError
from lib_resize.hosts.forge import ForgeHost
from lib_resize.hosts.host import CheckpointFile, find_checkpoint, plain_title
from lib_resize.hosts.keys import host_key
from lib_resize.hosts.live import CACHE, OpenReference, open_reference
from lib_resize.hosts.live_checkpoint import FILE, MEMORY, LiveCheckpoint
from lib_resize.hosts.live_difference import LiveWeights
from lib_resize.linalg.arrays import NumpyArrays
from lib_resize.progress import Quiet
from tests.hosts.standins import WebUI, add_backend, tree

WIDTH = 32
NAMES = [
    f"double_blocks.{n}.{side}_{name}.weight"
    for n in range(2)
    for side in ("img", "txt")
    for name in ("attn.proj", "mlp.0")
]
PREFIXES = ["", "model.diffusion_model.", "diffusion_model.", "transformer.", "net.", "some.model."]


def transformer_file(path: Path, prefix: str) -> Path:
    chance = np.random.default_rng(5)
    rows = {name: 4 * WIDTH if "mlp" in name else WIDTH for name in NAMES}
    save_file({prefix + n: chance.standard_normal((rows[n], WIDTH)).astype(np.float32) for n in NAMES}, path)
    return path


def loaded(tmp_path: Path, monkeypatch: Any, path: Path, prefix: str, edit: str | None = None) -> ForgeHost:
    """A host that loaded the file, with any prefix, and keeps the model under ``diffusion_model``."""
    held = {key.removeprefix(prefix): torch.from_numpy(values) for key, values in load_file(path).items()}
    if edit is not None:
        held[edit] = held[edit] + 0.05 * torch.outer(torch.arange(len(held[edit])), torch.ones(WIDTH)) / WIDTH
    unet = torch.nn.Module()
    unet.diffusion_model = tree(held)
    return host_of(tmp_path, monkeypatch, path, unet)


def host_of(tmp_path: Path, monkeypatch: Any, path: Path, unet: torch.nn.Module) -> ForgeHost:
    objects = SimpleNamespace(unet=SimpleNamespace(model=unet, backup={}), clip=None)
    info = SimpleNamespace(filename=str(path), title=f"{path.name} [abc]")
    model = SimpleNamespace(forge_objects=objects, forge_objects_original=objects, sd_checkpoint_info=info)
    webui = WebUI(tmp_path, model)
    add_backend(webui)
    webui.install(monkeypatch)
    return ForgeHost()


def measured(checkpoint: Checkpoint) -> dict[str, float]:
    partners = {name: Partner((weight,)) for name, weight in checkpoint.weights.items()}
    with ThreadPoolExecutor(1) as pool:
        norms = checkpoint.norms(partners.values(), spectral=False, arrays=NumpyArrays(), pool=pool, progress=Quiet())
    return {name: norms[one][0] for name, one in partners.items()}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_memory_is_read_for_every_prefix_of_the_file(prefix: str, tmp_path: Path, monkeypatch: Any) -> None:
    path = transformer_file(tmp_path / "flux.safetensors", prefix)
    host = loaded(tmp_path, monkeypatch, path, prefix)
    with closing(LiveCheckpoint(host, host.loaded())) as live:  # type: ignore[arg-type]
        found = measured(live)
        assert live.source == MEMORY, live.notes
        assert live.notes == []
    assert sorted(found.values()) == pytest.approx(sorted(map(np.linalg.norm, load_file(path).values())), rel=1e-5)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_an_edit_in_memory_is_found_for_every_prefix_of_the_file(prefix: str, tmp_path: Path, monkeypatch: Any) -> None:
    path = transformer_file(tmp_path / "flux.safetensors", prefix)
    host = loaded(tmp_path, monkeypatch, path, prefix, edit=NAMES[0])
    with closing(Checkpoint(path)) as base:
        live = LiveWeights(host, host.loaded(), base)  # type: ignore[arg-type]
        assert live.weights.keys() == base.weights.keys()
        differs = [
            weight.key
            for weight in live.weights.values()
            if not np.array_equal(live.matrix(weight).bits, base.matrix(weight).bits)
        ]
    assert differs == [prefix + NAMES[0]]


@pytest.mark.parametrize("kept", [0, 3, 4])
def test_a_memory_of_other_names_is_not_compared(kept: int, tmp_path: Path, monkeypatch: Any) -> None:
    """Up to half of the layers are found: too few to decide that a model does not differ."""
    path = transformer_file(tmp_path / "flux.safetensors", "")
    values = list(load_file(path).items())
    unet = torch.nn.Module()
    unet.diffusion_model = tree(
        {name if i < kept else f"other.{name}": torch.from_numpy(value) for i, (name, value) in enumerate(values)}
    )
    host = host_of(tmp_path, monkeypatch, path, unet)
    with closing(Checkpoint(path)) as base, pytest.raises(UnsupportedError, match=f"{kept} of its 8 layers were found"):
        LiveWeights(host, host.loaded(), base)  # type: ignore[arg-type]


def test_norms_from_the_cache_are_not_reported_as_the_memorys(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("RESIZE_LORA_CACHE", str(tmp_path / "cache"))
    path = transformer_file(tmp_path / "flux.safetensors", "")
    host = loaded(tmp_path, monkeypatch, path, "")
    kinds = []
    for _ in range(2):
        reference = open_reference(host)
        assert reference.kind == MEMORY, "nothing was asked for yet"
        assert reference.checkpoint is not None
        measured(reference.checkpoint)
        kinds.append(reference.kind)
        reference.checkpoint.whole(Partner((next(iter(reference.checkpoint.weights.values())),)))
        kinds.append(reference.kind)
        reference.close()
    assert kinds == [MEMORY, MEMORY, CACHE, MEMORY]


def test_the_device_is_the_one_that_computed(tmp_path: Path, monkeypatch: Any) -> None:
    path = transformer_file(tmp_path / "flux.safetensors", "")
    host = loaded(tmp_path, monkeypatch, path, "")
    monkeypatch.setattr(host, "device", lambda: "cuda:0")
    reference = open_reference(host)
    live = reference.checkpoint
    assert isinstance(live, LiveCheckpoint)
    assert reference.device == "cuda:0"
    live._leave_memory("a test wants it")
    assert (reference.kind, reference.device) == (FILE, "cpu")
    reference.close()
    assert OpenReference().device == "cpu"


def test_a_loaded_gguf_is_read_from_its_file(tmp_path: Path, monkeypatch: Any) -> None:
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "flux.gguf"
    values = load_file(transformer_file(tmp_path / "flux.safetensors", ""))
    writer = gguf.GGUFWriter(str(path), "flux")
    for name, value in values.items():
        packed = gguf.quants.quantize(value, gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    unet = torch.nn.Module()
    unet.diffusion_model = tree({name: torch.from_numpy(value) for name, value in values.items()})
    for parameter in unet.parameters():
        parameter.gguf_cls = "Q8_0"  # type: ignore[attr-defined]
    reference = open_reference(host_of(tmp_path, monkeypatch, path, unet))
    assert reference.kind == FILE
    assert "GGUF" in reference.note
    assert reference.checkpoint is not None
    found = measured(reference.checkpoint)
    assert sorted(found.values()) == pytest.approx(sorted(map(np.linalg.norm, values.values())), rel=1e-2)
    reference.close()


@pytest.mark.parametrize(
    ("key", "prefix", "usual"),
    [
        ("double_blocks.0.x.weight", "", "model.diffusion_model.double_blocks.0.x.weight"),
        ("net.blocks.0.x.weight", "net.", "model.diffusion_model.blocks.0.x.weight"),
        ("model.diffusion_model.x.weight", "", "model.diffusion_model.x.weight"),
        ("conditioner.embedders.0.transformer.x.weight", "", "conditioner.embedders.0.transformer.x.weight"),
    ],
)
def test_hosts_are_asked_by_usual_keys(key: str, prefix: str, usual: str) -> None:
    assert host_key(key, prefix) == usual


LISTED = [
    CheckpointFile(title, Path(f"/models/{i}")) for i, title in enumerate(["a.safetensors [0123abcdef]", "b [x]"])
]


def test_a_title_is_found_after_the_host_has_put_a_hash_behind_it() -> None:
    assert find_checkpoint(LISTED, "a.safetensors") == LISTED[0]
    assert find_checkpoint(LISTED, "a.safetensors [0123abcdef]") == LISTED[0]
    assert find_checkpoint(LISTED, "a.safetensors [ffff]") == LISTED[0]
    assert find_checkpoint(LISTED, "b") is None
    assert find_checkpoint(LISTED, "b [x]") == LISTED[1]
    assert (
        find_checkpoint([*LISTED, CheckpointFile("a.safetensors [99]", Path("/models/other"))], "a.safetensors") is None
    )
    assert plain_title("[abc]") == "[abc]"
