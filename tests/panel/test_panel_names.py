"""Names and folders of new files, and names in prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_resize.panel import names
from lib_resize.panel.faults import Fault

ODD = ['it\'s "odd"', "a & b", "x [y] (z)", "日本語 LoRA", "two  spaces", "a+b*c?", "$1\\1", "ö<"]


@pytest.mark.parametrize(
    ("size", "word"), [(46 << 20, "46mb"), (1 << 20, "1mb"), ((1 << 20) - 1, "1024kb"), (5000, "5kb"), (0, "1kb")]
)
def test_a_size_is_shown_in_one_word(size: int, word: str) -> None:
    assert names.size_word(size) == word


@pytest.mark.parametrize("suffix", ["{", "}", "{size", "{name}", "{size!r}", "{0}", "{{size}}", "x" * 101])
def test_a_suffix_with_unknown_braces_is_refused(suffix: str) -> None:
    with pytest.raises(Fault, match="the fields in braces"):
        names.check_suffix(suffix)


def test_a_suffix_is_filled() -> None:
    facts = names.NameFacts(48 << 20, 0.923, 18)
    assert names.filled(names.check_suffix("_{size}_{retention}_r{rank}"), facts) == "_48mb_92_r18"


OUTSIDE = [
    "..",
    "../other",
    "a/../../b",
    "/etc",
    "\\\\server",
    "C:/x",
    "a/./b",
    "con",
    "a:b",
    "x\x00y",
    ".hidden",
    "a/b./c",
]


@pytest.mark.parametrize("below", [*OUTSIDE, "/".join("abcdefghijklmnopq")])
def test_a_folder_that_leads_out_or_cannot_be_is_refused(tmp_path: Path, below: str) -> None:
    with pytest.raises(Fault):
        names.output_folder(tmp_path / "x.safetensors", [tmp_path], below)


@given(st.text(max_size=40))
def test_no_text_names_a_folder_outside_of_the_root(tmp_path_factory, below: str) -> None:
    root = tmp_path_factory.getbasetemp() / "Lora"
    try:
        folder = names.output_folder(root / "x.safetensors", [root], below)
    except Fault:
        return
    assert folder.resolve() == root.resolve() or root.resolve() in folder.resolve().parents


def test_a_folder_that_is_a_link_out_of_the_root_is_refused(tmp_path: Path) -> None:
    root, other = tmp_path / "Lora", tmp_path / "Lora2"
    root.mkdir()
    other.mkdir()
    (root / "link").symlink_to(other)
    with pytest.raises(Fault, match="outside of the LoRA folders"):
        names.output_folder(root / "x.safetensors", [root], "link/sub")


def test_a_neighbour_whose_name_begins_alike_is_not_inside(tmp_path: Path) -> None:
    assert not names.inside(tmp_path / "Lora2" / "x", [tmp_path / "Lora"])
    assert names.inside(tmp_path / "Lora" / "x", [tmp_path / "Lora"])


def test_a_lora_behind_a_link_out_of_the_root_has_its_results_in_the_root(tmp_path: Path) -> None:
    root, other = tmp_path / "Lora", tmp_path / "elsewhere"
    root.mkdir()
    other.mkdir()
    (root / "linked").symlink_to(other)
    assert names.output_folder(root / "linked" / "x.safetensors", [root], None) == root


def test_a_lora_that_is_itself_a_link_has_its_results_next_to_the_link(tmp_path: Path) -> None:
    folder = tmp_path / "Lora" / "styles"
    folder.mkdir(parents=True)
    (tmp_path / "real.safetensors").write_text("")
    (folder / "x.safetensors").symlink_to(tmp_path / "real.safetensors")
    assert names.output_folder(folder / "x.safetensors", [tmp_path / "Lora"], None) == folder


@pytest.mark.parametrize("name", ODD)
def test_a_tag_is_replaced_with_all_its_multipliers_for_any_name(name: str) -> None:
    prompt = f"a cat, <lora:{name}:0.7:te=0.5:unet=1>, <lora:{name}2:1> <lora:{name}>"
    assert (
        names.replace_tags(prompt, {name}, "new") == f"a cat, <lora:new:0.7:te=0.5:unet=1>, <lora:{name}2:1> <lora:new>"
    )
    assert names.has_tag(prompt, {name})
    assert not names.has_tag(prompt, {"other"})
    assert name + "2" in names.without_tags(prompt, {name})


def test_no_names_replace_nothing() -> None:
    assert names.replace_tags("<lora::1>", set(), "x") == "<lora::1>"


@pytest.mark.parametrize(
    ("text", "notes"),
    [
        ('{"activation text": " prb ", "preferred weight": 0.8}', names.Notes("prb", "", 0.8)),
        ('{"negative text": "blurry", "preferred weight": 0}', names.Notes("", "blurry", 1.0)),
        ('{"activation text": 5, "preferred weight": "1"}', names.Notes()),
        ('{"preferred weight": true}', names.Notes()),
        ("[]", names.Notes()),
        ("{", names.Notes()),
        (None, names.Notes()),
    ],
)
def test_what_a_person_wrote_is_read_and_damage_is_nothing(
    tmp_path: Path, text: str | None, notes: names.Notes
) -> None:
    if text is not None:
        (tmp_path / "x.json").write_text(text)
    assert names.notes_of(tmp_path / "x.safetensors") == notes


def test_notes_with_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"activation text": "a"}).encode())
    assert names.notes_of(tmp_path / "x.safetensors").activation == "a"
