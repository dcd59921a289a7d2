"""The Python API: each function on real files, and its examples as they are documented."""

from __future__ import annotations

import doctest
import hashlib
import json
import os
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import lib_resize
from lib_resize import api, api_replacing
from lib_resize.demo.synthetic import LoraOptions, write_checkpoint, write_lora
from lib_resize.errors import FileError, OutputError, RecipeError, UsageError
from lib_resize.files.reader import SafeFile
from lib_resize.prompts import tags

FUNCTIONS = ("resize", "plan", "analyse", "inspect", "merge", "extract", "upsample", "expand", "resize_all")
HOMES: dict[str, ModuleType] = {
    **dict.fromkeys(FUNCTIONS, api),
    "replace": api_replacing,
    "restore": api_replacing,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    folder = tmp_path_factory.mktemp("api")
    write_lora(folder / "pastry.safetensors", LoraOptions(rank=8, seed=1))
    write_lora(folder / "ink_locon.safetensors", LoraOptions(rank=4, conv=True, conv_rank=2, seed=2))
    write_checkpoint(folder / "tuned.safetensors", seed=3)
    os.link(checkpoint, folder / "base.safetensors")
    return folder


@pytest.fixture
def pastry(folder: Path) -> Path:
    return folder / "pastry.safetensors"


@pytest.mark.parametrize("name", HOMES)
def test_the_example_of_a_function_runs(
    name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shutil.copytree(folder, tmp_path / "loras"))
    (found,) = doctest.DocTestFinder(recurse=False).find(
        getattr(HOMES[name], name), name, globs=vars(HOMES[name]).copy()
    )
    assert found.examples
    failed: list[str] = []
    doctest.DocTestRunner().run(found, out=failed.append)
    assert not failed, "".join(failed)


@pytest.mark.parametrize("module", [lib_resize, tags], ids=lambda module: module.__name__)
def test_the_examples_of_a_module_run(module: ModuleType) -> None:
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed


@pytest.mark.parametrize("name", HOMES)
def test_a_function_is_public_also_when_all_modules_are_imported(name: str) -> None:
    import lib_resize.cli.main
    import lib_resize.cli.work

    assert getattr(lib_resize, name) is getattr(HOMES[name], name)


def test_resize_writes_one_file_and_leaves_the_source(pastry: Path, tmp_path: Path) -> None:
    before = hashlib.sha256(pastry.read_bytes()).digest()
    result = lib_resize.resize(pastry, "rank=2", output=tmp_path / "新 name.safetensors", dtype="bf16")
    assert result.path == tmp_path / "新 name.safetensors"
    assert result.path.stat().st_size == result.plan.bytes_after
    assert {layer.new_rank for layer in result.plan.layers} == {0, 2}, "zero layers have none"
    with SafeFile(result.path) as file:
        assert {entry.dtype for key, entry in file.header.entries.items() if "lora_up" in key} == {"BF16"}
    assert hashlib.sha256(pastry.read_bytes()).digest() == before


def test_a_plan_is_what_a_resize_then_does(pastry: Path, checkpoint: Path, tmp_path: Path) -> None:
    planned = lib_resize.plan(pastry, base=checkpoint)
    result = lib_resize.resize(pastry, base=checkpoint, output=tmp_path)
    assert planned.recipe == result.plan.recipe
    assert planned.bytes_after == result.plan.bytes_after == result.path.stat().st_size
    assert list(tmp_path.iterdir()) == [result.path]


def test_a_merge_with_strengths_in_pairs_may_name_a_file_twice(pastry: Path, tmp_path: Path) -> None:
    result = lib_resize.merge([(pastry, 0.5), (pastry, 0.25)], tmp_path / "sum.safetensors")
    assert {layer.new_rank for layer in result.plan.layers} == {0, 8}


def test_an_analysis_has_the_numbers_of_a_plan_and_of_the_tensors(pastry: Path, checkpoint: Path) -> None:
    found = lib_resize.analyse(pastry, "low:fro_ckpt=1,thr=-3.5", base=checkpoint, dtype="32")
    for size, recipe in zip(found.recipes, ("low", "fro_ckpt=1,thr=-3.5"), strict=True):
        planned = lib_resize.plan(pastry, recipe, base=checkpoint, dtype="32")
        assert (size.recipe, size.retention) == (planned.recipe, planned.retention)
        assert size.bytes == pytest.approx(planned.bytes_after, abs=64)  # the length of the new name
    layer = next(one for one in found.layers if one.effective_rank)
    tensors = load_file(pastry)
    up, down = (tensors[f"{layer.name}.lora_{part}.weight"].astype(np.float64) for part in ("up", "down"))
    scale = float(tensors[f"{layer.name}.alpha"]) / layer.rank
    assert layer.singular_values == pytest.approx(np.linalg.svd(scale * up @ down)[1][:8], rel=1e-4)
    assert sum(one.bytes for one in found.layers) < found.bytes
    assert {"fro_ckpt=1", "fro_lora=1", "rank"} <= found.curves.keys()
    assert all(curve == tuple(sorted(curve)) for curve in found.curves.values())
    assert json.loads(json.dumps(found.as_json()))["layers"][0]["rank"] == 8


def test_an_analysis_without_a_base_model_refuses_recipes_that_need_one(pastry: Path) -> None:
    with pytest.raises(UsageError, match="pass a checkpoint as base"):
        lib_resize.analyse(pastry, "medium:fro_ckpt=1,thr=-3.5")


def test_an_extracted_lora_has_a_rank_of_its_own_for_convolutions(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "difference.safetensors"
    made = lib_resize.extract(
        folder / "tuned.safetensors", folder / "base.safetensors", output, rank=4, conv_rank=2, text_encoders=False
    )
    assert {layer.new_rank for layer in made.plan.layers} == {2, 4}


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"source": "absent.safetensors"}, FileError, "absent.safetensors"),
        ({"recipe": "medium:low"}, UsageError, "2 recipes"),
        ({"recipe": "mdium"}, RecipeError, "mdium"),
        ({"dtype": "float16"}, UsageError, "use one of 16, 32, bf16, 8, same"),
        ({"naming": "comfy"}, UsageError, "use one of keep, kohya"),
        ({"convert": "yes"}, UsageError, "use one of auto"),
        ({"source": "."}, UsageError, "is a folder"),
        ({"recipe": "fro_ckpt=1,thr=-3.5"}, UsageError, "base model"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_an_error_in_words(
    arguments: dict[str, str], error: type[Exception], words: str, pastry: Path, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"source": pastry, "output": tmp_path, **arguments}
    with pytest.raises(error, match=words):
        lib_resize.resize(**given)
    assert list(tmp_path.iterdir()) == []


def test_a_result_that_is_there_stays_without_overwrite(pastry: Path, tmp_path: Path) -> None:
    first = lib_resize.resize(pastry, "low", output=tmp_path)
    with pytest.raises(OutputError, match=first.path.name):
        lib_resize.resize(pastry, "low", output=tmp_path)
    assert lib_resize.resize(pastry, "low", output=tmp_path, overwrite=True).path == first.path


@pytest.mark.parametrize("loras", [{}, {"a.safetensors": 0.0}], ids=str)
def test_a_merge_of_nothing_is_refused(loras: dict[str, float], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="strength other than 0"):
        lib_resize.merge(loras, tmp_path / "a.safetensors")
