"""The norms of a checkpoint in a small file: the same results, and a refusal where weights are needed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lib_resize.base.checkpoint import Checkpoint
from lib_resize.base.norms_file import FORMAT
from lib_resize.base.pairing import partner
from lib_resize.cli.main import main
from lib_resize.demo.synthetic import LoraOptions, write_lora
from lib_resize.errors import DamagedFileError, FileError, UnsupportedError


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def norms(checkpoint, tmp_path_factory) -> Path:
    path: Path = tmp_path_factory.mktemp("norms") / "base.json"
    assert run("base", "export", checkpoint, "-o", path) == 0
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    "recipe", ["fro_ckpt=1,thr=-3.5", "spn_ckpt=1,size=0.3", "fro_ckpt=0.5,spn_ckpt=0.5,retain=0.9"]
)
def test_results_are_those_of_the_checkpoint(checkpoint, norms, lora, tmp_path, recipe, monkeypatch) -> None:
    assert run("resize", lora, "--base", checkpoint, "-o", tmp_path / "a", "-r", recipe) == 0
    monkeypatch.setenv("RESIZE_LORA_CACHE", str(tmp_path / "empty"))
    assert run("resize", lora, "--base", norms, "-o", tmp_path / "b", "-r", recipe) == 0
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert files(tmp_path / "a") != {}


def test_the_default_recipe_is_that_of_a_base_model(norms, lora, tmp_path) -> None:
    assert run("resize", lora, "--base", norms, "-o", tmp_path) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["pastry_frockpt1_th-3.5.safetensors"]


def test_every_weight_that_a_layer_can_change_has_norms(checkpoint, norms) -> None:
    known = json.loads(norms.read_bytes())["norms"]
    from lib_resize.base.model_index import read_base
    from lib_resize.base.partner_norms import norm_key
    from lib_resize.base.store import open_store
    from lib_resize.names.family import layers

    store = open_store(checkpoint)
    model = read_base(store.shapes)
    assert model.family is not None
    found = [partner(model, name, "") for name in layers(model.family)]
    names = {norm_key(one) for one in found if one is not None}
    assert len(names) > 250
    assert names <= known.keys()
    assert all(fro > 0 and spn > 0 for fro, spn in known.values())
    store.close()


@pytest.mark.parametrize("recipe", ["subspace=1,thr=-2"])
def test_recipes_that_need_weights_are_refused(norms, lora, tmp_path, recipe, capsys) -> None:
    assert run("resize", lora, "--base", norms, "-o", tmp_path, "-r", recipe) == 1
    assert "norms of a base model only" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_files_that_need_weights_are_refused(norms, tmp_path, capsys) -> None:
    dora = write_lora(tmp_path / "dora.safetensors", LoraOptions(dora=True))
    assert run("resize", dora, "--base", norms, "-o", tmp_path / "out", "-r", "rank=2") == 1
    assert "Give the checkpoint with --base" in capsys.readouterr().err


def test_nothing_is_replaced_but_an_earlier_norms_file(checkpoint, norms, tmp_path, capsys) -> None:
    before = norms.read_bytes()
    assert run("base", "export", checkpoint, "-o", norms) == 1
    assert run("base", "export", checkpoint, "-o", norms, "--overwrite") == 0
    assert norms.read_bytes() == before
    other = tmp_path / "other.json"
    other.write_text("{}")
    assert run("base", "export", checkpoint, "-o", other, "--overwrite") == 1
    assert other.read_text() == "{}"
    assert run("base", "export", checkpoint, "-o", tmp_path / "x.txt") == 2
    assert run("base", "export", norms, "-o", tmp_path / "y.json") == 1
    capsys.readouterr()


def test_other_files_are_no_base_model(norms, tmp_path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(FileError):
        Checkpoint(path)
    good = json.loads(norms.read_bytes())
    bad: list[object] = [
        {},
        [],
        {**good, "format": "x"},
        {**good, "tensors": {"a": 1}},
        {**good, "norms": {"a": [1, "x"]}},
    ]
    for document in [*bad, {**good, "norms": {"a": [float("nan"), 1]}}]:
        path.write_text(json.dumps(document))
        with pytest.raises(DamagedFileError):
            Checkpoint(path)
    path.write_text("{")
    with pytest.raises(DamagedFileError):
        Checkpoint(path)
    path.write_text(json.dumps({**good, "norms_version": 0}))
    with pytest.raises(UnsupportedError, match="base export"):
        Checkpoint(path)
    assert good["format"] == FORMAT
