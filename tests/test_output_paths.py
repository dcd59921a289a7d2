"""Laws of results' paths: unique in their tree, the same in a second run, and found in linear time."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib_resize.engine import output_paths as places
from lib_resize.engine.output_paths import OutputPaths, SourcePaths
from lib_resize.files.walk import names_in
from lib_resize.prompts.sources import Member, Source
from lib_resize.recipe.grammar import parse_recipe


def source(path: str) -> Source:
    return Source((Member(Path(path)),), below=Path(path).parent)


def placed(names: OutputPaths, one: Source) -> Path:
    """As the batch does it: ask, claim, write."""
    paths = names.of(one)
    path = paths(one.name)
    paths.claim(path, one.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    paths.written(path)
    return path


def test_equal_names_are_numbered_and_a_second_run_finds_the_same(tmp_path: Path) -> None:
    sources = [source(f"{folder}/style.safetensors") for folder in "abcd"]
    first = [placed(OutputPaths(tmp_path, ""), one) for one in sources[:1]]
    names = OutputPaths(tmp_path, "")
    first = [placed(names, one) for one in sources]
    assert [path.relative_to(tmp_path).as_posix() for path in first] == [
        "a/style.safetensors", "b/style_2.safetensors", "c/style_3.safetensors", "d/style_4.safetensors"
    ]  # fmt: skip
    names = OutputPaths(tmp_path, "")
    assert [placed(names, one) for one in sources] == first


def test_what_the_run_wrote_is_found_without_another_look(tmp_path: Path) -> None:
    names, recipe = OutputPaths(tmp_path, "_x"), parse_recipe("rank=1")
    one = source("a.safetensors")
    assert names.existing(one, recipe) is None
    paths = names.of(one)
    assert paths.beginning("a") == []
    paths.written(tmp_path / "a_x.safetensors")
    paths.written(tmp_path / "a_x.safetensors")
    assert paths.beginning("a") == [tmp_path / "a_x.safetensors"]
    assert paths.beginning("b") == []


@pytest.mark.parametrize("suffix", [None, "_x"])
def test_each_folder_is_read_once_and_names_are_tried_a_few_times_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str | None
) -> None:
    """300 sources of one name: looking at the folder for each, or trying all numbers, would be 90,000 steps."""
    looks: list[Path] = []
    tries: list[str] = []
    real_taken = SourcePaths._is_taken

    def look(folder: Path) -> list[str]:
        looks.append(folder)
        return names_in(folder)

    def is_taken(paths: SourcePaths, name: str) -> bool:
        tries.append(name)
        return real_taken(paths, name)

    monkeypatch.setattr(places, "names_in", look)
    monkeypatch.setattr(SourcePaths, "_is_taken", is_taken)
    names, recipe = OutputPaths(tmp_path, suffix), parse_recipe("medium")
    for number in range(300):
        one = Source((Member(Path(f"{number}/style.safetensors")),))
        names.existing(one, recipe)
        paths = names.of(one)
        paths.claim(paths(one.name), one.name)
    assert looks == [tmp_path]
    assert len(tries) <= 3 * 300


@pytest.mark.parametrize("suffix", ["/../../evil", "\\..\\evil", "\0", "\x1b[2J", "x" * 400, "/etc/passwd"])
def test_no_suffix_leads_out_of_the_folder(tmp_path: Path, suffix: str) -> None:
    path = OutputPaths(tmp_path, suffix).expected(source("a.safetensors"), parse_recipe("rank=1"))
    assert path is not None
    assert path.parent == tmp_path
    assert path.name.isprintable()
    assert len(path.name.encode()) <= 255
