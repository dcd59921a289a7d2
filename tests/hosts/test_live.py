"""The loaded model as a base: the command line's numbers, in good manners, and never believed without a look."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file, save_file

from lib_resize.adapters.read.adapter import read_adapter
from lib_resize.base.checkpoint import Checkpoint
from lib_resize.engine.analysing import analyse
from lib_resize.engine.runtime import cpu_runtime
from lib_resize.errors import Cancelled, FileError, UnsupportedError
from lib_resize.files.reader import SafeFile
from lib_resize.files.user_cache import cache_folder
from lib_resize.hosts.a1111 import A1111Host
from lib_resize.hosts.forge import ForgeHost
from lib_resize.hosts.host import Host, LoadedModel
from lib_resize.hosts.live import open_reference
from lib_resize.hosts.live_checkpoint import FILE, MEMORY, LiveCheckpoint, MemoryOnlyCheckpoint
from lib_resize.linalg.arrays import TorchArrays
from lib_resize.progress import Quiet
from lib_resize.recipe.grammar import parse_recipe
from tests.hosts.fake import FakeHost
from tests.hosts.standins import (
    FakeInitialModel,
    WebUI,
    a1111_fp8,
    a1111_merge,
    a1111_model,
    add_backend,
    each_weight,
    fix_out_proj,
    forge_merge,
    forge_model,
    tensors_of,
)

FRO = "fro_ckpt=1,thr=-1"
Play = Callable[[Any], Any]


def a1111(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Any) -> A1111Host:
    WebUI(tmp_path, model).install(monkeypatch)
    return A1111Host()


def forge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Any) -> ForgeHost:
    webui = WebUI(tmp_path, model)
    add_backend(webui)
    webui.install(monkeypatch)
    return ForgeHost()


def loaded_by(host: Host) -> LoadedModel:
    loaded = host.loaded()
    assert loaded is not None
    return loaded


def live_base(host: Host) -> LiveCheckpoint:
    return LiveCheckpoint(host, loaded_by(host))


def facts(checkpoint: Checkpoint, lora: Path, recipe: str = "spn_ckpt=1,thr=-1", progress: Any = None) -> list[Any]:
    with cpu_runtime(progress or Quiet(), 2) as runtime, SafeFile(lora) as file:
        found = analyse(read_adapter(file), checkpoint, [parse_recipe(recipe)], runtime)
    return [layer.base for layer in found.layers]


@pytest.fixture(scope="module")
def norms(checkpoint: Path, lora: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What the command line finds, remembered elsewhere."""
    base = Checkpoint(checkpoint)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESIZE_LORA_CACHE", str(tmp_path_factory.mktemp("command line")))
        found = facts(base, lora)
    base.close()
    return found


def _fro(found: list[Any]) -> list[Any]:
    return [base and base.fro for base in found]


@pytest.fixture(autouse=True)
def _forgetful(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESIZE_LORA_CACHE", str(tmp_path / "norms"))


def a1111_plain(path: Path) -> Any:
    return a1111_model(path)


def a1111_merged(path: Path) -> Any:
    model = a1111_model(path)
    a1111_merge(model)
    fix_out_proj(model)
    return model


def a1111_exact_fp8(path: Path) -> Any:
    model = a1111_model(path)
    a1111_fp8(model, keep_exact=True)
    return model


def forge_merged(path: Path) -> Any:
    model = forge_model(path)
    forge_merge(model)
    return model


def forge_with_patcher_backup(path: Path) -> Any:
    model = forge_model(path, loaders=False)
    forge_merge(model, where="patcher")
    return model


GOOD = [
    (a1111, a1111_plain),
    (a1111, a1111_merged),
    (a1111, a1111_exact_fp8),
    (forge, forge_model),
    (forge, forge_merged),
    (forge, forge_with_patcher_backup),
]


@pytest.mark.parametrize(("start", "play"), GOOD, ids=lambda one: one.__name__)
def test_norms_from_memory_are_the_command_lines(
    start: Any, play: Play, checkpoint: Path, lora: Path, norms: list[Any], tmp_path: Path, monkeypatch: Any
) -> None:
    host = start(tmp_path, monkeypatch, play(checkpoint))
    live = live_base(host)
    found = facts(live, lora)
    assert (live.source, live.notes) == (MEMORY, [])
    assert sum(one is not None for one in norms) > 250
    for ours, theirs in zip(found, norms, strict=True):
        assert (ours is None) == (theirs is None)
        if theirs is not None:
            assert ours.fro == pytest.approx(theirs.fro, rel=1e-5)
            assert ours.spn == pytest.approx(theirs.spn, rel=1e-4)
    live.close()


@pytest.mark.parametrize(("start", "play"), GOOD, ids=lambda one: one.__name__)
def test_subspace_scores_come_from_memory_too(
    start: Any, play: Play, checkpoint: Path, lora: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    host = start(tmp_path, monkeypatch, play(checkpoint))
    live, file = live_base(host), Checkpoint(checkpoint)
    ours, theirs = (facts(base, lora, "subspace=1,thr=-1") for base in (live, file))
    assert live.source == MEMORY
    for mine, own in zip(ours, theirs, strict=True):
        if own is not None:
            assert mine.subspace == pytest.approx(own.subspace, rel=1e-4, abs=1e-7)
    live.close()
    file.close()


# What is remembered -----------------------------------------------------------------------------------------


def test_a_second_resize_touches_no_weights(checkpoint: Path, lora: Path, tmp_path: Path, monkeypatch: Any) -> None:
    host = a1111(tmp_path, monkeypatch, a1111_model(checkpoint))
    first = live_base(host)
    found = facts(first, lora)
    first.close()
    second = live_base(host)
    monkeypatch.setattr("lib_resize.hosts.a1111.A1111Model.weight", lambda *a: pytest.fail("a weight was read"))
    monkeypatch.setattr(host, "lock", lambda: pytest.fail("the lock was taken"))
    assert facts(second, lora) == found
    second.close()


def test_the_command_line_finds_the_norms_of_the_panel(
    checkpoint: Path, lora: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    host = a1111(tmp_path, monkeypatch, a1111_model(checkpoint))
    live, file = live_base(host), Checkpoint(checkpoint)
    found = facts(live, lora)
    monkeypatch.setattr(Checkpoint, "_measure", lambda *a: pytest.fail("computed again"))
    assert facts(file, lora) == found
    live.close()
    file.close()


def test_another_file_of_the_same_name_has_norms_of_its_own(
    checkpoint: Path, lora: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    copy = tmp_path / "same.safetensors"
    copy.write_bytes(checkpoint.read_bytes())
    host = a1111(tmp_path, monkeypatch, a1111_model(copy))
    first = live_base(host)
    before = facts(first, lora)
    first.close()
    save_file(
        {
            key: values + values if values.ndim > 1 and values.dtype.kind == "f" else values
            for key, values in load_file(copy).items()
        },
        copy,
    )
    host = a1111(tmp_path, monkeypatch, a1111_model(copy))
    second = live_base(host)
    after = facts(second, lora)
    second.close()
    pairs = [(old, new) for old, new in zip(before, after, strict=True) if old is not None]
    assert all(new.fro == pytest.approx(2 * old.fro, rel=1e-3) for old, new in pairs)


def test_nothing_is_remembered_of_a_job_that_was_stopped(
    checkpoint: Path, lora: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    class Stopped(Quiet):
        steps = 0

        def step(self, count: int = 1) -> None:
            self.steps += count
            if self.stage == "read base" and self.steps > 5:
                raise Cancelled("stop")

        def start(self, stage: str, total: int) -> None:
            self.stage, self.steps = stage, 0

    host = a1111(tmp_path, monkeypatch, a1111_model(checkpoint))
    live = live_base(host)
    with pytest.raises(Cancelled):
        facts(live, lora, progress=Stopped())
    assert host.busy() is None, "the lock was kept"
    live.close()


# Trust ------------------------------------------------------------------------------------------------------


def a1111_altered(path: Path) -> Any:
    """An extension has merged something for good, and made no backup."""
    tensors = {key: one + 0.01 if one.dim() > 1 else one for key, one in tensors_of(path).items()}
    return a1111_model(path, tensors)


def a1111_rounded_fp8(path: Path) -> Any:
    model = a1111_model(path)
    a1111_fp8(model, keep_exact=False)
    return model


def a1111_unnoticed(path: Path) -> Any:
    """8-bit values in a 16-bit dtype, as a cast in both directions makes them."""
    model = a1111_model(path)
    a1111_fp8(model, keep_exact=False)
    for root in (model.model.diffusion_model, *(one.wrapped for one in model.conditioner.embedders)):
        for module in root.modules():
            if getattr(module, "weight", None) is not None and module.weight.dtype == torch.float8_e4m3fn:
                module.weight = torch.nn.Parameter(module.weight.detach().half())
    return model


def a1111_another_shape(path: Path) -> Any:
    tensors = {key: one[..., :1] if "attn" in key and one.dim() > 1 else one for key, one in tensors_of(path).items()}
    return a1111_model(path, tensors)


def a1111_thrown_away(path: Path) -> Any:
    """With another config the old model is sent to the device meta."""
    model = a1111_model(path)
    for root in (model.model.diffusion_model, *(one.wrapped for one in model.conditioner.embedders)):
        root.to("meta")
    return model


def a1111_with_nan(path: Path) -> Any:
    model = a1111_model(path)
    with torch.no_grad():
        for parameter in model.model.diffusion_model.parameters():
            if parameter.dim() > 1:
                parameter.view(-1)[0] = torch.nan
    return model


def forge_fp8(path: Path) -> Any:
    model = forge_model(path)
    for parent, own, weight in each_weight(model):
        with torch.inference_mode():
            setattr(parent, own, torch.nn.Parameter(weight.to(torch.float8_e4m3fn), requires_grad=False))
    return model


def forge_scaled_fp8(path: Path) -> Any:
    model = forge_model(path)
    for parent, _, _ in each_weight(model):
        parent.scale_weight = torch.tensor(2.0)
    return model


def forge_gguf(path: Path) -> Any:
    """The shape is faked, the data are packed bytes."""
    model = forge_model(path)
    for _, _, weight in each_weight(model):
        weight.gguf_cls = "Q8_0"  # type: ignore[attr-defined]
    return model


def forge_bnb(path: Path) -> Any:
    model = forge_model(path)
    for _, _, weight in each_weight(model):
        weight.bnb_quantized = True  # type: ignore[attr-defined]
    return model


def forge_packed(path: Path) -> Any:
    """Bytes or 8-bit integers under names of their own."""
    model = forge_model(path)
    for parent, own, weight in each_weight(model):
        delattr(parent, own)
        parent.register_buffer("qweight", torch.zeros(weight.shape, dtype=torch.int8))
    return model


BAD = [
    (a1111, a1111_altered, "differs from the file"),
    (a1111, a1111_rounded_fp8, r"fp8 storage \(float8_e4m3fn\)"),
    (a1111, a1111_unnoticed, "differs from the file"),
    (a1111, a1111_another_shape, r"is \[.*, 1\] in memory, not"),
    (a1111, a1111_thrown_away, "no longer has this model"),
    (a1111, a1111_with_nan, "NaN or infinite values in memory"),
    (forge, forge_fp8, r"fp8 storage \(float8_e4m3fn\)"),
    (forge, forge_scaled_fp8, "scaled fp8"),
    (forge, forge_gguf, "GGUF"),
    (forge, forge_bnb, "bitsandbytes"),
    (forge, forge_packed, "int8 storage"),
]


@pytest.mark.parametrize(("start", "play", "reason"), BAD, ids=lambda one: getattr(one, "__name__", "-"))
def test_what_cannot_be_trusted_is_read_from_the_file_and_that_is_reported(
    start: Any,
    play: Play,
    reason: str,
    checkpoint: Path,
    lora: Path,
    norms: list[Any],
    tmp_path: Path,
    monkeypatch: Any,
) -> None:
    host = start(tmp_path, monkeypatch, play(checkpoint))
    live = live_base(host)
    assert _fro(facts(live, lora, FRO)) == _fro(norms)
    assert live.source == FILE
    assert len(live.notes) == 1
    assert re.search(reason, live.notes[0])
    assert live.notes[0].startswith(f"{checkpoint.name} is read from its file: ")
    live.close()


def test_a_model_that_is_swapped_meanwhile_is_noticed(
    checkpoint: Path, lora: Path, norms: list[Any], tmp_path: Path, monkeypatch: Any
) -> None:
    """A1111 reuses the same object for another checkpoint: the next weight read would be of another model."""
    model = a1111_model(checkpoint)
    host = a1111(tmp_path, monkeypatch, model)

    class Swap(Quiet):
        def step(self, count: int = 1) -> None:
            model.sd_checkpoint_info.filename = "/other.safetensors"

    live = live_base(host)
    assert _fro(facts(live, lora, FRO, Swap())) == _fro(norms)
    assert live.source == FILE
    live.close()


def test_a_lora_that_is_merged_meanwhile_changes_nothing(
    checkpoint: Path, lora: Path, norms: list[Any], tmp_path: Path, monkeypatch: Any
) -> None:
    model = forge_model(checkpoint)
    host = forge(tmp_path, monkeypatch, model)

    class Generation(Quiet):
        done = False

        def step(self, count: int = 1) -> None:
            if not self.done:
                self.done = True
                forge_merge(model)

    live = live_base(host)
    found = facts(live, lora, FRO, Generation())
    assert live.source == MEMORY
    assert _fro(found) == pytest.approx(_fro(norms), rel=1e-5)
    live.close()


def test_fewer_digits_in_memory_are_an_explanation(lora: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """A file of 32 bits, loaded as 16."""
    from lib_resize.demo.synthetic import write_checkpoint

    path = write_checkpoint(tmp_path / "wide.safetensors", dtype="F32")
    tensors = {key: one.half() for key, one in tensors_of(path).items()}
    host = a1111(tmp_path, monkeypatch, a1111_model(path, tensors))
    live, file = live_base(host), Checkpoint(path)
    found = facts(live, lora, FRO)
    assert live.source == MEMORY
    monkeypatch.setenv("RESIZE_LORA_CACHE", str(tmp_path / "other"))
    for ours, theirs in zip(found, facts(file, lora, FRO), strict=True):
        assert ours is None or ours.fro == pytest.approx(theirs.fro, rel=1e-4)
    live.close()
    file.close()


# Manners ----------------------------------------------------------------------------------------------------


def snapshot(model: Any) -> dict[str, torch.Tensor]:
    parts = {f"unet.{key}": one for key, one in model.model.diffusion_model.named_parameters()}
    for i, embedder in enumerate(model.conditioner.embedders):
        parts |= {f"{i}.{key}": one for key, one in embedder.wrapped.named_parameters()}
    return {key: one.detach().clone() for key, one in parts.items()}


def test_the_hosts_tensors_are_copied_and_never_written(checkpoint: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """A float32 parameter on the CPU is itself what `.float()` and `.cpu()` give back."""
    tensors = {key: one.float() for key, one in tensors_of(checkpoint).items()}
    model = a1111_model(checkpoint, tensors)
    host = a1111(tmp_path, monkeypatch, model)
    before, loaded = snapshot(model), loaded_by(host)
    for key in loaded.shapes():
        with torch.inference_mode():
            weight = loaded.weight(key)
            assert weight is not None
            weight.fill_(7.0)
    after = snapshot(model)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_forges_tensors_are_copied_and_never_written(checkpoint: Path, tmp_path: Path, monkeypatch: Any) -> None:
    tensors = {key: one.float() for key, one in tensors_of(checkpoint).items()}
    model = forge_model(checkpoint, tensors)
    host = forge(tmp_path, monkeypatch, model)
    loaded = loaded_by(host)
    with torch.inference_mode():
        before = {id(weight): weight.detach().clone() for _, _, weight in each_weight(model)}
        for key in tensors:
            if (held := loaded.weight(key)) is not None:
                held.fill_(7.0)
        assert all(torch.equal(before[id(weight)], weight) for _, _, weight in each_weight(model))


def test_the_lock_is_held_while_a_weight_is_read_and_let_go_after_each(
    checkpoint: Path, lora: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    webui = WebUI(tmp_path, a1111_model(checkpoint)).install(monkeypatch)
    host = A1111Host()
    read = type(loaded_by(host)).weight
    held = []

    def watched(self: Any, *asked: Any) -> Any:
        held.append(webui.lock._lock.locked() and torch.is_inference_mode_enabled())
        return read(self, *asked)

    monkeypatch.setattr("lib_resize.hosts.a1111.A1111Model.weight", watched)
    takings = []
    take = webui.lock.acquire

    def acquire(*asked: Any) -> Any:
        takings.append(1)
        return take(*asked)

    monkeypatch.setattr(webui.lock, "acquire", acquire)
    live = live_base(host)
    facts(live, lora, FRO)
    assert all(held)
    assert len(takings) == len(held) > 250
    live.close()


def test_reading_waits_for_a_generation_and_then_goes_on(
    checkpoint: Path, lora: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    webui = WebUI(tmp_path, a1111_model(checkpoint)).install(monkeypatch)
    host = A1111Host()
    live = live_base(host)
    done = threading.Event()
    webui.lock.acquire()

    def work() -> None:
        facts(live, lora, FRO)
        done.set()

    worker = threading.Thread(target=work)
    worker.start()
    assert not done.wait(0.3)
    assert host.busy() is not None
    webui.lock.release()
    assert done.wait(60)
    worker.join()
    live.close()


def test_whoever_holds_the_lock_may_analyse(checkpoint: Path, lora: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Other threads of the extension read weights then; a lock that is not re-entrant would wait for itself."""
    host = a1111(tmp_path, monkeypatch, a1111_model(checkpoint))
    live = live_base(host)
    with host.lock():
        found = facts(live, lora, "subspace=1,thr=-1")
    assert found
    assert host.busy() is None
    live.close()


# Devices ----------------------------------------------------------------------------------------------------


def on_a_device(host: Any, monkeypatch: Any, failure: Exception | None) -> list[str]:
    """The host computes on "cpu:0", which is not "cpu", so that the device's way is taken."""
    asked: list[str] = []
    monkeypatch.setattr(host, "device", lambda: "cpu:0")
    read = type(loaded_by(host)).weight

    def weight(self: Any, key: str, rows: Any = None, device: str | None = None) -> Any:
        asked.append(device or "")
        if failure is not None and device == "cpu:0" and len(asked) > 10:
            raise failure
        return read(self, key, rows, device)

    monkeypatch.setattr(type(loaded_by(host)), "weight", weight)
    return asked


def test_norms_are_computed_on_the_hosts_device(
    checkpoint: Path, lora: Path, norms: list[Any], tmp_path: Path, monkeypatch: Any
) -> None:
    host = forge(tmp_path, monkeypatch, forge_merged(checkpoint))
    asked = on_a_device(host, monkeypatch, None)
    live = live_base(host)
    found = facts(live, lora)
    assert set(asked) == {"cpu:0"}
    assert (live.source, live.device, live.notes) == (MEMORY, "cpu:0", [])
    for ours, theirs in zip(found, norms, strict=True):
        if theirs is not None:
            assert ours.fro == pytest.approx(theirs.fro, rel=1e-5)
            assert ours.spn == pytest.approx(theirs.spn, rel=1e-4)
    live.close()


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "ran out of memory"),
        (RuntimeError("Could not allocate tensor: not enough GPU video memory"), "ran out of memory"),
        (NotImplementedError("The operator 'aten::dot' is not there"), "failed (The operator"),
    ],
)
def test_where_the_device_fails_the_cpu_finishes_and_reports_it(
    failure: Exception, said: str, checkpoint: Path, lora: Path, norms: list[Any], tmp_path: Path, monkeypatch: Any
) -> None:
    host = a1111(tmp_path, monkeypatch, a1111_model(checkpoint))
    asked = on_a_device(host, monkeypatch, failure)
    live = live_base(host)
    found = facts(live, lora, FRO)
    assert live.source == MEMORY
    assert live.device == "cpu"
    assert len(live.notes) == 1
    assert said in live.notes[0]
    assert asked[:11] == ["cpu:0"] * 11
    assert set(asked[11:]) == {"cpu"}, "the device was tried again"
    assert _fro(found) == pytest.approx(_fro(norms), rel=1e-5)
    assert host.busy() is None
    live.close()


def test_a_weight_too_large_for_the_room_is_left_to_the_cpu(
    checkpoint: Path, lora: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    host = a1111(tmp_path, monkeypatch, a1111_model(checkpoint))
    asked = on_a_device(host, monkeypatch, None)
    monkeypatch.setattr("lib_resize.hosts.memory_norms._LARGEST_COPY", 8000)
    live = live_base(host)
    facts(live, lora, FRO)
    assert set(asked) == {"cpu", "cpu:0"}
    assert (live.device, live.notes) == ("cpu:0", [])
    live.close()


def test_room_is_asked_for_before_and_given_back_after(
    checkpoint: Path, lora: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    webui = WebUI(tmp_path, forge_model(checkpoint))
    backend: Any = add_backend(webui, "cuda:0")
    backend.free_memory = lambda amount, device: webui.calls.append((amount, webui.lock._lock.locked()))
    webui.install(monkeypatch)
    host = ForgeHost()
    assert host.device() == "cuda:0"
    monkeypatch.setattr(type(loaded_by(host)), "weight", _on_cpu(type(loaded_by(host)).weight))
    monkeypatch.setattr("lib_resize.hosts.memory_norms.TorchArrays", lambda device: TorchArrays("cpu"))
    live = live_base(host)
    facts(live, lora)
    assert webui.calls == [(256 << 20, True), "empty cache"]
    live.close()


def _on_cpu(read: Any) -> Any:
    return lambda self, key, rows=None, device=None: read(self, key, rows, "cpu")


# What to take as reference ----------------------------------------------------------------------------------


def test_before_the_first_image_the_selected_file_is_read(checkpoint: Path, tmp_path: Path, monkeypatch: Any) -> None:
    host = forge(tmp_path, monkeypatch, FakeInitialModel())
    info = SimpleNamespace(title="small [abc]", filename=str(checkpoint))
    models = sys.modules["modules.sd_models"]
    models.checkpoints_list["small [abc]"] = info
    models.model_data.forge_loading_parameters = {"checkpoint_info": info}
    assert host.loaded() is None
    reference = open_reference(host)
    assert (reference.kind, reference.title) == (FILE, "small [abc]")
    assert "selected but not in memory" in reference.note
    reference.close()


def test_selected_is_not_loaded(checkpoint: Path, tmp_path: Path, monkeypatch: Any) -> None:
    host = forge(tmp_path, monkeypatch, forge_model(checkpoint))
    data = sys.modules["modules.sd_models"].model_data
    data.forge_loading_parameters = {"checkpoint_info": SimpleNamespace(title="next", filename="/next.safetensors")}
    reference = open_reference(host)
    assert reference.kind == MEMORY
    assert reference.checkpoint is not None
    assert reference.checkpoint.path == checkpoint
    assert "next is selected, but the model in memory is still the previous one" in reference.note
    reference.close()


def test_a_listed_checkpoint_none_and_an_unknown_one(checkpoint: Path, tmp_path: Path) -> None:
    host = FakeHost([tmp_path], [checkpoint])
    picked = open_reference(host, checkpoint.name)
    assert picked.checkpoint is not None
    assert (picked.kind, picked.checkpoint.path) == (FILE, checkpoint)
    picked.close()
    assert open_reference(host, "none").kind == "none"
    with pytest.raises(FileError, match="no checkpoint of this title"):
        open_reference(host, "../../etc/passwd")
    assert open_reference(host).note == "No checkpoint is loaded."


def test_a_model_from_a_pickle_is_believed_and_that_is_reported(
    checkpoint: Path, lora: Path, norms: list[Any], tmp_path: Path, monkeypatch: Any
) -> None:
    model = a1111_merged(checkpoint)
    model.sd_checkpoint_info.filename = str(tmp_path / "old.ckpt")
    host = a1111(tmp_path, monkeypatch, model)
    reference = open_reference(host)
    assert isinstance(reference.checkpoint, MemoryOnlyCheckpoint)
    found = facts(reference.checkpoint, lora)
    assert _fro(found) == pytest.approx(_fro(norms), rel=1e-5)
    assert "the weights in memory are used as is" in reference.note
    assert not cache_folder().exists(), "what nobody checked must not be remembered"
    reference.close()


def test_a_quantised_model_without_a_file_is_refused(checkpoint: Path, tmp_path: Path, monkeypatch: Any) -> None:
    model = a1111_rounded_fp8(checkpoint)
    model.sd_checkpoint_info.filename = str(tmp_path / "gone.safetensors")
    with pytest.raises(UnsupportedError, match="Choose another reference"):
        open_reference(a1111(tmp_path, monkeypatch, model))
