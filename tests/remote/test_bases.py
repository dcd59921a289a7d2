"""The base model on many nodes: norms travel with the output, and a checkpoint is fetched once a node."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from lib_resize.errors import UsageError
from lib_resize.remote.bases import once_a_node
from lib_resize.remote.driver import base_of
from lib_resize.remote.local_store import LocalPlace
from lib_resize.remote.order import OrderBase
from lib_resize.remote.stores import StoreError
from tests.remote.material import contents, run
from tests.remote.places import Faults, FaultyPlace

RECIPE = "fro_ckpt=1,thr=-3"


def test_norms_a_checkpoint_and_the_plain_command_make_the_same_files(checkpoint, lora, tmp_path) -> None:
    norms = tmp_path / "base.json"
    assert run("base", "export", checkpoint, "-o", norms) == 0
    for name, base, more in [
        ("plain", checkpoint, []),
        ("norms", norms, ["--shard", "0/1"]),
        ("whole", checkpoint, ["--shard", "0/1"]),
    ]:
        assert run("resize", lora, "-o", tmp_path / name, "-r", RECIPE, "--base", base, *more) == 0
    assert contents(tmp_path / "norms") == contents(tmp_path / "whole") == contents(tmp_path / "plain") != {}


def test_a_checkpoint_in_a_store_is_fetched_by_the_worker(checkpoint, lora, tmp_path, monkeypatch) -> None:
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setenv("RESIZE_LORA_CACHE", str(tmp_path / "cache"))
    fsspec.filesystem("memory").put_file(str(checkpoint), "/models/sdxl.safetensors")
    arguments = ["resize", lora, "-r", RECIPE, "--base", "memory://models/sdxl.safetensors"]
    assert run(*arguments, "-o", tmp_path / "out") == 0
    assert run("resize", lora, "-r", RECIPE, "--base", checkpoint, "-o", tmp_path / "plain") == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "plain") != {}
    assert len(list((tmp_path / "cache" / "base").rglob("*.safetensors"))) == 1


def test_recipes_that_need_weights_are_refused_before_anything_runs(checkpoint, lora, tmp_path, capsys) -> None:
    assert run("base", "export", checkpoint, "-o", tmp_path / "base.json") == 0
    arguments = ["resize", lora, "-o", tmp_path / "out", "--base", tmp_path / "base.json", "--shard", "0/1"]
    assert run(*arguments, "-r", "subspace=1,thr=-1") == 2
    assert "needs the weights" in capsys.readouterr().err


def test_one_of_many_processes_fetches(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RESIZE_LORA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "base.safetensors").write_bytes(b"weights")
    faults, found = Faults(), []
    place = FaultyPlace(tmp_path, faults)
    threads = [
        threading.Thread(target=lambda: found.append(once_a_node(place, "base.safetensors", "x"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults.log == ["fetch"]
    assert {path.read_bytes() for path in found} == {b"weights"}


def test_a_fetch_that_fails_leaves_nothing_under_the_name(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RESIZE_LORA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "base.safetensors").write_bytes(b"weights")
    with pytest.raises(StoreError):
        once_a_node(FaultyPlace(tmp_path, Faults(0, after=True)), "base.safetensors", "x")
    assert list((tmp_path / "cache").rglob("*.safetensors")) == []
    assert once_a_node(LocalPlace(tmp_path), "base.safetensors", "x").read_bytes() == b"weights"


def test_the_identity_is_that_of_the_content(checkpoint, tmp_path) -> None:
    pytest.importorskip("fsspec")
    copy = Path(tmp_path / "renamed.safetensors")
    copy.write_bytes(checkpoint.read_bytes())
    one, other = base_of(str(checkpoint), str(tmp_path)), base_of(str(copy), str(tmp_path))
    assert one.identity == other.identity
    assert isinstance(one, OrderBase)
    with pytest.raises(UsageError, match="no such file"):
        base_of("memory://nowhere/x.safetensors", str(tmp_path))
