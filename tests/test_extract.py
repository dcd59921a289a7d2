"""The difference of two checkpoints is extracted as a LoRA, in any layout, and what is left out is reported."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lib_resize.base.checkpoint import Checkpoint
from lib_resize.base.model_index import read_base
from lib_resize.cli import main as cli
from lib_resize.files.header import read_header

Tensors = dict[str, np.ndarray]


def flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1).astype(np.float64)


def low_rank(shape: tuple[int, ...], rank: int, chance: np.random.Generator) -> np.ndarray:
    n, m = shape[0], int(np.prod(shape[1:]))
    up, down = chance.standard_normal((n, rank)), chance.standard_normal((rank, m))
    product: np.ndarray = 0.05 / np.sqrt(rank * m) * up @ down
    return product.reshape(shape)


def weights_of(path: Path) -> dict[str, tuple[str, tuple[int, int] | None]]:
    """Name of a layer -> its key and rows."""
    base = read_base({key: entry.shape for key, entry in read_header(path).entries.items()})
    return {name: (weight.key, weight.rows) for name, weight in base.weights.items()}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> tuple[Path, Path, dict[str, np.ndarray]]:
    """Tuned and base in float32, and the true difference of each layer, of rank 3."""
    folder = tmp_path_factory.mktemp("pair")
    tensors = {key: values.astype(np.float32) for key, values in load_file(checkpoint).items()}
    save_file(tensors, folder / "base.safetensors")
    chance, true = np.random.default_rng(5), {}
    tuned = {key: values.copy() for key, values in tensors.items()}
    for name, (key, rows) in weights_of(checkpoint).items():
        part = tuned[key] if rows is None else tuned[key][rows[0] : rows[1]]
        before = part.copy()
        part += low_rank(part.shape, 3, chance).astype(np.float32)
        true[name] = flat(part.astype(np.float64) - before)
    save_file(tuned, folder / "tuned.safetensors")
    return folder / "tuned.safetensors", folder / "base.safetensors", true


def extract(tuned: Path, base: Path, out: Path | str, *more: object) -> int:
    try:
        return cli.main(["extract", str(tuned), str(base), "-o", str(out), *map(str, more)])
    except SystemExit as end:
        return int(end.code or 0)


def deltas(path: Path) -> dict[str, np.ndarray]:
    tensors = load_file(path)
    found = {}
    for key, up in tensors.items():
        stem, _, suffix = key.partition(".")
        if suffix == "lora_up.weight":
            down = flat(tensors[f"{stem}.lora_down.weight"])
            found[stem] = float(tensors[f"{stem}.alpha"]) / len(down) * flat(up) @ down
    return found


def relative(found: np.ndarray, true: np.ndarray) -> float:
    return float(np.linalg.norm(found - true) / np.linalg.norm(true))


def is_edge(name: str) -> bool:
    return name.endswith("text_projection") or any(
        part in name for part in ("time_embed", "label_emb", "input_blocks_0_0", "unet_out_2")
    )


def ordinary(true: dict[str, np.ndarray]) -> set[str]:
    return {name for name in true if not is_edge(name)}


# The law ------------------------------------------------------------------------------------------------------


def test_a_difference_of_low_rank_comes_back_whole(pair: Any, tmp_path: Path) -> None:
    tuned, base, true = pair
    assert extract(tuned, base, tmp_path / "x.safetensors", "--rank", 4, "-t", 32) == 0
    found = deltas(tmp_path / "x.safetensors")
    assert found.keys() == ordinary(true)
    assert max(relative(found[name], true[name]) for name in found) < 1e-4
    assert {name for name in found if "te2" in name and "q_proj" in name}  # rows of a fused tensor
    assert {name for name in found if "in_layers_2" in name}  # convolutions


def test_base_and_lora_are_the_tuned_model(pair: Any, tmp_path: Path) -> None:
    """At float16, as hosts load it."""
    tuned, base, true = pair
    assert extract(tuned, base, tmp_path / "x.safetensors", "--rank", 3) == 0
    theirs, ours, found = load_file(tuned), load_file(base), deltas(tmp_path / "x.safetensors")
    for name, (key, rows) in weights_of(base).items():
        if name in found:
            rows = rows or (0, len(ours[key]))
            merged = flat(ours[key][rows[0] : rows[1]]) + found[name]
            assert np.linalg.norm(merged - flat(theirs[key][rows[0] : rows[1]])) < 3e-3 * np.linalg.norm(true[name])


def test_each_layer_is_the_best_of_its_rank(pair: Any, tmp_path: Path) -> None:
    tuned, base, true = pair
    assert extract(tuned, base, tmp_path / "x.safetensors", "--rank", 1, "-t", 32) == 0
    for name, delta in deltas(tmp_path / "x.safetensors").items():
        u, s, vt = np.linalg.svd(true[name], full_matrices=False)
        assert np.linalg.norm(delta - true[name]) <= 1.002 * np.linalg.norm(s[1:]) + 1e-5 * s[0], name
        assert relative(delta, s[0] * np.outer(u[:, 0], vt[0])) < 0.05


DIFFUSERS = {"input_blocks.4.1.": "down_blocks.1.attentions.0.", "middle_block.1.": "mid_block.attentions.0."}


def in_diffusers_words(path: Path, out: Path) -> Path:
    """Some layers under diffusers' names, without a prefix, as its UNet's own file has them."""
    tensors = {}
    for key, values in load_file(path).items():
        for sgm, words in DIFFUSERS.items():
            if key.startswith(f"model.diffusion_model.{sgm}"):
                tensors[key.replace(f"model.diffusion_model.{sgm}", words)] = values
    save_file(tensors, out)
    return out


@pytest.mark.parametrize("which", ["tuned", "base", "both"])
def test_layouts_may_differ(pair: Any, tmp_path: Path, which: str) -> None:
    tuned, base, true = pair
    if which != "base":
        tuned = in_diffusers_words(tuned, tmp_path / "tuned.safetensors")
    if which != "tuned":
        base = in_diffusers_words(base, tmp_path / "base.safetensors")
    assert extract(tuned, base, tmp_path / "x.safetensors", "--rank", 3, "-t", 32) == 0
    found = deltas(tmp_path / "x.safetensors")
    assert len(found) > 20
    assert all("input_blocks_4_1" in name or "middle_block_1" in name for name in found)
    assert max(relative(found[name], true[name]) for name in found) < 1e-4


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_checkpoints_of_any_dtype_are_compared_by_their_numbers(pair: Any, tmp_path: Path, kind: type) -> None:
    tuned, base, true = pair
    save_file({key: values.astype(kind) for key, values in load_file(base).items()}, tmp_path / "base.safetensors")
    assert extract(tuned, tmp_path / "base.safetensors", tmp_path / "x.safetensors", "--rank", 3) == 0
    found = deltas(tmp_path / "x.safetensors")
    assert max(relative(found[name], true[name]) for name in found) < 0.2  # rounding of the base is a difference too


# Which layers -------------------------------------------------------------------------------------------------


def test_layers_can_be_chosen(pair: Any, tmp_path: Path) -> None:
    tuned, base, true = pair
    cases: dict[str, tuple[tuple[object, ...], Callable[[str], bool]]] = {
        "no te": (("--no-te",), lambda name: name.startswith("lora_unet")),
        "no conv": (("--conv-rank", 0), lambda name: not _is_conv(name)),
        "all": (("--all-layers",), lambda _: True),
    }
    for title, (options, wanted) in cases.items():
        out = tmp_path / f"{title}.safetensors"
        assert extract(tuned, base, out, "--rank", 3, *options) == 0
        every = ordinary(true) | ({name for name in true if is_edge(name)} if title == "all" else set())
        assert deltas(out).keys() == {name for name in every if wanted(name)}, title


def _is_conv(name: str) -> bool:
    return name.endswith(("in_layers_2", "out_layers_3", "_op", "_conv"))


def test_convolutions_may_have_a_rank_of_their_own(pair: Any, tmp_path: Path) -> None:
    tuned, base, _ = pair
    assert extract(tuned, base, tmp_path / "x.safetensors", "--rank", 3, "--conv-rank", 1) == 0
    ranks = {k.split(".")[0]: len(v) for k, v in load_file(tmp_path / "x.safetensors").items() if "lora_down" in k}
    assert {ranks[name] for name in ranks if _is_conv(name)} == {1}
    assert {ranks[name] for name in ranks if not _is_conv(name)} == {3}


def test_equal_layers_fall_away_and_are_counted(pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tuned, base, _ = pair
    tensors, changed = load_file(base), "model.diffusion_model.middle_block.1.proj_in.weight"
    tensors[changed] = load_file(tuned)[changed]
    save_file(tensors, tmp_path / "one.safetensors")
    assert extract(tmp_path / "one.safetensors", base, tmp_path / "x.safetensors") == 0
    assert deltas(tmp_path / "x.safetensors").keys() == {"lora_unet_middle_block_1_proj_in"}
    assert "layers are equal" in capsys.readouterr().out
    assert extract(base, base, tmp_path / "y.safetensors") == 1
    assert "no layer differs" in capsys.readouterr().err
    assert not (tmp_path / "y.safetensors").exists()


def with_vectors(pair: Any, folder: Path, **tuned_only: np.ndarray) -> tuple[Path, Path, Tensors]:
    """Both checkpoints with biases and norms, and the true differences of these by their keys."""
    tuned, base = load_file(pair[0]), load_file(pair[1])
    chance, true = np.random.default_rng(8), {}
    width = len(base[f"{TE2}.attn.in_proj_weight"])
    for key, size in {
        f"{UNET}.middle_block.1.proj_in.bias": 7,
        f"{UNET}.middle_block.1.norm.weight": 7,
        f"{UNET}.middle_block.1.norm.bias": 7,
        f"{UNET}.middle_block.0.in_layers.0.weight": 5,
        f"{TE2}.attn.in_proj_bias": width,
        f"{TE2}.ln_1.weight": 6,
        "first_stage_model.decoder.bias": 4,
    }.items():
        base[key] = chance.standard_normal(size).astype(np.float32)
        tuned[key] = base[key].copy()
        if not key.endswith("norm.bias"):  # equal in both, and the other half of a norm that is not
            tuned[key] += chance.standard_normal(size).astype(np.float32)
        true[key] = tuned[key] - base[key]
    for tensors in (tuned, base):  # a norm without its other half
        tensors.pop(f"{UNET}.middle_block.0.in_layers.0.bias", None)
    save_file(base, folder / "base.safetensors")
    save_file({**tuned, **tuned_only}, folder / "tuned.safetensors")
    return folder / "tuned.safetensors", folder / "base.safetensors", true


UNET, TE2 = "model.diffusion_model", "conditioner.embedders.1.model.transformer.resblocks.0"


def vectors_of(path: Path) -> Tensors:
    ends = (".diff_b", ".w_norm", ".b_norm")
    return {key: values for key, values in load_file(path).items() if key.endswith(ends)}


def test_biases_and_norms_are_reported_and_left_out(
    pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned, base, _ = with_vectors(pair, tmp_path)
    out = tmp_path / "x.safetensors"
    assert extract(tuned, base, out, "--rank", 3) == 0
    printed = capsys.readouterr().out
    assert "6 biases and norms (4 of norms" in printed
    assert "--biases" in printed
    assert {key.partition(".")[2] for key in load_file(out)} == {"lora_up.weight", "lora_down.weight", "alpha"}


def test_biases_and_norms_go_along_where_asked(pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Under the names of kohya and LyCORIS; both halves of a norm, without which A1111 refuses the file."""
    tuned, base, true = with_vectors(pair, tmp_path)
    out = tmp_path / "x.safetensors"
    assert extract(tuned, base, out, "--rank", 3, "-t", 32, "--biases") == 0
    found, thirds = vectors_of(out), np.split(true[f"{TE2}.attn.in_proj_bias"], 3)
    te2 = "lora_te2_text_model_encoder_layers_0_self_attn"
    wanted = {
        "lora_unet_middle_block_1_proj_in.diff_b": true[f"{UNET}.middle_block.1.proj_in.bias"],
        "lora_unet_middle_block_1_norm.w_norm": true[f"{UNET}.middle_block.1.norm.weight"],
        "lora_unet_middle_block_1_norm.b_norm": np.zeros(7),
        **{f"{te2}_{part}_proj.diff_b": third for part, third in zip("qkv", thirds, strict=True)},
    }
    assert found.keys() == wanted.keys()
    for key, values in wanted.items():
        np.testing.assert_array_equal(found[key], values, err_msg=key)
    printed = capsys.readouterr().out
    assert "6 differences of biases and norms included" in printed
    assert "2 biases and norms (2 of norms" in printed  # of a text encoder, and one without its other half


def test_a_bias_is_never_alone(pair: Any, tmp_path: Path) -> None:
    """Not where its layer is equal in both, and the layer stays where a recipe alone would drop it."""
    proj_in = f"{UNET}.middle_block.1.proj_in.weight"
    tuned, base, _ = with_vectors(pair, tmp_path, **{proj_in: load_file(pair[1])[proj_in]})
    assert extract(tuned, base, tmp_path / "x.safetensors", "--biases", "-r", "fro_lora=1,thr=-0.01") == 0
    stems = {key.partition(".")[0] for key in vectors_of(tmp_path / "x.safetensors") if key.endswith("diff_b")}
    assert stems == {f"lora_te2_text_model_encoder_layers_0_self_attn_{part}_proj" for part in "qkv"}
    assert stems <= deltas(tmp_path / "x.safetensors").keys()


def test_strength_of_a_recipe_is_that_of_biases_too(pair: Any, tmp_path: Path) -> None:
    tuned, base, true = with_vectors(pair, tmp_path)
    assert extract(tuned, base, tmp_path / "x.safetensors", "--biases", "-t", 32, "-r", "rank=2,rescale=0.5") == 0
    found = vectors_of(tmp_path / "x.safetensors")["lora_unet_middle_block_1_proj_in.diff_b"]
    np.testing.assert_allclose(found, true[f"{UNET}.middle_block.1.proj_in.bias"] / 2, rtol=1e-6)


def test_a_file_with_biases_is_resized_like_any_other(pair: Any, tmp_path: Path) -> None:
    tuned, base, _ = with_vectors(pair, tmp_path)
    assert extract(tuned, base, tmp_path / "x.safetensors", "--rank", 3, "--biases") == 0
    assert cli.main(["resize", str(tmp_path / "x.safetensors"), "-r", "rank=1", "--suffix", "_1"]) == 0
    before, after = vectors_of(tmp_path / "x.safetensors"), vectors_of(tmp_path / "x_1.safetensors")
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[key], after[key]) for key in before)


def test_the_text_projection_is_a_layer_on_request(pair: Any, tmp_path: Path) -> None:
    """Stored transposed in single files, and upright in the LoRA, as in diffusers' text encoder."""
    tuned, base, _ = pair
    assert extract(tuned, base, tmp_path / "x.safetensors", "--rank", 3, "-t", 32, "--all-layers") == 0
    key = "conditioner.embedders.1.model.text_projection"
    stored = load_file(tuned)[key].astype(np.float64) - load_file(base)[key]
    assert relative(deltas(tmp_path / "x.safetensors")["lora_te2_text_projection"], stored.T) < 1e-4


# Folders ------------------------------------------------------------------------------------------------------


def as_folder(path: Path, folder: Path) -> Path:
    """Some layers of a checkpoint as a diffusers folder with a UNet in two shards and a text encoder."""
    unet = load_file(in_diffusers_words(path, folder.parent / "words.safetensors"))
    shards: dict[str, dict[str, np.ndarray]] = {}
    for place, (key, values) in enumerate(sorted(unet.items())):
        shards.setdefault(f"diffusion_pytorch_model-0000{1 + place % 2}-of-00002.safetensors", {})[key] = values
    for name, tensors in shards.items():
        (folder / "unet").mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / "unet" / name)
    index = {"weight_map": {key: name for name, tensors in shards.items() for key in tensors}}
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    start = "conditioner.embedders.0.transformer."
    encoder = {key.removeprefix(start): v for key, v in load_file(path).items() if key.startswith(start)}
    (folder / "text_encoder").mkdir()
    save_file(encoder, folder / "text_encoder" / "model.safetensors")
    return folder


@pytest.mark.parametrize("which", ["tuned", "base", "both"])
def test_a_checkpoint_may_be_a_folder_of_diffusers(pair: Any, tmp_path: Path, which: str) -> None:
    tuned, base, true = pair
    if which != "base":
        tuned = as_folder(tuned, tmp_path / "tuned")
    if which != "tuned":
        base = as_folder(base, tmp_path / "base")
    assert extract(tuned, base, tmp_path / "x.safetensors", "--rank", 3, "-t", 32) == 0
    found = deltas(tmp_path / "x.safetensors")
    assert {name.split("_")[1] for name in found} == {"unet", "te1"}
    assert max(relative(found[name], true[name]) for name in found) < 1e-4
    metadata = read_header(tmp_path / "x.safetensors").metadata
    assert f"difference of {tuned.name} and {base.name}, rank 3" in metadata["ss_training_comment"]
    weights = {one["name"]: one["weight"] for one in json.loads(metadata["resize_lora"])["extracted"]}
    if which != "base":
        assert {name for name, weight in weights.items() if weight == 1.0} == {
            "tuned/unet/diffusion_pytorch_model-00001-of-00002.safetensors",
            "tuned/unet/diffusion_pytorch_model-00002-of-00002.safetensors",
            "tuned/text_encoder/model.safetensors",
        }


def test_biases_are_found_across_layouts(pair: Any, tmp_path: Path) -> None:
    tuned, base, true = with_vectors(pair, tmp_path)
    words = load_file(in_diffusers_words(tuned, tmp_path / "words.safetensors"))
    save_file(words, tmp_path / "words.safetensors")
    assert extract(tmp_path / "words.safetensors", base, tmp_path / "x.safetensors", "-t", 32, "--biases") == 0
    found = vectors_of(tmp_path / "x.safetensors")
    assert found.keys() == {
        "lora_unet_middle_block_1_proj_in.diff_b",
        "lora_unet_middle_block_1_norm.w_norm",
        "lora_unet_middle_block_1_norm.b_norm",
    }
    norm = found["lora_unet_middle_block_1_norm.w_norm"]
    np.testing.assert_array_equal(norm, true[f"{UNET}.middle_block.1.norm.weight"])


def test_an_empty_folder_is_refused(pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert extract(tmp_path / "empty", pair[1], tmp_path / "x.safetensors") == 1
    assert "a base model was expected" in capsys.readouterr().err


def test_a_layer_of_another_size_is_named(pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tuned, base, _ = pair
    tensors, key = load_file(tuned), "model.diffusion_model.middle_block.1.proj_in.weight"
    tensors[key] = np.zeros((tensors[key].shape[0], tensors[key].shape[1] + 5), np.float32)
    save_file(tensors, tmp_path / "wide.safetensors")
    assert extract(tmp_path / "wide.safetensors", base, tmp_path / "x.safetensors", "--rank", 2) == 0
    assert "lora_unet_middle_block_1_proj_in" in capsys.readouterr().out


# Targets ------------------------------------------------------------------------------------------------------


def test_a_size_is_never_passed(pair: Any, tmp_path: Path) -> None:
    tuned, base, _ = pair
    assert extract(tuned, base, tmp_path / "x.safetensors", "--size", 0.2) == 0
    assert 0.18 * 2**20 < (tmp_path / "x.safetensors").stat().st_size <= 0.2 * 2**20


def test_retention_is_that_of_the_whole_difference(pair: Any, tmp_path: Path) -> None:
    """Including what is outside of the dimensions that were computed."""
    tuned, base, true = pair
    report = tmp_path / "report.json"
    arguments = ("-r", "fro_lora=1,retain=0.8", "--max-rank", 2, "-t", 32, "--report", report, "--report-layers")
    assert extract(tuned, base, tmp_path / "x.safetensors", *arguments) == 0
    reported, _ = json.loads(report.read_text("utf-8"))
    names = ordinary(true)
    whole = np.sqrt(sum(np.linalg.norm(true[name]) ** 2 for name in names))
    found = deltas(tmp_path / "x.safetensors")
    lost = np.sqrt(sum(np.linalg.norm(true[name] - found.get(name, 0.0)) ** 2 for name in names))
    assert reported["retention"] == pytest.approx(np.sqrt(1 - (lost / whole) ** 2), abs=1e-4)
    assert 0.8 <= reported["retention"] < 0.81
    for layer in reported["layers"]:
        wanted = np.linalg.norm(true[layer["name"]] - found.get(layer["name"], 0.0)) / np.linalg.norm(
            true[layer["name"]]
        )
        assert layer["error_lora"] == pytest.approx(wanted, abs=2e-3)


def test_a_share_beyond_reach_keeps_all_there_is(pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tuned, base, _ = pair
    assert extract(tuned, base, tmp_path / "x.safetensors", "-r", "fro_lora=1,retain=0.99", "--max-rank", 1) == 0
    assert "no recipe can keep more" in capsys.readouterr().out
    downs = [v for k, v in load_file(tmp_path / "x.safetensors").items() if "lora_down" in k]
    assert {len(down) for down in downs} == {1}


def test_several_recipes_take_one_difference(pair: Any, tmp_path: Path) -> None:
    tuned, base, _ = pair
    assert extract(tuned, base, f"{tmp_path}/", "-r", "rank=1:rank=2:fro_ckpt=1,thr=-3") == 0
    assert len(list(tmp_path.glob("tuned-base_*.safetensors"))) == 3


# The file -----------------------------------------------------------------------------------------------------


def test_the_metadata_is_that_of_a_lora_of_its_family(pair: Any, tmp_path: Path) -> None:
    tuned, base, _ = pair
    assert extract(tuned, base, tmp_path / "mine", "--rank", 2) == 0
    metadata = read_header(tmp_path / "mine.safetensors").metadata
    assert metadata["ss_base_model_version"] == "sdxl_base_v1-0"
    assert metadata["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert metadata["ss_network_module"] == "networks.lora"
    assert (metadata["ss_network_dim"], metadata["ss_output_name"]) == ("2", "mine")
    assert "difference of tuned.safetensors and base.safetensors" in metadata["ss_training_comment"]
    assert "modelspec.merged_from" not in metadata
    record = json.loads(metadata["resize_lora"])
    sources = [(one["name"], one["weight"]) for one in record["extracted"]]
    assert sources == [("tuned.safetensors", 1.0), ("base.safetensors", -1.0)]
    with Checkpoint(tuned).file as file:
        assert record["extracted"][0]["sha256"] == file.sha256()
    assert "merged" not in record


def test_nothing_but_the_result_is_left(pair: Any, tmp_path: Path) -> None:
    tuned, base, _ = pair
    assert extract(tuned, base, tmp_path / "x.safetensors", "--dry-run") == 0
    assert list(tmp_path.iterdir()) == []
    assert extract(tuned, base, tmp_path / "x.safetensors") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
    assert extract(tuned, base, tmp_path / "x.safetensors") == 1  # there already


def test_memory_is_that_of_a_few_layers(tmp_path: Path) -> None:
    """More layers, hardly more memory: the factors wait on the disk. Threads move the peak by a matrix or two."""
    peaks, rank = [], 64
    few, many = 8, 48
    for count in (few, few, many):  # the first one also imports modules
        names = [f"down_blocks.1.attentions.0.transformer_blocks.{i}.attn1.to_q.weight" for i in range(count)]
        names = [name.replace("attentions.0", f"attentions.{i % 2}") for i, name in enumerate(names)]
        base = {name: np.zeros((640, 640), np.float32) for name in names}
        chance = np.random.default_rng(0)
        tuned = {name: chance.standard_normal((640, 640), dtype=np.float32) for name in names}
        save_file(base, tmp_path / "base.safetensors")
        save_file(tuned, tmp_path / "tuned.safetensors")
        del base, tuned
        tracemalloc.start()
        arguments = ("--rank", rank, "--threads", 1, "--overwrite")
        assert extract(tmp_path / "tuned.safetensors", tmp_path / "base.safetensors", tmp_path / "x", *arguments) == 0
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    factors = (many - few) * 2 * 640 * rank * 4
    assert peaks[2] - peaks[1] < factors / 2
    assert peaks[2] < 14 * 640 * 640 * 4


# Refusals -----------------------------------------------------------------------------------------------------


def test_damaged_numbers_name_their_layer(pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tuned, base, _ = pair
    tensors = load_file(tuned)
    tensors["model.diffusion_model.middle_block.1.proj_in.weight"][0, 0] = np.nan
    save_file(tensors, tmp_path / "nan.safetensors")
    assert extract(tmp_path / "nan.safetensors", base, tmp_path / "x.safetensors") == 1
    errors = capsys.readouterr().err
    assert "middle_block_1_proj_in" in errors
    assert "NaN" in errors
    assert not (tmp_path / "x.safetensors").exists()


def test_what_makes_no_sense_is_reported(
    pair: Any, lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned, base, _ = pair
    out = tmp_path / "x.safetensors"
    assert extract(lora, base, out) == 1
    assert "no base model found" in capsys.readouterr().err
    assert extract(tuned, base, out, "--rank", 4, "--size", 3) == 2
    assert "one of --rank" in capsys.readouterr().err
    assert extract(tuned, base, out, "--rank", 0) == 2
    assert extract(tuned, base, out, "-r", "rank=1:rank=2") == 2
    assert extract(tuned, tmp_path / "none.safetensors", out) == 1
    before = tuned.read_bytes()
    assert extract(tuned, base, tuned, "--overwrite") == 1
    assert tuned.read_bytes() == before
    old = {f"model.diffusion_model.input_blocks.1.1.proj_in.{i}.weight": np.ones((4, 4), np.float32) for i in range(3)}
    save_file(old, tmp_path / "odd.safetensors")
    assert extract(tmp_path / "odd.safetensors", base, out) == 1
    assert "one kind" in capsys.readouterr().err


@pytest.mark.parametrize(("prefix", "other"), [("net.", "model.diffusion_model."), ("", "net."), ("dit.", "net.")])
def test_models_of_other_prefixes_are_compared(prefix: str, other: str, tmp_path: Path) -> None:
    values = {f"blocks.{n}.attn.q_proj.weight": np.eye(8, dtype=np.float32) for n in range(3)}
    save_file(
        {prefix + name: (n + 1) * value for n, (name, value) in enumerate(values.items())}, tmp_path / "a.safetensors"
    )
    save_file({other + name: value for name, value in values.items()}, tmp_path / "b.safetensors")
    assert extract(tmp_path / "a.safetensors", tmp_path / "b.safetensors", tmp_path / "out", "-r", "rank=8") == 0
    made = load_file(tmp_path / "out.safetensors")
    assert {key.split(".")[0] for key in made} == {f"lora_unet_blocks_{n}_attn_q_proj" for n in (1, 2)}


def test_models_without_a_layer_in_common_are_not_called_equal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One layer of three is compared and equal: that says nothing of the others."""
    square = np.eye(8, dtype=np.float32)
    for name in ("one", "two"):
        own = {f"blocks.{n}.{name}.q_proj.weight": square for n in range(2)}
        save_file(own | {"blocks.0.both.weight": square}, tmp_path / f"{name}.safetensors")
    assert extract(tmp_path / "one.safetensors", tmp_path / "two.safetensors", tmp_path) == 1
    error = capsys.readouterr().err
    assert "1 of 5 layers could be compared" in error, error
    assert "4 are in one of the two alone" in error
    assert "no layer differs" not in error
