"""``rank=`` by four methods, filled up, and the way back up: what is promised holds for the files that are written."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from lib_resize.adapters.write.style import Style
from lib_resize.cli import main as cli
from lib_resize.engine.batch import resize
from lib_resize.engine.settings import Settings
from lib_resize.files.header import read_header
from lib_resize.plans import Plan
from lib_resize.prompts.sources import expand
from lib_resize.recipe.grammar import parse_recipes
from tests.adapters.lorafiles import best, delta, kohya, relative, tensors_of, write

STEMS = ("lora_unet_a", "lora_unet_b")
METHODS = ("svd", "rsvd", "projection", "sparse")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    written: Path = write(
        tmp_path / "x.safetensors", kohya("lora_unet_a", rank=12) | kohya("lora_unet_b", 40, 30, 8, seed=1)
    )
    return written


def made(source: Path, recipe: str, **settings) -> tuple[dict[str, np.ndarray], Plan]:
    (outcome,) = resize(expand([str(source)]), Settings(recipes=parse_recipes(recipe), style=Style("F32"), **settings))
    assert outcome.error is None, outcome.error
    assert outcome.plan is not None
    return tensors_of(Path(outcome.plan.output)), outcome.plan


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rescale", ["", ",rescale=0.5"])
def test_retention_and_errors_are_those_of_the_written_deltas(source, method, rescale) -> None:
    before = tensors_of(source)
    found, plan = made(source, f"rank=3,{method}{rescale}")
    strength = 0.5 if rescale else 1.0
    errors = [np.linalg.norm(delta(found, stem) / strength - delta(before, stem)) for stem in STEMS]
    norms = [np.linalg.norm(delta(before, stem)) for stem in STEMS]
    shares = [layer.error_lora for layer in plan.layers]
    np.testing.assert_allclose(shares, np.array(errors) / norms, rtol=1e-4)
    share = math.hypot(*errors) / math.hypot(*norms)
    assert plan.retention == pytest.approx(np.sqrt(max(0.0, 1 - share**2)), abs=1e-5)
    assert [layer.new_rank for layer in plan.layers] == [3, 3]
    assert found["lora_unet_a.lora_down.weight"].shape[0] == 3


def test_no_method_loses_less_than_the_exact_one_and_the_randomised_one_hardly_more(source) -> None:
    lost = {method: [layer.error_lora for layer in made(source, f"rank=3,{method}")[1].layers] for method in METHODS}
    for method in METHODS:
        assert np.all(np.array(lost[method]) > np.array(lost["svd"]) * (1 - 1e-5))
    np.testing.assert_allclose(lost["rsvd"], lost["svd"], rtol=1e-3)
    assert min(lost["projection"]) > 3 * max(lost["svd"])


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_that_has_no_more_than_the_rank_is_exact_by_every_method(source, method) -> None:
    before = tensors_of(source)
    found, plan = made(source, f"rank=8,{method}")
    assert relative(delta(found, "lora_unet_b"), delta(before, "lora_unet_b")) < 1e-6
    whole, _ = made(source, f"rank=12,{method}", suffix="_whole")
    for stem in STEMS:
        assert relative(delta(whole, stem), delta(before, stem)) < 1e-6
    assert plan.layers[1].error_lora < 1e-7


@pytest.mark.parametrize("method", ["rsvd", "projection", "sparse"])
def test_the_seed_decides_and_nothing_else(source, method) -> None:
    def data(name: str, seed: int, threads: int) -> bytes:
        made(source, f"rank=2,{method},seed={seed}", suffix=name, threads=threads)
        path = source.with_name(f"x{name}.safetensors")
        found: bytes = path.read_bytes()[read_header(path).data_start :]
        return found

    assert data("_a", 7, 1) == data("_b", 7, 2)
    assert data("_c", 8, 1) != data("_a2", 7, 1)


def test_oversampling_and_iterations_reach_the_file(source) -> None:
    rough = made(source, "rank=3,rsvd,niter=0,oversample=0")[1].retention
    fine = made(source, "rank=3,rsvd,niter=6,oversample=9")[1].retention
    assert rough < fine - 1e-5


def test_projections_say_how_far_off_they_are(source) -> None:
    plan = made(source, "rank=2,projection")[1]
    (note,) = [note for note in plan.notes if note.startswith("projection: ")]
    whole = sum(np.linalg.norm(delta(tensors_of(source), stem)) ** 2 for stem in STEMS)
    lost = sum(
        (layer.error_lora * np.linalg.norm(delta(tensors_of(source), stem))) ** 2
        for layer, stem in zip(plan.layers, STEMS, strict=True)
    )
    assert float(note.split("off by ")[1].split("%")[0]) == pytest.approx(100 * np.sqrt(lost / whole), abs=0.06)


# Padding -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_padding_gives_all_layers_the_same_rank_and_changes_no_delta(tmp_path, method) -> None:
    tensors = kohya("lora_unet_a", rank=12) | kohya("lora_unet_b", 40, 30, 4, seed=1)
    empty = kohya("lora_unet_zero", rank=5)
    empty["lora_unet_zero.lora_up.weight"] *= 0
    source = write(tmp_path / "x.safetensors", tensors | empty)
    loose, _ = made(source, f"rank=8,{method}", suffix="_loose")
    found, plan = made(source, f"rank=8,{method},pad")
    for stem in (*STEMS, "lora_unet_zero"):
        assert found[f"{stem}.lora_down.weight"].shape[0] == found[f"{stem}.lora_up.weight"].shape[1] == 8
    for stem in STEMS:
        assert relative(delta(found, stem), delta(loose, stem)) < 1e-6
    assert not delta(found, "lora_unet_zero").any()
    assert np.all(found["lora_unet_b.lora_up.weight"][:, 4:] == 0)
    assert np.all(found["lora_unet_b.lora_down.weight"][4:] == 0)
    assert [layer.new_rank for layer in plan.layers] == [8, 8, 8]
    assert plan.dropped == ()
    assert Path(plan.output).stat().st_size == plan.bytes_after
    assert read_header(Path(plan.output)).metadata["ss_network_dim"] == "8"


def test_convolutions_are_padded_to_their_own_rank(tmp_path) -> None:
    conv = kohya("lora_unet_conv", 24, 18, 2)
    conv["lora_unet_conv.lora_down.weight"] = conv["lora_unet_conv.lora_down.weight"].reshape(2, 2, 3, 3)
    conv["lora_unet_conv.lora_up.weight"] = conv["lora_unet_conv.lora_up.weight"].reshape(24, 2, 1, 1)
    source = write(tmp_path / "x.safetensors", kohya("lora_unet_a", rank=2) | conv)
    found, _ = made(source, "rank=6,max_conv_rank=4,pad")
    assert found["lora_unet_a.lora_down.weight"].shape == (6, 16)
    assert found["lora_unet_conv.lora_down.weight"].shape == (4, 2, 3, 3)
    assert found["lora_unet_conv.lora_up.weight"].shape == (24, 4, 1, 1)


# Upsampling --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_upsampling_leaves_the_delta_and_adds_directions_orthonormal_to_the_old(tmp_path, dtype) -> None:
    rounding = {"F32": 1e-6, "F16": 1e-3, "BF16": 8e-3}[dtype]
    tensors = kohya("lora_unet_a", rank=4) | kohya("lora_unet_b", 40, 30, 2, seed=1, alpha=None)
    source = write(tmp_path / "x.safetensors", tensors)
    words = ["upsample", str(source), "--rank", "10", "-t", {"F32": "same", "F16": "16", "BF16": "bf16"}[dtype]]
    assert cli.main(words) == 0
    found = tensors_of(tmp_path / "x_rank10_extend.safetensors")
    for stem, old in (("lora_unet_a", 4), ("lora_unet_b", 2)):
        assert relative(delta(found, stem), delta(tensors_of(source), stem)) < rounding
        up, down = found[f"{stem}.lora_up.weight"], found[f"{stem}.lora_down.weight"]
        assert down.shape[0] == 10
        assert not up[:, old:].any()
        new, first = down[old:], down[:old]
        np.testing.assert_allclose(new @ new.T, np.eye(10 - old), atol=4 * rounding)
        norms = np.linalg.norm(first, axis=1)
        np.testing.assert_allclose(new @ first.T / norms, np.zeros((10 - old, old)), atol=4 * rounding)
        assert np.linalg.matrix_rank(down) == 10


def test_what_was_upsampled_can_be_reduced_again_without_loss(tmp_path) -> None:
    source = write(tmp_path / "x.safetensors", kohya("lora_unet_a", rank=4))
    made(source, "rank=12,extend")
    found, plan = made(tmp_path / "x_rank12_extend.safetensors", "rank=4")
    assert relative(delta(found, "lora_unet_a"), delta(tensors_of(source), "lora_unet_a")) < 1e-5
    assert plan.retention == pytest.approx(1.0)


def test_a_layer_above_the_rank_is_refused_by_name(source, capsys) -> None:
    assert cli.main(["upsample", str(source), "--rank", "10"]) == 1
    assert "layer lora_unet_a has rank 12 already, above 10" in capsys.readouterr().err
    assert [path.name for path in source.parent.iterdir()] == ["x.safetensors"]


def test_a_layer_without_room_for_the_directions_is_refused(source, capsys) -> None:
    assert cli.main(["upsample", str(source), "--rank", "20"]) == 1
    assert "lora_unet_a: 20 directions were requested, but its inputs have only 16" in capsys.readouterr().err
    assert [path.name for path in source.parent.iterdir()] == ["x.safetensors"]


# The command -------------------------------------------------------------------------------------------------


def test_options_say_the_same_as_words_of_the_recipe(source, tmp_path) -> None:
    words = ["--method", "rsvd", "--niter", "3", "--oversample", "1", "--seed", "5", "--pad"]
    assert cli.main(["resize", str(source), "-r", "rank=9:medium", "-o", str(tmp_path / "o"), *words]) == 0
    records = [
        json.loads(read_header(path).metadata["resize_lora"])["recipe"] for path in sorted((tmp_path / "o").iterdir())
    ]
    assert sorted(records) == [
        "fro_lora=1,min_rank=1,retain=0.92",
        "rsvd,pad,niter=3,oversample=1,seed=5,rank=9",
    ]
    assert (tmp_path / "o" / "x_rank9_rsvd_pad_niter3_oversample1_seed5.safetensors").exists()


def test_an_option_of_methods_without_a_recipe_for_it_is_a_bad_command(source, capsys) -> None:
    assert cli.main(["resize", str(source), "-r", "medium", "--method", "rsvd"]) == 2
    assert "works only with a recipe of rank=" in capsys.readouterr().err


def test_finished_results_of_a_method_are_found_again(source, tmp_path, capsys) -> None:
    words = ["resize", str(source), "-r", "rank=3,sparse:rank=3,rsvd", "-o", str(tmp_path / "o"), "--skip-existing"]
    assert cli.main(words) == 0
    capsys.readouterr()
    assert cli.main(words) == 0
    assert capsys.readouterr().out.count("exists already") == 2


def test_one_rank_by_the_split_of_the_paper(source) -> None:
    """Both factors carry the root of the singular values: columns of up and rows of down have equal lengths."""
    found, _ = made(source, "rank=1")
    for stem in STEMS:
        up, down = found[f"{stem}.lora_up.weight"], found[f"{stem}.lora_down.weight"]
        assert np.linalg.norm(up) == pytest.approx(np.linalg.norm(down), rel=1e-5)
        assert relative(delta(found, stem), best(delta(tensors_of(source), stem), 1)) < 1e-6


@pytest.mark.parametrize("words", ["rank=2,rsvd", "rank=2,pad", "rank=9,extend"])
def test_other_kinds_than_lora_are_refused_with_a_remedy(tmp_path, words) -> None:
    rng = np.random.default_rng(0)
    shapes = {"w1_a": (12, 3), "w1_b": (3, 10), "w2_a": (12, 3), "w2_b": (3, 10)}
    loha = {f"lora_unet_a.hada_{role}": rng.standard_normal(shape).astype("f4") for role, shape in shapes.items()}
    source = write(tmp_path / "x.safetensors", loha)
    settings = Settings(recipes=parse_recipes(words), style=Style(convert="none"))
    (outcome,) = resize(expand([str(source)]), settings)
    assert "lora_unet_a is LoHa" in str(outcome.error)
    assert "--convert lora" in str(outcome.error)
