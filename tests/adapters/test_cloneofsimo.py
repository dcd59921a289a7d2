"""cloneofsimo's numbered layers get the names that they had when they were trained."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from lib_resize.adapters.forms.form import Form
from lib_resize.adapters.forms.lora import LowRank
from lib_resize.adapters.read.adapter import read_adapter
from lib_resize.adapters.read.cloneofsimo import with_kohya_names
from lib_resize.adapters.write.style import Style
from lib_resize.engine.batch import resize
from lib_resize.engine.settings import Settings
from lib_resize.errors import DamagedFileError, UnsupportedError
from lib_resize.files.reader import SafeFile
from lib_resize.linalg.casts import singles
from lib_resize.names.cloneofsimo import layer_orders
from lib_resize.names.families import SD2, SD15
from lib_resize.prompts.sources import expand
from lib_resize.recipe.grammar import parse_recipes

DATA = Path(os.environ.get("RESIZE_LORA_TRAINED") or Path(__file__).parents[2].parent / "shared" / "data")
TRAINED = [("cloneofsimo_analog_svd_rank4", "sd15_analog_rank4"), ("cloneofsimo_lora_disney", "sd15_disney_rank1")]
DEFAULT = ("CrossAttention", "Attention", "GEGLU")


def low_rank(form: Form) -> LowRank:
    assert isinstance(form, LowRank)
    return form


def made(path: Path, classes: tuple[str, ...] = DEFAULT, choice: int = 0, texts: int | None = 0, **changes) -> Path:
    """A file of this order of the UNet and of the text encoder, rank 2, every number its own."""
    rng = np.random.default_rng(0)
    tensors = {"<s1>": rng.standard_normal(8).astype(np.float32)}
    parts = {"unet": list(layer_orders("unet", classes))[choice]}
    if texts is not None:
        parts["text_encoder"] = list(layer_orders("text_encoder", ["CLIPAttention"]))[texts]
    metadata = {"<s1>": "<embed>", "unet": json.dumps(classes), "text_encoder": '["CLIPAttention"]'}
    for component, order in parts.items():
        for number, (_, (rows, columns)) in enumerate(order):
            tensors[f"{component}:{number}:up"] = rng.standard_normal((rows, 2)).astype(np.float16)
            tensors[f"{component}:{number}:down"] = rng.standard_normal((2, columns)).astype(np.float16)
            metadata[f"{component}:{number}:rank"] = "2"
    save_file(tensors | changes.get("tensors", {}), path, {**metadata, **changes.get("metadata", {})})
    return path


def numbers(file: SafeFile, key: str) -> np.ndarray:
    return singles(file.bits(key), file.header.entries[key].dtype)


def test_the_default_classes_of_sd15_have_144_layers_in_their_order() -> None:
    order = next(layer_orders("unet", DEFAULT))
    names = [name.removeprefix("lora_unet_") for name, _ in order]
    block = "down_blocks_0_attentions_0_transformer_blocks_0_"
    assert len(names) == 144
    assert names[:9] == [
        block + part
        for part in ("attn1_to_q", "attn1_to_k", "attn1_to_v", "attn1_to_out_0", "ff_net_0_proj",
                     "attn2_to_q", "attn2_to_k", "attn2_to_v", "attn2_to_out_0")
    ]  # fmt: skip
    assert names[54].startswith("up_blocks_1_attentions_0")
    assert all(name.startswith("mid_block") for name in names[-9:])
    assert [size for _, size in order[:9]] == [(320, 320)] * 4 + [(2560, 320), (320, 320)] + [(320, 768)] * 2 + [
        (320, 320)
    ]


def test_the_order_of_today_has_the_feed_forward_last() -> None:
    today = list(layer_orders("unet", DEFAULT))[1]
    assert [name.rpartition("transformer_blocks_0_")[2] for name, _ in today[4:9]] == [
        "attn2_to_q", "attn2_to_k", "attn2_to_v", "attn2_to_out_0", "ff_net_0_proj",
    ]  # fmt: skip


def test_the_text_encoder_has_k_v_q_out() -> None:
    order = next(layer_orders("text_encoder", ["CLIPAttention"]))
    assert [name for name, _ in order[4:8]] == [
        f"lora_te_text_model_encoder_layers_1_self_attn_{part}_proj" for part in ("k", "v", "q", "out")
    ]


@pytest.mark.parametrize(("choice", "family"), [(0, SD15), (1, SD15), (2, SD2), (3, SD2)])
def test_shapes_determine_the_order_and_the_family(choice: int, family, tmp_path: Path) -> None:
    texts = 0 if family == SD15 else 1
    with SafeFile(made(tmp_path / "x.safetensors", choice=choice, texts=texts)) as file:
        adapter = read_adapter(file)
        assert adapter.family == family
        wanted = [name for name, _ in list(layer_orders("unet", DEFAULT))[choice]]
        wanted += [name for name, _ in list(layer_orders("text_encoder", ["CLIPAttention"]))[texts]]
        found = {layer.stem: low_rank(layer.form).pair for layer in adapter.layers}
        assert found.keys() == set(wanted)
        for number, name in enumerate(wanted[:144]):
            np.testing.assert_array_equal(found[name].up.bits, file.bits(f"unet:{number}:up"))
            np.testing.assert_array_equal(found[name].down.bits, file.bits(f"unet:{number}:down"))


def test_residual_blocks_follow_the_attentions_of_their_block(tmp_path: Path) -> None:
    classes = (*DEFAULT, "ResnetBlock2D")
    order = next(layer_orders("unet", classes))
    names = [name for name, _ in order]
    assert len(names) == 144 + 22 * 3 + 14
    first = names.index("lora_unet_down_blocks_0_resnets_0_conv1")
    assert names[first - 1].startswith("lora_unet_down_blocks_0_attentions_1")
    assert names[first + 1].endswith("resnets_0_time_emb_proj")
    with SafeFile(made(tmp_path / "x.safetensors", classes)) as file:
        assert len(read_adapter(file).layers) == len(names) + 48


def test_what_is_written_loads_everywhere_and_keeps_the_tokens(tmp_path: Path) -> None:
    path = made(tmp_path / "x.safetensors")
    settings = Settings(recipes=parse_recipes("rank=2"), output=tmp_path / "out", style=Style(dtype=None))
    (outcome,) = resize(expand([str(path)]), settings)
    assert outcome.error is None
    assert outcome.plan is not None
    assert any("numbers in place of names" in note for note in outcome.plan.notes)
    with SafeFile(Path(outcome.plan.output)) as new, SafeFile(path) as old:
        assert new.bytes("<s1>") == old.bytes("<s1>")
        keys = set(new.header.entries) - {"<s1>"}
        assert all(key.startswith(("lora_unet_down", "lora_unet_up", "lora_unet_mid", "lora_te_")) for key in keys)
        name = next(layer_orders("unet", DEFAULT))[7][0]
        assert new.scalar(f"{name}.alpha") == 2
        written = numbers(new, f"{name}.lora_up.weight") @ numbers(new, f"{name}.lora_down.weight")
        trained = numbers(old, "unet:7:up") @ numbers(old, "unet:7:down")
        np.testing.assert_allclose(written, trained, atol=0.03)
        assert new.header.metadata["ss_base_model_version"] == "sd_v1"
        assert not [key for key in new.header.metadata if key.startswith(("unet", "text_encoder"))]
        assert new.header.metadata["<s1>"] == "<embed>"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"metadata": {"unet": '["MyAttention"]'}}, UnsupportedError, "MyAttention"),
        ({"metadata": {"unet": "3"}}, UnsupportedError, "a list of classes was expected"),
        ({"metadata": {"unet": '["GEGLU"]'}}, UnsupportedError, "in no known order"),
        ({"tensors": {"unet:144:up": np.ones((4, 2), np.float16)}}, DamagedFileError, "unet:144 has no down"),
        ({"tensors": {"unet:3:up": np.ones((4, 2), np.float16)}}, UnsupportedError, "in no known order"),
    ],
)
def test_what_has_no_known_order_is_refused(changes, error, message: str, tmp_path: Path) -> None:
    with SafeFile(made(tmp_path / "x.safetensors", **changes)) as file, pytest.raises(error, match=message):
        read_adapter(file)


def test_without_metadata_the_default_is_tried(tmp_path: Path) -> None:
    path = made(tmp_path / "x.safetensors", metadata={"unet": "", "text_encoder": ""})
    with SafeFile(path) as file:
        assert len(read_adapter(file).layers) == 192


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    save_file({"unet:x:up": np.ones(1, np.float32)}, tmp_path / "x.safetensors")
    with SafeFile(tmp_path / "x.safetensors") as file:
        assert with_kohya_names(file) is file


@pytest.mark.skipif(not DATA.is_dir(), reason="the trained files are not there")
@pytest.mark.parametrize(("numbered", "kohya"), TRAINED)
def test_trained_files_become_the_kohya_files_next_to_them(numbered: str, kohya: str) -> None:
    with SafeFile(DATA / f"{numbered}.safetensors") as file, SafeFile(DATA / f"{kohya}.safetensors") as truth:
        found = {layer.stem: layer for layer in read_adapter(file).layers}
        wanted = {layer.stem: layer for layer in read_adapter(truth).layers}
        assert found.keys() == wanted.keys()
        for name, layer in wanted.items():
            ours, true = low_rank(found[name].form).pair, low_rank(layer.form).pair
            assert ours.scale == true.scale == 1.0
            for a, b in ((ours.up, true.up), (ours.down, true.down)):
                first, second = (singles(one.bits, one.kind).astype(np.float16) for one in (a, b))
                np.testing.assert_array_equal(first, second, err_msg=name)
