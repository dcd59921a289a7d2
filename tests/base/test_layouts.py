"""One model in all layouts of checkpoints: a layer finds the same numbers in each."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from lib_resize.base.checkpoint import Checkpoint
from lib_resize.base.gguf_store import GgufStore
from lib_resize.base.model_index import read_base
from lib_resize.base.pairing import partner
from lib_resize.base.weights import BaseWeight, Partner
from lib_resize.engine.batch import resize
from lib_resize.engine.settings import Settings
from lib_resize.errors import DamagedFileError
from lib_resize.linalg.arrays import NumpyArrays
from lib_resize.linalg.casts import doubles
from lib_resize.names.families import CHROMA, FAMILIES, FLUX, LUMINA2, PIXART, SD3
from lib_resize.names.family import Family, LayerName, layers
from lib_resize.names.identify import canonical_id
from lib_resize.progress import Quiet
from lib_resize.prompts.sources import expand
from lib_resize.recipe.grammar import parse_recipes
from tests.material import plan_of

TRANSFORMERS = {family.name: family for family in reversed(FAMILIES) if "input_blocks" not in family.roots[0]}
family_cases = pytest.mark.parametrize("family", TRANSFORMERS.values(), ids=TRANSFORMERS)
COLUMNS = 3


def rows_of(family: Family) -> list[LayerName]:
    """The first blocks of every kind, and everything outside of blocks."""
    found = [row for row in layers(family).values() if row.component == "unet"]
    return [row for row in found if not row.block[-2:].isdigit() or int(row.block[-2:]) < 2]


def native(family: Family) -> dict[str, np.ndarray]:
    """A single file in small: as many rows as the real one has sixteenths, three columns, and numbers of their own."""
    rng = np.random.default_rng(7)
    found = {}
    for row in rows_of(family):
        if row.whole is None:
            rows = max(1, row.shape[0] // 16) if row.shape[0] % 16 == 0 else row.shape[0]
            key = f"{row.dotted_names[0]}.weight".replace("attn.in_proj.weight", "attn.in_proj_weight")
            found[key] = rng.standard_normal((rows, COLUMNS)).astype(np.float32)
    return found


def wanted(family: Family) -> dict[str, np.ndarray]:
    """What each layer changes, by id, by cutting the single file with numpy alone."""
    file = {canonical_id(f"diffusion_model.{k[:-7]}", family): values for k, values in native(family).items()}
    found = {}
    for row in rows_of(family):
        whole = file[row.whole or row.id]
        unit = len(whole) // row.share.of
        values = whole[row.share.first * unit : row.share.last * unit]
        found[row.id] = np.concatenate(np.split(values, 2)[::-1]) if row.swapped else values
    return found


def cut(family: Family) -> dict[str, np.ndarray]:
    """The same model as diffusers stores it."""
    values, wholes = wanted(family), {row.whole for row in rows_of(family)}
    rows = [row for row in rows_of(family) if row.id not in wholes and not row.id.endswith("linear1_qkv")]
    names = {row.id: row.dotted_names[0 if row.whole or len(row.dotted_names) == 1 else 1] for row in rows}
    return {f"{names[row.id]}.weight": values[row.id] for row in rows}


def saved(path: Path, tensors: dict[str, np.ndarray], prefix: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({prefix + key: np.ascontiguousarray(values) for key, values in tensors.items()}, path)
    return path


def seen(checkpoint: Checkpoint, name: str, size: tuple[int, int]) -> np.ndarray:
    found = checkpoint.partner(name, name, size)
    assert found is not None, name
    whole = checkpoint.whole(found)
    values = doubles(whole.bits, whole.kind)
    return values.T if found.transposed else values


def norms(checkpoint: Checkpoint, found: Partner | None) -> tuple[float, float | None]:
    assert found is not None
    with ThreadPoolExecutor(1) as pool:
        measured = checkpoint.norms([found], spectral=True, arrays=NumpyArrays(), pool=pool, progress=Quiet())
    return measured[found]


@pytest.mark.parametrize("layout", ["single file", "bare single file", "folder", "component"])
@family_cases
def test_trap_10_every_layer_finds_its_numbers_in_every_layout(family: Family, layout: str, tmp_path: Path) -> None:
    """Thirds, unequal shares, linear1 in four, halves of kv, swapped halves: fused from split and split from fused."""
    if layout == "folder":
        path = saved(tmp_path / "pipe" / "transformer" / "x.safetensors", cut(family)).parents[1]
    elif layout == "component":
        path = saved(tmp_path / "x.safetensors", cut(family))
    else:
        path = saved(tmp_path / "x.safetensors", native(family), "model.diffusion_model." * (layout == "single file"))
    checkpoint = Checkpoint(path)
    assert checkpoint.family is not None
    for name, values in wanted(family).items():
        found = seen(checkpoint, name, values.shape)
        np.testing.assert_array_equal(found, values, err_msg=name)
    checkpoint.close()


@family_cases
def test_norms_of_stacks_are_those_of_the_whole(family: Family, tmp_path: Path) -> None:
    checkpoint = Checkpoint(saved(tmp_path / "x.safetensors", cut(family)))
    stacked = 0
    for name, values in list(wanted(family).items()):
        found = checkpoint.partner(name, name, values.shape)
        assert found is not None
        if len(found.parts) > 1:
            stacked += 1
            fro, spn = norms(checkpoint, found)
            assert fro == pytest.approx(np.linalg.norm(values.astype(np.float64)), rel=1e-5)
            assert spn == pytest.approx(np.linalg.norm(values.astype(np.float64), 2), rel=1e-4)
    assert stacked or not any(row.share.of > 1 for row in rows_of(family))
    checkpoint.close()


@pytest.mark.parametrize("pieces", [False, True], ids=["a fused LoRA", "a split LoRA"])
def test_both_layouts_give_one_result(pieces: bool, tmp_path: Path) -> None:
    """Base-relative recipes choose the same dimensions whichever way base and LoRA are cut."""
    family, rng, rank = FLUX[0], np.random.default_rng(3), 3
    lora = {}
    wholes = {row.whole for row in rows_of(family)}
    for row in rows_of(family):
        size = wanted(family)[row.id].shape
        is_meant = row.id not in wholes and not row.id.endswith("qkv") if pieces else row.whole is None
        if is_meant and min(size) >= rank:
            lora[f"{row.id}.lora_up.weight"] = rng.standard_normal((size[0], rank)).astype(np.float32)
            lora[f"{row.id}.lora_down.weight"] = rng.standard_normal((rank, size[1])).astype(np.float32)
    path = saved(tmp_path / "lora.safetensors", lora)
    bases = [saved(tmp_path / "base.safetensors", native(family), "model.diffusion_model."),
             sharded(tmp_path / "pipe" / "transformer", cut(family)).parent]  # fmt: skip
    recipes = parse_recipes("spn_ckpt=0.5,fro_ckpt=0.5,retain=0.7:subspace=1,retain=0.7")
    found = []
    for base in bases:
        settings = Settings(recipes=recipes, base=base, dry_run=True)
        outcomes = list(resize(expand([str(path)]), settings))
        assert [outcome.error for outcome in outcomes] == [None, None]
        plans = [plan_of(outcome) for outcome in outcomes]
        found.append([[layer.new_rank for layer in plan.layers] for plan in plans])
        errors = [layer.error_ckpt for plan in plans for layer in plan.layers]
        assert None not in errors, "a layer without partner"
    assert found[0] == found[1]


def shapes_of(family: Family, key: str) -> dict[str, tuple[int, ...]]:
    rows = [row for row in layers(family).values() if row.component == "unet" and row.whole is None]
    return {
        f"model.diffusion_model.{row.dotted_names[0]}.weight": row.shape for row in rows if key in row.dotted_names[0]
    }


def test_trap_10_linear1_is_q_k_v_and_mlp() -> None:
    base = read_base(shapes_of(FLUX[0], "single_blocks"))
    key = "model.diffusion_model.single_blocks.5.linear1.weight"
    for name, rows in (("attn_to_q", (0, 3072)), ("attn_to_k", (3072, 6144)), ("attn_to_v", (6144, 9216)),
                       ("proj_mlp", (9216, 21504))):  # fmt: skip
        found = partner(base, f"lora_transformer_single_transformer_blocks_5_{name}", "x")
        assert found == Partner((BaseWeight(key, (rows[1] - rows[0], 3072), rows),))
    found = partner(base, "lora_unet_single_blocks_5_linear1_qkv", "x")
    assert found == Partner((BaseWeight(key, (9216, 3072), (0, 9216)),))


def test_trap_10_lumina2_is_not_cut_into_thirds() -> None:
    base = read_base(shapes_of(LUMINA2[0], "layers."))
    found = [partner(base, f"lora_transformer_layers_3_attn_to_{part}", "x") for part in "qkv"]
    assert [one.parts[0].rows for one in found if one] == [(0, 2304), (2304, 3072), (3072, 3840)]


def test_trap_10_k_and_v_of_pixart_are_halves() -> None:
    base = read_base(shapes_of(PIXART[0], "blocks."))
    found = [partner(base, f"lora_transformer_transformer_blocks_3_attn2_to_{part}", "x") for part in "kv"]
    assert [one.parts[0].rows for one in found if one] == [(0, 1152), (1152, 2304)]


def test_trap_10_the_halves_of_the_last_modulation_are_swapped() -> None:
    for family in (FLUX[0], SD3[0]):
        base = read_base(shapes_of(family, ""))
        found = partner(base, "lora_transformer_norm_out_linear", "x")
        assert found is not None
        assert found.swapped
        assert partner(base, "lora_unet_final_layer_adaLN_modulation_1", "x") == Partner(found.parts)


def test_a_fused_layer_with_a_piece_missing_has_no_partner() -> None:
    cut_shapes = {f"transformer_blocks.0.attn.to_{part}.weight": (64, 32) for part in "qv"}
    others = {f"transformer_blocks.{n}.attn.to_out.0.weight": (64, 32) for n in range(19)}
    single = {f"single_transformer_blocks.{n}.proj_out.weight": (64, 32) for n in range(38)}
    base = read_base(cut_shapes | others | single)
    assert base.family == FLUX[0]
    assert partner(base, "lora_unet_double_blocks_0_img_attn_qkv", "x") is None
    assert partner(base, "lora_transformer_transformer_blocks_0_attn_to_v", "x") is not None


# Trap 11: what bases look like ------------------------------------------------------------------------------


def sd15(tmp_path: Path, channels: int, name: str = "model.diffusion_model.input_blocks.0.0.weight") -> Path:
    rng = np.random.default_rng(1)
    tensors = {name: rng.standard_normal((320, channels, 3, 3)).astype(np.float32)}
    tensors["model.diffusion_model.middle_block.1.proj_in.weight"] = np.ones((4, 4), np.float32)
    return saved(tmp_path / f"{channels}.safetensors", tensors)


def test_trap_11_nine_channels_of_inpainting_are_compared_by_the_first_four(tmp_path: Path) -> None:
    checkpoint = Checkpoint(sd15(tmp_path, 9))
    assert checkpoint.family is not None
    name = checkpoint.family.input_layer
    with np.errstate(all="raise"):
        whole = seen(checkpoint, name, (320, 81)).reshape(320, 9, 3, 3)
        np.testing.assert_array_equal(seen(checkpoint, name, (320, 36)), whole[:, :4].reshape(320, 36))
    found = checkpoint.partner(name, name, (320, 36))
    fro, spn = norms(checkpoint, found)
    assert fro == pytest.approx(np.linalg.norm(whole[:, :4]), rel=1e-5)
    assert spn == pytest.approx(np.linalg.norm(whole[:, :4].reshape(320, 36), 2), rel=1e-4)
    assert norms(checkpoint, checkpoint.partner(name, name, (320, 81)))[0] == pytest.approx(np.linalg.norm(whole))
    assert checkpoint.partner(name, name, (320, 35)) is None
    assert checkpoint.partner(name, name, (319, 36)) is None
    checkpoint.close()


def test_trap_11_128_columns_of_flux_control_meet_a_base_of_64(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    base = {key: np.ones((2, 2), np.float32) for key in shapes_of(FLUX[0], "")}
    base["model.diffusion_model.img_in.weight"] = rng.standard_normal((32, 64)).astype(np.float32)
    checkpoint = Checkpoint(saved(tmp_path / "x.safetensors", base))
    found = seen(checkpoint, "lora_unet_img_in", (32, 128))
    np.testing.assert_array_equal(found[:, :64], base["model.diffusion_model.img_in.weight"])
    assert not found[:, 64:].any()
    assert checkpoint.partner("lora_unet_txt_in", "lora_unet_txt_in", (2, 4)) is None
    checkpoint.close()


def chroma_tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    keys = [key for key in shapes_of(CHROMA[0], "") if "distilled" in key or ".3." in key]
    return {key: rng.integers(-8, 8, (6, 4)).astype(np.float32) / 8 for key in keys}


def as_fp8(values: np.ndarray) -> np.ndarray:
    """float8 e4m3 of numbers that it holds exactly, as bytes."""
    table = np.array([_e4m3(byte) for byte in range(256)])
    return np.array([[int(np.flatnonzero(table == v)[0]) for v in row] for row in values.tolist()], np.uint8)


def _e4m3(byte: int) -> float:
    sign, exponent, mantissa = (-1 if byte & 128 else 1), (byte >> 3) & 15, byte & 7
    if byte & 127 == 127:
        return float("nan")
    return sign * (mantissa * 2.0**-9 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10))


def fp8_file(path: Path, tensors: dict[str, np.ndarray], scales: dict[str, np.ndarray]) -> Path:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save

    held = {key: torch.from_numpy(as_fp8(values)).view(torch.float8_e4m3fn) for key, values in tensors.items()}
    held |= {key: torch.from_numpy(np.asarray(values, np.float32)) for key, values in scales.items()}
    held["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    save(held, path)
    return path


@pytest.mark.parametrize("end", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("kind", ["one number", "one a row", "a column"])
def test_trap_11_scaled_fp8_is_multiplied_by_its_scale(end: str, kind: str, tmp_path: Path) -> None:
    tensors = chroma_tensors()
    key = "model.diffusion_model.double_blocks.3.img_attn.qkv.weight"
    scale = {"one number": np.array(0.25), "one a row": np.arange(1.0, 7.0), "a column": np.arange(1.0, 7.0)[:, None]}
    path = fp8_file(tmp_path / "x.safetensors", tensors, {key.removesuffix("weight") + end: scale[kind]})
    checkpoint = Checkpoint(path)
    values = tensors[key] * np.broadcast_to(scale[kind].reshape(-1, 1), (6, 1))
    for name, part in (("lora_unet_double_blocks_3_img_attn_qkv", values),
                       ("lora_transformer_transformer_blocks_3_attn_to_k", values[2:4])):  # fmt: skip
        np.testing.assert_allclose(seen(checkpoint, name, part.shape), part, rtol=1e-6)
        fro, spn = norms(checkpoint, checkpoint.partner(name, name, part.shape))
        assert fro == pytest.approx(np.linalg.norm(part), rel=1e-5)
        assert spn == pytest.approx(np.linalg.norm(part, 2), rel=1e-4)
    other = tensors["model.diffusion_model.double_blocks.3.img_attn.proj.weight"]
    np.testing.assert_array_equal(seen(checkpoint, "lora_unet_double_blocks_3_img_attn_proj", (6, 4)), other)
    checkpoint.close()


def test_numbers_with_a_scale_for_each_block_are_nobodys_partner() -> None:
    shapes = shapes_of(CHROMA[0], "double_blocks.3")
    key = "model.diffusion_model.double_blocks.3.img_attn.proj.weight_scale_inv"
    base = read_base(shapes | {key: (24, 24)})
    assert partner(base, "lora_unet_double_blocks_3_img_attn_proj", "x") is None
    assert partner(base, "lora_unet_double_blocks_3_txt_attn_proj", "x") is not None


EMA = {
    "model_ema.diffusion_modelinput_blocks00weight": (320, 4, 3, 3),
    "model_ema.diffusion_modelmiddle_block1proj_inweight": (1280, 1280, 1, 1),
    "model_ema.decay": (),
}


def test_trap_11_ema_copies_count_only_where_there_is_nothing_else() -> None:
    key = "model_ema.diffusion_modelmiddle_block1proj_inweight"
    found = read_base(EMA).generic["lora_unet_middle_block_1_proj_in"]
    assert (found.key, found.shape) == (key, (1280, 1280, 1, 1))
    both = read_base(EMA | {"model.diffusion_model.middle_block.1.proj_in.weight": (1280, 1280, 1, 1)})
    assert {weight.key for weight in both.generic.values()} == {"model.diffusion_model.middle_block.1.proj_in.weight"}


def test_trap_11_both_prefixes_and_none_are_one_layout() -> None:
    for prefix in ("model.diffusion_model.", "diffusion_model.", ""):
        keys = {k.replace("model.diffusion_model.", prefix): shape for k, shape in shapes_of(FLUX[0], "").items()}
        assert read_base(keys).family == FLUX[0]


def test_trap_11_packed_numbers_are_nobodys_partner(tmp_path: Path) -> None:
    """bitsandbytes keeps bytes under the weight's own name, one column of them."""
    tensors = {key: np.ones((8, 1), np.uint8) for key in shapes_of(FLUX[0], "double_blocks.0")}
    checkpoint = Checkpoint(saved(tmp_path / "x.safetensors", tensors))
    assert checkpoint.partner("lora_unet_double_blocks_0_img_attn_proj", "x", (8, 1)) is None
    checkpoint.close()


# Folders ----------------------------------------------------------------------------------------------------


def _halves(tensors: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    names = sorted(tensors)
    yield {name: tensors[name] for name in names[::2]}
    yield {name: tensors[name] for name in names[1::2]}


def sharded(folder: Path, tensors: dict[str, np.ndarray]) -> Path:
    import json

    folder.mkdir(parents=True)
    places: dict[str, str] = {}
    for number, half in enumerate(_halves(tensors), 1):
        file = saved(folder / f"diffusion_pytorch_model-0000{number}-of-00002.safetensors", half)
        places |= dict.fromkeys(half, file.name)
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


def test_a_pipeline_of_shards_is_one_base(tmp_path: Path) -> None:
    from lib_resize.base.store import is_model_folder

    sharded(tmp_path / "pipe" / "transformer", cut(FLUX[0]))
    (tmp_path / "pipe" / "vae").mkdir()
    checkpoint = Checkpoint(tmp_path / "pipe")
    for name, values in wanted(FLUX[0]).items():
        np.testing.assert_array_equal(seen(checkpoint, name, values.shape), values)
    checkpoint.close()
    assert is_model_folder(tmp_path / "pipe")
    assert not is_model_folder(tmp_path)


def test_a_changed_shard_changes_the_fingerprint(tmp_path: Path) -> None:
    from lib_resize.base.store import open_store

    tensors = cut(FLUX[0])
    sharded(tmp_path / "a" / "transformer", tensors)
    sharded(tmp_path / "b" / "transformer", tensors)
    changed = dict(tensors)
    last = sorted(tensors)[-1]
    changed[last] = tensors[last] + 1
    sharded(tmp_path / "c" / "transformer", changed)
    found = []
    for name in "abc":
        store = open_store(tmp_path / name)
        found.append(store.fingerprint())
        store.close()
    assert found[0] == found[1] != found[2]


def test_a_file_keeps_the_fingerprint_that_its_norms_were_saved_under(tmp_path: Path) -> None:
    from lib_resize.base.store import open_store
    from lib_resize.files.reader import SafeFile, fingerprint

    path = saved(tmp_path / "x.safetensors", native(FLUX[0]))
    store = open_store(path)
    with SafeFile(path) as file:
        assert store.fingerprint() == fingerprint(file)
    store.close()


def test_a_missing_shard_is_reported_by_name(tmp_path: Path) -> None:
    from lib_resize.errors import DamagedFileError

    folder = sharded(tmp_path / "transformer", cut(FLUX[0]))
    (folder / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(DamagedFileError, match="00002-of-00002"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}', '{"weight_map": {"x": "../y.safetensors"}}'])
def test_an_index_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    from lib_resize.errors import DamagedFileError

    folder = sharded(tmp_path / "transformer", cut(FLUX[0]))
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(text)
    with pytest.raises(DamagedFileError, match=r"index"):
        Checkpoint(tmp_path)


def test_of_several_variants_the_plain_one_is_read(tmp_path: Path) -> None:
    tensors = cut(FLUX[0])
    for variant, factor in (("", 1), (".fp16", 2), (".non_ema", 3)):
        scaled = {key: values * factor for key, values in tensors.items()}
        saved(tmp_path / "unet" / f"diffusion_pytorch_model{variant}.safetensors", scaled)
    checkpoint = Checkpoint(tmp_path)
    name, values = next(iter(wanted(FLUX[0]).items()))
    np.testing.assert_array_equal(seen(checkpoint, name, values.shape), values)
    checkpoint.close()


def test_an_empty_folder_is_no_base(tmp_path: Path) -> None:
    from lib_resize.errors import UnsupportedError

    with pytest.raises(UnsupportedError, match="a base model was expected"):
        Checkpoint(tmp_path)


# GGUF -------------------------------------------------------------------------------------------------------


def gguf_file(path: Path, tensors: dict[str, np.ndarray], kind: str) -> Path:
    gguf = pytest.importorskip("gguf", reason="the optional library gguf is not installed")
    writer = gguf.GGUFWriter(str(path), "flux")
    quantised = getattr(gguf.GGMLQuantizationType, kind)
    for name, values in tensors.items():
        flat = values.reshape(values.shape[0], -1) if kind != "F16" else values
        writer.add_tensor(name, gguf.quants.quantize(flat, quantised), raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(("kind", "allowed"), [("F16", 1e-3), ("Q8_0", 1e-2), ("Q5_1", 5e-2)])
def test_trap_11_gguf_norms_are_those_of_what_was_packed(kind: str, allowed: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    shapes = {key.removeprefix("model.diffusion_model."): (96, 64) for key in shapes_of(FLUX[0], "double_blocks.")}
    tensors = {key: rng.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}
    checkpoint = Checkpoint(gguf_file(tmp_path / "flux.gguf", tensors, kind))
    assert checkpoint.family == FLUX[0]
    values = tensors["double_blocks.7.img_attn.qkv.weight"]
    for name, part in (("lora_unet_double_blocks_7_img_attn_qkv", values),
                       ("lora_transformer_transformer_blocks_7_attn_to_v", values[64:])):  # fmt: skip
        fro, spn = norms(checkpoint, checkpoint.partner(name, name, part.shape))
        assert fro == pytest.approx(np.linalg.norm(part), rel=allowed)
        assert spn == pytest.approx(np.linalg.norm(part, 2), rel=allowed)
    assert len(checkpoint._store.fingerprint()) == 64
    checkpoint.close()


def test_gguf_without_its_library_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from lib_resize.errors import UnsupportedError

    monkeypatch.setitem(sys.modules, "gguf", None)
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(UnsupportedError, match="pip install gguf"):
        Checkpoint(tmp_path / "x.gguf")


def test_a_damaged_gguf_is_reported(tmp_path: Path) -> None:
    from lib_resize.errors import DamagedFileError

    pytest.importorskip("gguf", reason="the optional library gguf is not installed")
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(3))
    with pytest.raises(DamagedFileError, match="cannot be read as GGUF"):
        Checkpoint(tmp_path / "x.gguf")


def packed(version: int = 3, fields: bytes = b"", count: int = 0, tensors: bytes = b"", claimed: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, claimed, count) + fields + tensors


def text(word: str) -> bytes:
    return struct.pack("<Q", len(word.encode())) + word.encode()


NESTED = text("a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 6 + struct.pack("<IQ", 4, 0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (packed(version=7), "version is 7"),
        (packed(version=3 << 24), "version is"),
        (packed(count=1 << 60), "claims"),
        (packed(claimed=1 << 60), "claims"),
        (packed(count=1, fields=struct.pack("<Q", 1 << 63) + bytes(50)), "claims"),
        (packed(count=1, fields=text("a") + struct.pack("<IIQ", 9, 8, 1 << 62) + bytes(50)), "claims"),
        (packed(count=1, fields=text("a") + struct.pack("<I", 99) + bytes(50)), "unknown type 99"),
        (packed(count=1, fields=NESTED + bytes(50)), "unknown type 9"),
        (packed(count=1, fields=struct.pack("<Q", 1) + b"\xff" + bytes(50)), "not UTF-8"),
        (packed(count=1, fields=text("general.alignment") + struct.pack("<II", 4, 3) + bytes(50)), "alignment is 3"),
        (packed(claimed=1, tensors=text("a") + struct.pack("<I", 1000) + bytes(50)), "1000 dimensions"),
        (packed(claimed=1, tensors=text("a") + struct.pack("<IQIQ", 1, 1 << 62, 0, 0)), "would end at"),
        (packed(claimed=1, tensors=text("a") + struct.pack("<IQIQ", 1, 33, 8, 0) + bytes(99)), "blocks of 32"),
        (packed(claimed=2, tensors=(text("a") + struct.pack("<IQIQ", 1, 1, 0, 0)) * 2 + bytes(99)), "twice"),
        (packed(claimed=1, tensors=text("a") + struct.pack("<IQIQ", 1, 1, 9999, 0) + bytes(99)), "type 9999"),
    ],
)
def test_a_false_gguf_header_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    from lib_resize.errors import ResizeError

    pytest.importorskip("gguf", reason="the optional library gguf is not installed")
    (tmp_path / "x.gguf").write_bytes(data)
    with pytest.raises(ResizeError, match=message):
        Checkpoint(tmp_path / "x.gguf")


def test_a_gguf_that_shrinks_while_it_is_open_is_an_error_by_name(tmp_path: Path) -> None:
    from lib_resize.errors import FileError

    path = gguf_file(tmp_path / "flux.gguf", {"a.weight": np.ones((96, 64), np.float32)}, "Q8_0")
    store = GgufStore(path)
    assert store.read("a.weight", (1, 3)).bits == pytest.approx(np.ones((2, 64)), rel=1e-2)
    os.truncate(path, 300)
    for read in (lambda: store.read("a.weight"), store.fingerprint):
        with pytest.raises(FileError, match=r"flux\.gguf: the file changed while it was being read"):
            read()
    store.close()


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0"])
def test_a_gguf_reads_as_the_library_reads_it(kind: str, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="the optional library gguf is not installed")
    rng = np.random.default_rng(2)
    tensors = {name: rng.standard_normal((3, 64)).astype(np.float32) for name in ("a.weight", "b.weight")}
    path = gguf_file(tmp_path / "x.gguf", tensors, kind)
    store = GgufStore(path)
    for theirs in gguf.GGUFReader(str(path)).tensors:
        wanted = gguf.quants.dequantize(theirs.data, theirs.tensor_type)
        np.testing.assert_array_equal(store.read(theirs.name).bits, np.asarray(wanted, np.float32).reshape(3, -1))
    store.close()


def test_a_gguf_names_the_shape_of_a_flattened_convolution(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="the optional library gguf is not installed")
    path = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(str(path), "sdxl")
    writer.add_array("comfy.gguf.orig_shape.conv.weight", [8, 4, 3, 3])
    writer.add_array("tokens", ["a", "b"])
    writer.add_tensor("conv.weight", np.arange(288, dtype=np.float32).reshape(9, 32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    store = GgufStore(path)
    assert store.shapes == {"conv.weight": (8, 4, 3, 3)}
    np.testing.assert_array_equal(store.read("conv.weight", (2, 4)).bits.ravel(), np.arange(72, 144))
    store.close()


def test_one_shard_opens_the_whole_model(tmp_path: Path) -> None:
    tensors = {f"blocks.{n}.self_attn.q.weight": np.full((4, 4), n, np.float32) for n in range(4)}
    names = list(tensors)
    for number in (1, 2):
        part = {name: tensors[name] for name in names[2 * (number - 1) : 2 * number]}
        save_file(part, tmp_path / f"model-0000{number}-of-00002.safetensors")
    second = tmp_path / "model-00002-of-00002.safetensors"
    with contextlib.closing(Checkpoint(second)) as checkpoint:
        assert {weight.key for weight in checkpoint.weights.values()} == set(names)
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(DamagedFileError, match="model-00001-of-00002"):
        Checkpoint(second)
