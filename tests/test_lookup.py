"""Names in prompts find their files by the hosts' rules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from lib_resize.errors import FileError, UsageError
from lib_resize.prompts.lookup import LoraFolders


def lora(path: Path, alias: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"x": np.zeros(1, np.float32)}, path, {"ss_output_name": alias} if alias else None)
    return path


@pytest.fixture
def folders(tmp_path: Path) -> LoraFolders:
    lora(tmp_path / "one" / "ink.safetensors", "Ink style")
    lora(tmp_path / "one" / "deep" / "pastry v1.5.safetensors", "dup")
    lora(tmp_path / "two" / "char.safetensors", "dup")
    lora(tmp_path / "two" / "a" / "twin.safetensors")
    lora(tmp_path / "two" / "b" / "twin.safetensors", "twin b")
    (tmp_path / "two" / "broken.safetensors").write_bytes(b"no header")
    return LoraFolders([tmp_path / "one", tmp_path / "two", tmp_path / "one"])


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("ink", "ink"),
        ("Ink style", "ink"),
        ("pastry v1.5", "pastry v1.5"),
        ("deep/pastry v1.5", "pastry v1.5"),
        ("a/twin", "twin"),
        ("twin b", "twin"),
        ("broken", "broken"),
    ],
)
def test_a_name_is_a_file_name_or_an_alias_in_any_root(folders: LoraFolders, name: str, file: str) -> None:
    assert folders.find(name).stem == file


@pytest.mark.parametrize("name", ["twin", "dup"])
def test_two_files_of_one_name_are_named_both(folders: LoraFolders, name: str) -> None:
    with pytest.raises(FileError, match="2 files"):
        folders.find(name)


def test_the_error_for_a_missing_name_suggests_similar_ones(folders: LoraFolders) -> None:
    with pytest.raises(FileError, match="Similar names: ink"):
        folders.find("inkk")


def test_a_step_after_a_name_is_reported_as_a_step(folders: LoraFolders) -> None:
    with pytest.raises(FileError, match="is a step"):
        folders.find("ink@0.5")


def test_a_folder_must_be_there(tmp_path: Path) -> None:
    for roots in ([], [tmp_path / "no"]):
        with pytest.raises(UsageError, match="--lora-dir"):
            LoraFolders(roots)
