"""Laws of names: every system can store them, a prompt can contain them, and each is unique in a tree of folders."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lib_resize.files.file_names import MAX_STEM_BYTES, clean_stem, fold, names_in_tree, unique_path

any_text = st.text(st.characters(), max_size=400)


@given(any_text)
@example("CON")
@example("\ud800 . ")
@example("_" * 300)
def test_a_clean_stem_can_be_stored_and_said(stem):
    clean = clean_stem(stem)
    assert clean
    assert not re.search(r'[<>:"/\\|?*,=\x00-\x1f\x7f]', clean)
    assert clean == clean.strip(" ").rstrip(".").lstrip(".")
    assert len(f"{clean}.safetensors".encode()) <= 255
    assert len(f"{clean}.description.txt".encode()) <= 255
    assert not re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)", clean.split(".")[0].strip())


@given(any_text)
def test_cleaning_twice_is_cleaning_once(stem):
    assert clean_stem(clean_stem(stem)) == clean_stem(stem)


@pytest.mark.parametrize(
    "stem", ["my_lora_spnckpt1_size32_th-2.871", "风格 v1.0", "add_detail (x)", "it's [ok]", "a.b.c", "Ünï", "~x@1+2!"]
)
def test_an_ordinary_stem_stays(stem):
    assert clean_stem(stem) == stem


@pytest.mark.parametrize(
    ("stem", "clean"),
    [
        ("a:b", "a_b"),
        ("<lora:x:1>", "_lora_x_1_"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("C:\\x", "C__x"),
        ("a=1,b", "a_1_b"),
        ("name. . ", "name"),
        (".hidden", "hidden"),
        ("CON", "_CON"),
        ("nul.v1", "_nul.v1"),
        ("COM¹", "_COM¹"),
        ("console", "console"),
        ("", "lora"),
        ("...", "lora"),
    ],
)
def test_what_cannot_be_a_name_is_replaced(stem, clean):
    assert clean_stem(stem) == clean


@pytest.mark.parametrize("letter", ["a", "é", "中", "\U0001f600"])
def test_a_long_stem_is_cut_between_letters(letter):
    clean = clean_stem(letter * 500)
    assert set(clean) == {letter}
    assert MAX_STEM_BYTES - 3 <= len(clean.encode()) <= MAX_STEM_BYTES


def test_a_free_name_is_used_unchanged(tmp_path):
    assert unique_path(tmp_path, "x", set()) == tmp_path / "x.safetensors"
    assert unique_path(tmp_path, "x", lambda _: False) == tmp_path / "x.safetensors"


def test_numbers_are_counted_up():
    assert unique_path(Path(), "Style", {"style"}).name == "Style_2.safetensors"
    assert unique_path(Path(), "Style", {"style", "style_2", "style_3"}).name == "Style_4.safetensors"


@given(any_text, st.integers(0, 30))
def test_a_unique_name_is_free_and_storable(stem, count):
    taken: set[str] = set()
    for _ in range(count):
        path = unique_path(Path("folder"), stem, taken)
        assert fold(path.stem) not in taken
        assert clean_stem(path.stem) == path.stem
        assert path.suffix == ".safetensors"
        taken.add(fold(path.stem))
    assert len(taken) == count


@pytest.mark.parametrize(("one", "two"), [("Style", "STYLE"), ("straße", "STRASSE"), ("é", "e\u0301")])
def test_names_that_some_system_takes_for_one_are_one(one, two):
    assert fold(one) == fold(two)
    assert unique_path(Path(), one, {fold(two)}).stem == f"{one}_2"


def test_all_loras_of_a_tree_are_known_by_stem(tmp_path):
    for name in (
        "a.safetensors",
        "B.CKPT",
        "sub/c.pt",
        "sub/deep 文/d.v1.bin",
        "sub/e.txt",
        "f.png",
        ".resize-lora-0.part",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert names_in_tree(tmp_path) == {"a", "b", "c", "d.v1"}


def test_a_missing_tree_holds_nothing(tmp_path):
    assert names_in_tree(tmp_path / "absent") == set()


def test_links_are_followed_once(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "linked.safetensors").touch()
    root = tmp_path / "root"
    root.mkdir()
    try:
        (root / "link").symlink_to(outside, target_is_directory=True)
        (outside / "back").symlink_to(root, target_is_directory=True)
    except OSError:
        pytest.skip("this disk has no links")
    assert names_in_tree(root) == {"linked"}


def test_a_decomposed_name_on_disk_is_found(tmp_path):
    (tmp_path / f"{unicodedata.normalize('NFD', 'Café')}.safetensors").touch()
    assert fold("CAFÉ") in names_in_tree(tmp_path)
