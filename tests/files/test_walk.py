"""Laws of walking: each folder once, in spite of links, and a pattern finds what glob finds."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib_resize.demo.synthetic import LoraOptions, write_lora
from lib_resize.files.walk import exists, is_file, is_folder, matching
from lib_resize.hosts.scan import lora_paths
from lib_resize.prompts.lookup import LoraFolders
from lib_resize.prompts.sources import expand, files_below
from lib_resize.studies.survey import SurveyOptions, survey


def link(path: Path, target: str | Path) -> None:
    try:
        path.symlink_to(target, target_is_directory=True)
    except OSError:
        pytest.skip("this disk has no links")


@pytest.fixture
def tangled(tmp_path: Path) -> Path:
    """Two links to the folder itself, one that leads up, and one folder that is linked twice."""
    root = tmp_path / "loras"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    for path in (root / "a.safetensors", root / "sub" / "b.safetensors", tmp_path / "outside" / "c.safetensors"):
        path.touch()
    link(root / "self1", ".")
    link(root / "self2", ".")
    link(root / "sub" / "up", "..")
    link(root / "again1", tmp_path / "outside")
    link(root / "again2", tmp_path / "outside")
    return root


def relative(paths: Iterator[Path] | list[Path], root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in paths]


ONCE = ["a.safetensors", "again1/c.safetensors", "sub/b.safetensors"]


def test_each_file_is_found_once_by_all_that_walk(tangled: Path) -> None:
    assert relative(list(files_below(tangled)), tangled) == ONCE
    assert relative([source.members[0].path for source in expand([str(tangled)])], tangled) == ONCE
    assert relative(list(lora_paths(tangled)), tangled) == ONCE
    assert relative(matching(f"{tangled}/**/*.safetensors"), tangled) == ONCE
    for name in "abc":
        assert LoraFolders([tangled]).find(name).stem == name


def test_a_survey_of_linked_folders_has_each_file_once(tmp_path: Path) -> None:
    root = tmp_path / "loras"
    root.mkdir()
    write_lora(root / "a.safetensors", LoraOptions(rank=2, seed=1))
    link(root / "self1", ".")
    link(root / "self2", ".")
    found = survey(root, SurveyOptions(cache=tmp_path / "cache.json", threads=1))
    assert [row["file"] for row in found.rows()] == ["a.safetensors"]


def test_a_folder_is_found_under_its_own_path_where_it_has_one(tmp_path: Path) -> None:
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "x.safetensors").touch()
    link(tmp_path / "a", "z")
    assert relative(list(files_below(tmp_path)), tmp_path) == ["z/x.safetensors"]


def test_a_link_to_a_file_that_is_found_anyway_is_no_second_lora(tmp_path: Path) -> None:
    (tmp_path / "b.safetensors").touch()
    link(tmp_path / "a.safetensors", "b.safetensors")
    link(tmp_path / "nowhere.safetensors", "gone.safetensors")
    found = [source.members[0].path for source in expand([str(tmp_path)])]
    assert relative(found, tmp_path) == ["b.safetensors", "nowhere.safetensors"]
    assert relative(list(lora_paths(tmp_path)), tmp_path) == ["a.safetensors", "b.safetensors", "nowhere.safetensors"]


def test_a_folder_that_cannot_be_read_is_reported_and_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.safetensors").touch()
    real = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name == "a":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    skipped: list[OSError] = []
    (source,) = expand([str(tmp_path)], skipped.append)
    assert source.name == "x"
    assert [error.filename for error in skipped] == [str(tmp_path / "a")]


@pytest.mark.parametrize("pattern", ["*", "*/*", "**/*.safetensors", "s*/**/*", "**", "[ab]*", "sub/*", "no/*", "?"])
def test_patterns_find_what_glob_finds(tmp_path: Path, pattern: str) -> None:
    for name in ("a.safetensors", ".hidden.safetensors", "sub/b.safetensors", "sub/deep/c.safetensors", ".git/d"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    files = {path for path in matching(f"{tmp_path}/{pattern}") if path.is_file()}
    assert files == {Path(name) for name in glob.glob(f"{tmp_path}/{pattern}", recursive=True) if Path(name).is_file()}  # noqa: PTH207


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "x/" * 3000])
def test_names_that_no_disk_can_hold_are_not_there(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    assert [exists(path), is_file(path), is_folder(path)] == [False] * 3
    assert [source.members[0].path.name for source in expand([str(path)])] == [path.name]
