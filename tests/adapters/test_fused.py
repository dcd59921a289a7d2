"""Fused layers and their pieces in whole files; duplicated content; prefixes that look alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lib_resize.adapters.forms.form import Form
from lib_resize.adapters.forms.lora import LowRank
from lib_resize.adapters.read.adapter import read_adapter
from lib_resize.adapters.read.fused import row_cuts
from lib_resize.adapters.write.style import Style
from lib_resize.engine.batch import resize
from lib_resize.engine.settings import Outcome, Settings
from lib_resize.errors import UnsupportedError
from lib_resize.files.reader import SafeFile
from lib_resize.names.families import FLUX, LUMINA2, Z_IMAGE
from lib_resize.names.family import layers
from lib_resize.names.identify import canonical_id
from lib_resize.plans import Plan
from lib_resize.prompts.sources import expand
from lib_resize.recipe.grammar import parse_recipes

WIDTH, RANK = 24, 4
ROWS = {"img_attn_qkv": (24, 24, 24), "linear1": (24, 24, 24, 96)}
NAMES = {"img_attn_qkv": "lora_unet_double_blocks_{}_img_attn_qkv", "linear1": "lora_unet_single_blocks_{}_linear1"}


def piece(rng: np.random.Generator, rows: int, strengths: np.ndarray) -> np.ndarray:
    made: np.ndarray = np.linalg.qr(rng.standard_normal((rows, len(strengths))))[0] * strengths
    return made


def flux(path: Path, strengths: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """A narrow Flux LoRA whose fused layers were trained in pieces of rank 4; alpha is the fused rank."""
    rng = np.random.default_rng(3)
    tensors = {}
    for kind, sizes in ROWS.items():
        for number in range(3):
            name, rank = NAMES[kind].format(number), RANK * len(sizes)
            up = np.zeros((sum(sizes), rank))
            for i, rows in enumerate(sizes):
                s = strengths if strengths is not None else 2.0 ** -rng.uniform(0, 6, RANK)
                first = sum(sizes[:i])
                up[first : first + rows, i * RANK : (i + 1) * RANK] = piece(rng, rows, s)
            tensors[f"{name}.lora_up.weight"] = up.astype(np.float32)
            downs = [np.linalg.qr(rng.standard_normal((WIDTH, RANK)))[0].T for _ in sizes]
            tensors[f"{name}.lora_down.weight"] = np.ascontiguousarray(np.concatenate(downs), np.float32)
            tensors[f"{name}.alpha"] = np.array(rank, np.float32)
    save_file(tensors, path)
    return tensors


def plan_of(outcome: Outcome) -> Plan:
    assert outcome.plan is not None
    return outcome.plan


def resized(path: Path, recipe: str, **style) -> tuple[Outcome, dict[str, np.ndarray]]:
    settings = Settings(
        recipes=parse_recipes(recipe),
        output=path.parent / "out",
        style=Style(**{"dtype": "F32", **style}),
        overwrite=True,
    )
    (outcome,) = resize(expand([str(path)]), settings)
    if outcome.error:
        raise outcome.error
    return outcome, load_file(plan_of(outcome).output)


def delta(tensors: dict[str, np.ndarray], name: str) -> np.ndarray:
    up, down = tensors[f"{name}.lora_up.weight"], tensors[f"{name}.lora_down.weight"]
    return float(tensors[f"{name}.alpha"]) / len(down) * up.astype(np.float64) @ down.astype(np.float64)


@pytest.mark.parametrize("recipe", ["fro_lora=1,min_rank=1,retain=0.9", "rank=6", "sv_fro=0.8"])
def test_trap_14_a_fused_layer_of_pieces_gives_each_piece_its_own_ranks(recipe: str, tmp_path: Path) -> None:
    old = flux(tmp_path / "x.safetensors")
    outcome, new = resized(tmp_path / "x.safetensors", recipe)
    assert any("trained in pieces" in note for note in plan_of(outcome).notes)
    for kind, sizes in ROWS.items():
        name = NAMES[kind].format(1)
        up = new[f"{name}.lora_up.weight"]
        edges = np.cumsum((0, *sizes))
        owners = [{i for i in range(len(sizes)) if column[edges[i] : edges[i + 1]].any()} for column in up.T]
        assert all(len(owner) == 1 for owner in owners), "a dimension reaches two pieces"
        order = [owner.pop() for owner in owners]
        assert order == sorted(order), "the pieces are not one after the other"
        assert up.shape[1] == len(order) < RANK * len(sizes)
        for i in range(len(sizes)):
            rows = slice(edges[i], edges[i + 1])
            u, s, vt = np.linalg.svd(delta(old, name)[rows])
            kept = order.count(i)
            best = (u[:, :kept] * s[:kept]) @ vt[:kept]
            np.testing.assert_allclose(delta(new, name)[rows], best, atol=1e-5)


def test_trap_14_at_full_rank_nothing_changes(tmp_path: Path) -> None:
    old = flux(tmp_path / "x.safetensors")
    _, new = resized(tmp_path / "x.safetensors", "rank=999")
    for kind in ROWS:
        name = NAMES[kind].format(2)
        np.testing.assert_allclose(delta(new, name), delta(old, name), atol=1e-6)
        assert (new[f"{name}.lora_up.weight"] == 0).mean() > 0.6


def test_trap_14_a_program_that_takes_pieces_apart_still_can(tmp_path: Path) -> None:
    """diffusers looks for zeros and then splits such a layer at the rank of one piece."""
    loaders = pytest.importorskip("diffusers.loaders.lora_conversion_utils")
    torch = pytest.importorskip("torch")
    old = flux(tmp_path / "x.safetensors", strengths=np.array([1.0, 0.5, 0.25, 0.125]))
    _, new = resized(tmp_path / "x.safetensors", "fro_lora=1,thr=-0.7")
    state = {key: torch.from_numpy(values) for key, values in new.items() if "img_attn" in key or "linear1" in key}
    assert new[f"{NAMES['img_attn_qkv'].format(0)}.lora_down.weight"].shape[0] == 6
    made = loaders._convert_kohya_flux2_lora_to_diffusers(dict(state))
    for i, part in enumerate("qkv"):
        stem = f"transformer.transformer_blocks.0.attn.to_{part}"
        assert made[f"{stem}.lora_A.weight"].shape[0] == 2, "not split"
        found = (made[f"{stem}.lora_B.weight"] @ made[f"{stem}.lora_A.weight"]).numpy()
        u, s, vt = np.linalg.svd(delta(old, NAMES["img_attn_qkv"].format(0))[i * 24 : (i + 1) * 24])
        np.testing.assert_allclose(found, (u[:, :2] * s[:2]) @ vt[:2], atol=1e-5)


def test_one_number_off_and_the_layer_is_resized_as_one(tmp_path: Path) -> None:
    tensors = flux(tmp_path / "x.safetensors")
    name = NAMES["img_attn_qkv"].format(0)
    tensors[f"{name}.lora_up.weight"][30, 0] = 1e-30
    save_file(tensors, tmp_path / "x.safetensors")
    _, new = resized(tmp_path / "x.safetensors", "rank=6")
    u, s, vt = np.linalg.svd(delta(tensors, name))
    np.testing.assert_allclose(delta(new, name), (u[:, :6] * s[:6]) @ vt[:6], atol=1e-5)


def low_rank(form: Form) -> LowRank:
    assert isinstance(form, LowRank)
    return form


def test_rows_are_cut_where_the_table_says(tmp_path: Path) -> None:
    flux(tmp_path / "x.safetensors")
    with SafeFile(tmp_path / "x.safetensors") as file:
        found = {layer.stem: low_rank(layer.form).cuts for layer in read_adapter(file).layers}
        assert found[NAMES["img_attn_qkv"].format(0)] == (24, 48)
        assert found[NAMES["linear1"].format(0)] == (24, 48, 72)
    assert row_cuts(NAMES["linear1"].format(0), 71, FLUX[0]) == ()
    assert row_cuts(NAMES["linear1"].format(0), 70, LUMINA2[0]) == ()
    assert row_cuts(None, 70, FLUX[0]) == ()


# Trap 20 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("lora_unet_layers_0_attention_to_q", "lora_unet_layers_0_attention_to_q"),
        ("lora_unet_noise_refiner_1_feed_forward_w2", "lora_unet_noise_refiner_1_feed_forward_w2"),
        ("lora_unet_layers_0_attention_to_out_0", "lora_unet_layers_0_attention_out"),
        ("lora_unet_all_final_layer_2-1_linear", "lora_unet_final_layer_linear"),
        ("lora_unet_layers_0_adaLN_modulation_0", "lora_unet_layers_0_adaLN_modulation_0"),
    ],
)
def test_trap_20_underscores_are_never_taken_apart(stem: str, name: str) -> None:
    assert canonical_id(stem, Z_IMAGE[0]) == name


@pytest.mark.parametrize("number", ["1", "3"])
def test_trap_20_text_encoders_with_and_without_a_number_are_distinguished(number: str) -> None:
    flat = "text_model_encoder_layers_0_mlp_fc1" if number == "1" else "encoder_block_0_layer_0_SelfAttention_q"
    found = canonical_id(f"lora_te{number}_{flat}", FLUX[0])
    assert found == f"lora_te{number}_{flat}"
    assert layers(FLUX[0])[found].component == f"te{number}"
    assert canonical_id("lora_te2_text_model_encoder_layers_0_mlp_fc1", FLUX[0]) is None


# Trap 22 ----------------------------------------------------------------------------------------------------


def pairs(names: list[str], rows: dict[str, int], suffixes: tuple[str, str]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    tensors = {}
    for name in names:
        tensors[name + suffixes[0]] = rng.standard_normal((rows.get(name.rpartition(".")[2], 12), 3)).astype(np.float32)
        tensors[name + suffixes[1]] = rng.standard_normal((3, 12)).astype(np.float32)
    return tensors


def test_trap_22_whole_and_pieces_in_one_file_are_both_resized_and_reported(tmp_path: Path) -> None:
    names = [
        f"diffusion_model.layers.{n}.attention.{part}" for n in range(4) for part in ("qkv", "to_q", "to_k", "to_v")
    ]
    save_file(pairs(names, {"qkv": 36}, (".lora_B.weight", ".lora_A.weight")), tmp_path / "x.safetensors")
    outcome, new = resized(tmp_path / "x.safetensors", "rank=2")
    assert len(new) == 2 * len(names)
    assert any("12 layers are in the file twice (first diffusion_model.layers." in note
               for note in plan_of(outcome).notes)  # fmt: skip
    with pytest.raises(UnsupportedError, match="no host reads such pieces"):
        resized(tmp_path / "x.safetensors", "rank=2", kohya=True)


def test_trap_22_two_key_formats_of_a_layer_are_both_resized_and_reported(tmp_path: Path) -> None:
    names = ["lora_unet_input_blocks_4_1_proj_in", "lora_unet_down_blocks_1_attentions_0_proj_in",
             "lora_unet_middle_block_1_proj_in"]  # fmt: skip
    save_file(pairs(names, {}, (".lora_up.weight", ".lora_down.weight")), tmp_path / "x.safetensors")
    outcome, new = resized(tmp_path / "x.safetensors", "rank=2")
    assert {key.partition(".")[0] for key in new} == set(names)
    assert any("2 layers are in the file twice" in note for note in plan_of(outcome).notes)
    with pytest.raises(UnsupportedError, match="two layers would both be named"):
        resized(tmp_path / "x.safetensors", "rank=2", kohya=True)


def test_an_unknown_family_is_resized_and_reported(tmp_path: Path) -> None:
    names = [f"lora_unet_mystery_{n}_attn_qkv" for n in range(4)]
    save_file(pairs(names, {}, (".lora_up.weight", ".lora_down.weight")), tmp_path / "x.safetensors")
    outcome, new = resized(tmp_path / "x.safetensors", "rank=2")
    assert len(new) == 12
    assert any("unknown model family" in note for note in plan_of(outcome).notes)


def test_pieces_that_comfyui_reads_are_renamed_and_others_are_not(tmp_path: Path) -> None:
    names = [f"transformer.transformer_blocks.{n}.attn.{part}" for n in range(3) for part in ("to_q", "add_v_proj")]
    names += [f"transformer.single_transformer_blocks.{n}.proj_mlp" for n in range(3)]
    save_file(pairs(names, {}, (".lora_B.weight", ".lora_A.weight")), tmp_path / "x.safetensors")
    _, new = resized(tmp_path / "x.safetensors", "rank=2", kohya=True)
    assert "lora_transformer_single_transformer_blocks_2_proj_mlp.lora_up.weight" in new
    names = [f"transformer.layers.{n}.attn.to_{part}" for n in range(3) for part in "qkv"]
    save_file(pairs(names, {"to_q": 36}, (".lora_B.weight", ".lora_A.weight")), tmp_path / "y.safetensors")
    with pytest.raises(UnsupportedError, match="Lumina 2 holds whole"):
        resized(tmp_path / "y.safetensors", "rank=2", kohya=True)


def test_both_processors_of_xlabs_are_layers_of_their_own(tmp_path: Path) -> None:
    names = [f"double_blocks.{n}.processor.{part}" for n in range(3) for part in
             ("qkv_lora1", "qkv_lora2", "proj_lora1", "proj_lora2")]  # fmt: skip
    tensors = pairs(names, {"qkv_lora1": 36, "qkv_lora2": 36}, (".up.weight", ".down.weight"))
    tensors |= pairs([f"single_blocks.{n}.processor.qkv" for n in range(3)], {"qkv": 36},
                     ("_lora.up.weight", "_lora.down.weight"))  # fmt: skip
    save_file(tensors, tmp_path / "x.safetensors")
    with SafeFile(tmp_path / "x.safetensors") as file:
        adapter = read_adapter(file)
        assert adapter.family == FLUX[0]
        found = {layer.stem: layer.canonical for layer in adapter.layers}
    assert found["double_blocks.1.processor.qkv_lora2"] == "lora_unet_double_blocks_1_txt_attn_qkv"
    assert found["single_blocks.1.processor.qkv"] == "lora_unet_single_blocks_1_linear1_qkv"
    _, new = resized(tmp_path / "x.safetensors", "rank=2")
    assert new.keys() == tensors.keys()
