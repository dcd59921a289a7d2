"""SD.Next's pipeline as a base: the command line's numbers from memory, or a reason and the file."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lib_resize.adapters.read.adapter import read_adapter
from lib_resize.base.checkpoint import Checkpoint
from lib_resize.demo.models import SMALL
from lib_resize.engine.analysing import analyse
from lib_resize.engine.runtime import cpu_runtime
from lib_resize.files.reader import SafeFile
from lib_resize.hosts.host import LoadedModel
from lib_resize.hosts.live import open_reference
from lib_resize.hosts.live_checkpoint import FILE, MEMORY, LiveCheckpoint
from lib_resize.hosts.sdnext import SdnextHost
from lib_resize.hosts.sdnext_parts import places_of
from lib_resize.panel.references import loaded_info
from lib_resize.progress import Quiet
from lib_resize.recipe.grammar import parse_recipe
from tests.hosts.sdnext_standin import Sdnext, pipeline_of_file, text_layers, unet_layers
from tests.hosts.standins import tensors_of

FUSED = "LoRAs that SD.Next merged into them"


def host_of(pipeline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SdnextHost:
    Sdnext(tmp_path, pipeline).install(monkeypatch)
    return SdnextHost()


def loaded_by(host: SdnextHost) -> LoadedModel:
    loaded = host.loaded()
    assert loaded is not None
    return loaded


def facts(checkpoint: Checkpoint, lora: Path) -> list[Any]:
    with cpu_runtime(Quiet(), 1) as runtime, SafeFile(lora) as file:
        found = analyse(read_adapter(file), checkpoint, [parse_recipe("fro_ckpt=1,thr=-1")], runtime)
    return [layer.base and layer.base.fro for layer in found.layers]


@pytest.fixture(autouse=True)
def _forgetful(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESIZE_LORA_CACHE", str(tmp_path / "norms"))


def plain(path: Path) -> Any:
    return pipeline_of_file(path, SMALL.unet)


def without_level(path: Path) -> Any:
    """As in transformers since 5.6."""
    return pipeline_of_file(path, SMALL.unet, level="")


def wrapped(path: Path) -> Any:
    """Some pipelines are inside of another one."""
    return SimpleNamespace(pipe=plain(path))


def with_copies(path: Path) -> Any:
    """LoRAs are merged, and the host has copies of the weights."""
    pipeline = plain(path)
    for layer in [*unet_layers(pipeline), *text_layers(pipeline)]:
        layer.network_weights_backup = layer.weight.detach().clone()
        layer.network_current_names = (("ink", 1.0, [1.0] * 3, None),)
        _shift(layer)
    return pipeline


def fused_once(path: Path) -> Any:
    """LoRAs were merged without copies, and are subtracted again."""
    pipeline = plain(path)
    for layer in unet_layers(pipeline):
        layer.network_weights_backup, layer.network_current_names = True, ()
    return pipeline


def with_adapters(path: Path) -> Any:
    """Adapters of peft around the layers."""
    pipeline = plain(path)
    for name, module in list(pipeline.unet.named_modules()):
        if name.endswith("to_q"):
            parent, _, own = name.rpartition(".")
            adapter: Any = nn.Module()
            adapter.base_layer, adapter.merged = module, False
            setattr(pipeline.unet.get_submodule(parent), own, adapter)
    return pipeline


def _shift(layer: Any) -> None:
    with torch.no_grad():
        layer.weight += 0.5


@pytest.mark.parametrize("play", [plain, without_level, wrapped, with_copies, fused_once, with_adapters])
def test_norms_from_memory_are_those_of_the_file(
    play: Any, checkpoint: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Checkpoint(checkpoint)
    expected = facts(base, lora)
    base.close()
    monkeypatch.setenv("RESIZE_LORA_CACHE", str(tmp_path / "others"))
    host = host_of(play(checkpoint), tmp_path, monkeypatch)
    live = LiveCheckpoint(host, loaded_by(host))
    found = facts(live, lora)
    assert (live.source, live.notes) == (MEMORY, [])
    assert None not in found
    assert found == pytest.approx(expected, rel=1e-4)
    live.close()


def test_every_weight_of_the_file_is_in_memory_with_its_numbers(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also q, k and v, which the file has in one tensor, and the projection, which it has transposed."""
    loaded = loaded_by(host_of(plain(checkpoint), tmp_path, monkeypatch))
    base, in_file = Checkpoint(checkpoint), tensors_of(checkpoint)
    assert len(base.weights) > 100
    for weight in base.weights.values():
        with torch.inference_mode():
            tensor = loaded.weight(weight.key, weight.rows, "cpu")
        assert tensor is not None, weight.key
        expected = in_file[weight.key] if weight.rows is None else in_file[weight.key][slice(*weight.rows)]
        assert torch.equal(tensor, expected.float()), weight.key
        assert loaded.dtype(weight.key) == "F16"
    base.close()


def test_a_lora_that_is_fused_without_a_copy_leaves_the_file(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record of a copy is the word True."""
    pipeline = fused_once(checkpoint)
    layer = unet_layers(pipeline)[20]
    layer.network_current_names = (("ink", 1.0, [1.0] * 3, None),)
    host = host_of(pipeline, tmp_path, monkeypatch)
    assert loaded_by(host).quantised() == FUSED
    live = LiveCheckpoint(host, loaded_by(host))
    assert live.source == FILE
    assert live.notes == [f"{checkpoint.name} is read from its file: in memory its weights are changed by {FUSED}."]
    assert loaded_info(host).kind == "file"
    live.close()


def test_a_lora_that_is_fused_later_is_not_read_with_the_weights(
    checkpoint: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = fused_once(checkpoint)
    host = host_of(pipeline, tmp_path, monkeypatch)
    live = LiveCheckpoint(host, loaded_by(host))
    for layer in unet_layers(pipeline):
        layer.network_current_names = (("ink", 1.0, [1.0] * 3, None),)
    facts(live, lora)
    assert live.source == FILE
    live.close()


def test_weights_that_drifted_after_a_fused_lora_are_found_by_their_sample(
    checkpoint: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host subtracts what it added, which rounds. It shows nothing of that."""
    pipeline = fused_once(checkpoint)
    for layer in unet_layers(pipeline):
        _shift(layer)
    host = host_of(pipeline, tmp_path, monkeypatch)
    assert loaded_by(host).quantised() is None
    live = LiveCheckpoint(host, loaded_by(host))
    facts(live, lora)
    assert live.source == FILE
    assert "differs from the file" in live.notes[0]
    live.close()


class TorchaoTensor(torch.nn.Parameter):
    """A tensor of a class of torchao."""


TorchaoTensor.__module__ = "torchao.dtypes.affine"


def sdnq(layer: Any) -> None:
    layer.sdnq_dequantizer = object()


def quanto(layer: Any) -> None:
    layer.qweight = object()


def torchao(layer: Any) -> None:
    layer.weight = TorchaoTensor(layer.weight.detach())


def bitsandbytes(layer: Any) -> None:
    layer.weight.quant_state = object()


def fp8(layer: Any) -> None:
    layer.weight = nn.Parameter(layer.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)


def merged_adapter(layer: Any) -> None:
    layer.merged = True


@pytest.mark.parametrize(
    ("pack", "word"),
    [
        (sdnq, "SDNQ quantisation"),
        (quanto, "quanto quantisation"),
        (torchao, "torchao quantisation"),
        (bitsandbytes, "bitsandbytes quantisation"),
        (fp8, "fp8 storage (float8_e4m3fn)"),
        (merged_adapter, FUSED),
    ],
)
@pytest.mark.parametrize("part", [unet_layers, text_layers])
def test_each_packing_is_refused_by_its_name(
    pack: Any, word: str, part: Any, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = plain(checkpoint)
    pack(part(pipeline)[-1])
    host = host_of(pipeline, tmp_path, monkeypatch)
    assert loaded_by(host).quantised() == word


def test_a_model_that_is_offloaded_to_the_meta_device_is_read_from_its_file(
    checkpoint: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = plain(checkpoint)
    pipeline.unet.to("meta")
    host = host_of(pipeline, tmp_path, monkeypatch)
    live = LiveCheckpoint(host, loaded_by(host))
    facts(live, lora)
    assert live.source == FILE
    live.close()


def test_the_keys_of_a_folder_are_the_pipelines_own_names(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = plain(checkpoint)
    pipeline.sd_checkpoint_info = SimpleNamespace(
        title="x", name="x", filename="Diffusers/x", path=str(tmp_path)
    )  # the name of a folder is no path
    loaded = loaded_by(host_of(pipeline, tmp_path, monkeypatch))
    assert loaded.path == tmp_path
    shapes = loaded.shapes()
    assert shapes["unet.conv_in.weight"] == tuple(pipeline.unet.conv_in.weight.shape)
    assert {"unet", "text_encoder", "text_encoder_2"} == {name.partition(".")[0] for name in shapes}
    with torch.inference_mode():
        assert all(tuple(loaded.weight(name, None, "cpu").shape) == shape for name, shape in shapes.items())  # type: ignore[union-attr]


def test_the_names_of_adapters_are_not_in_the_shapes(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = loaded_by(host_of(plain(checkpoint), tmp_path, monkeypatch)).shapes()
    pipeline = with_adapters(checkpoint)
    for module in pipeline.unet.modules():
        if hasattr(module, "base_layer"):
            module.lora_A = nn.ModuleDict({"ink": nn.Linear(4, 4)})
    assert loaded_by(host_of(pipeline, tmp_path, monkeypatch)).shapes() == expected


@pytest.mark.parametrize(
    ("kind", "width", "family"),
    [
        ("StableDiffusionXLPipeline", 96, "SDXL"),
        ("StableDiffusionPipeline", 768, "SD1.5"),
        ("StableDiffusionImg2ImgPipeline", 1024, "SD2"),
        ("StableDiffusion3Pipeline", 768, None),
        ("FluxPipeline", 768, None),
    ],
)
def test_the_family_is_read_from_the_class_of_the_pipeline(
    kind: str, width: int, family: str | None, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plain(checkpoint)
    made.unet.config.cross_attention_dim = width
    pipeline = type(kind, (), dict(vars(made)))()
    assert loaded_by(host_of(pipeline, tmp_path, monkeypatch)).family == family


@pytest.mark.parametrize("config", ["of another kind", SimpleNamespace(block_out_channels=[8], down_block_types=[])])
def test_a_unet_of_another_kind_has_no_weight_under_the_names_of_a_file(
    config: Any, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = plain(checkpoint)
    pipeline.unet.config = config
    loaded = loaded_by(host_of(pipeline, tmp_path, monkeypatch))
    assert loaded.dtype("model.diffusion_model.input_blocks.0.0.weight") == ""
    assert loaded.dtype("unet.conv_in.weight") != ""


def test_asking_for_the_model_never_loads_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = host_of(None, tmp_path, monkeypatch)
    assert host.loaded() is None
    assert open_reference(host).kind == "none"


def test_what_is_no_pipeline_of_torch_modules_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO and ONNX have other objects in the place of modules."""
    info = SimpleNamespace(title="x", name="x", filename="x", path="x")
    host = host_of(SimpleNamespace(unet=object(), sd_checkpoint_info=info), tmp_path, monkeypatch)
    assert host.loaded() is None


def test_another_model_in_memory_has_no_weight_for_the_old_one_and_a_new_hash_changes_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = plain(checkpoint)
    loaded = loaded_by(host_of(pipeline, tmp_path, monkeypatch))
    key = "model.diffusion_model.input_blocks.0.0.weight"
    pipeline.sd_checkpoint_info.title = "another title [0abc]"
    assert loaded.dtype(key) != ""
    pipeline.sd_checkpoint_info = SimpleNamespace(title="y", name="y", filename="y", path="y")
    assert loaded.dtype(key) == ""


def test_the_model_is_unchanged_after_all_was_read(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = with_copies(checkpoint)
    before = {name: value.clone() for name, value in pipeline.unet.state_dict().items()}
    loaded = loaded_by(host_of(pipeline, tmp_path, monkeypatch))
    with torch.inference_mode():
        for key in loaded.shapes():
            tensor = loaded.weight(key, None, "cpu")
            assert tensor is not None
            tensor.zero_()
    assert all(torch.equal(value, before[name]) for name, value in pipeline.unet.state_dict().items())


def test_other_sizes_of_a_unet_have_their_own_names(checkpoint: Path) -> None:
    """The number of levels and of transformer blocks decides on the names."""
    pipeline = plain(checkpoint)
    pipeline.unet.config = SimpleNamespace(
        block_out_channels=[32, 64, 128, 128],
        down_block_types=["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        transformer_layers_per_block=1,
        layers_per_block=2,
    )
    (place,) = places_of(pipeline, "model.diffusion_model.output_blocks.11.1.proj_in.weight")
    assert place.key == "unet.up_blocks.3.attentions.2.proj_in.weight"
