"""Files, folders, patterns and merges as the user names them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lib_resize.errors import UsageError
from lib_resize.prompts.sources import expand


def members(argument: str) -> list[tuple[str, float]]:
    (source,) = expand([argument])
    return [(str(member.path), member.weight) for member in source.members]


def test_a_merge_has_names_and_weights() -> None:
    assert members("style.safetensors:0.6,char.safetensors:0.4") == [
        ("style.safetensors", 0.6),
        ("char.safetensors", 0.4),
    ]


def test_weights_may_be_left_away_and_be_negative() -> None:
    assert members("a,b:-0.5") == [("a", 1.0), ("b", -0.5)]


@pytest.mark.parametrize("name", [r"C:\loras\a.safetensors", "C:/loras/a.safetensors", r"D:\a", r"\\nas\loras\a"])
def test_windows_drive_letters_survive(name: str) -> None:
    assert members(name) == [(name, 1.0)]
    assert members(f"{name}:0.6,{name}2:0.4") == [(name, 0.6), (f"{name}2", 0.4)]


def test_the_suffix_may_be_left_away(tmp_path: Path) -> None:
    (tmp_path / "style v1.5.safetensors").touch()
    name = str(tmp_path / "style v1.5")
    assert members(f"{name}:0.6") == [(f"{name}.safetensors", 0.6)]
    assert members(name) == [(f"{name}.safetensors", 1.0)]


@pytest.mark.parametrize("name", ["a,b.safetensors", "a:0.5", "x:y,z.safetensors", "[a].safetensors", "what?*"])
def test_an_existing_file_of_any_kind_is_found_by_its_name(tmp_path: Path, name: str) -> None:
    if sys.platform == "win32" and set(name) & set(':?*"<>|'):
        pytest.skip("Windows allows no such name")
    (tmp_path / name).touch()
    assert members(str(tmp_path / name)) == [(str(tmp_path / name), 1.0)]


def test_a_missing_file_is_left_for_its_turn() -> None:
    assert members("missing.safetensors") == [("missing.safetensors", 1.0)]


def test_each_lora_is_taken_once_in_order(tmp_path: Path) -> None:
    for name in ("b", "A", "c"):
        (tmp_path / f"{name}.safetensors").touch()
    names = [s.name for s in expand([str(tmp_path / "c.safetensors"), str(tmp_path), str(tmp_path / "*.safetensors")])]
    assert names == ["c", "A", "b"]


def test_a_pattern_may_reach_through_folders(tmp_path: Path) -> None:
    (tmp_path / "x/y").mkdir(parents=True)
    (tmp_path / "x/y/deep.SAFETENSORS").touch()
    (tmp_path / "x/y/other.txt").touch()
    assert [s.name for s in expand([str(tmp_path / "**" / "*.SAFETENSORS")])] == ["deep"]
    assert [s.below for s in expand([str(tmp_path)])] == [Path("x/y")]


@pytest.mark.parametrize("argument", ["no-such-*.safetensors", "a:0.5,", ",a", "a:0,b:1", ":0.5,a"])
def test_what_cannot_be_meant_is_refused(argument: str) -> None:
    with pytest.raises(UsageError):
        expand([argument])


def test_an_empty_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no \.safetensors file"):
        expand([str(tmp_path)])


def test_a_merge_is_named_after_its_members() -> None:
    (source,) = expand(["loras/style.safetensors:0.6,loras/char.safetensors:0.4"])
    assert source.name == "style_0.6+char_0.4"
    assert not source.is_plain
