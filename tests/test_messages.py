"""Every message that can reach the page is found in the source and has a translation with the same places."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent

import pytest

from lib_resize.errors import ResizeError
from lib_resize.files.reader import SafeFile
from lib_resize.panel.names import check_suffix
from lib_resize.prompts.tags import parse_prompt
from lib_resize.recipe.grammar import parse_recipe
from tools import messages as tool
from tools.message_texts import Message, is_translated, messages, templates

NEEDED = templates(messages())
PATHS = sorted(tool.LOCALIZATIONS.glob("*.json"))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_message_is_translated_with_the_same_places(path: Path) -> None:
    """``python -m tools.messages`` prints the same."""
    assert len(NEEDED) > 500
    words = tool.dictionary(path)
    assert tool.missing(NEEDED, words) == {}
    assert tool.unused(NEEDED, words) == []


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_translation_that_is_removed_or_loses_a_place_is_reported(path: Path) -> None:
    words = tool.dictionary(path)
    for text in NEEDED:
        without = {key: value for key, value in words.items() if key != text}
        assert list(tool.missing(NEEDED, without)) == [text]
    placed = [text for text in NEEDED if "{1}" in text]
    for text in placed:
        assert list(tool.missing(NEEDED, {**words, text: words[text].replace("{1}", "")})) == [text]


def test_a_message_is_one_sentence_and_no_part_of_one() -> None:
    assert tool.joints(NEEDED) == []
    assert tool.joints({" and {1} more": "", "; else {1}": "", "whole {1}.": ""}) == [" and {1} more", "; else {1}"]


@pytest.mark.parametrize(
    "text",
    [
        "{1}: no such file. Check the path, and that the drive is connected.",  # raised
        "{1}: {text2}; expected {text3}. {text4}",  # made of parts
        "the file is empty (0 bytes)",  # such a part
        "unknown model family; layer names are kept",  # a note
        "no space is left on the disk of {1}. Free some space or choose another folder.",  # for str.format
        "{1} is not a strength; expected a number such as 0.8",  # a ValueError that is quoted
        "rotates the base weights and {text1}",  # a reason in a table, in a module of tables
        "There is no job {1}.",  # a Fault
        "dyn={1} is baked as in A1111; Forge ignores it",  # about a tag of a prompt
        "{1} is selected but not in memory; its file is read.",  # of a host
    ],
)
def test_messages_of_each_kind_are_found(text: str) -> None:
    assert text in NEEDED


def _package(tmp_path: Path, text: str) -> Path:
    for name in ("panel", "hosts", "cli"):
        (tmp_path / name).mkdir()
    (tmp_path / "panel" / "new.py").write_text(dedent(text), "utf-8")
    (tmp_path / "panel" / "faults.py").write_text("class Fault(Exception): ...\n", "utf-8")
    return tmp_path


def test_a_new_message_needs_no_registration(tmp_path: Path) -> None:
    package = _package(
        tmp_path,
        '''
        """A module."""
        from .faults import Fault
        from ..below import reason_of

        def check(path, error):
            """Raise Fault with these words."""
            if path:
                raise Fault("file", f"{path}: the entry is open ({reason_of(path)}): {error}. Close it.")
            raise ValueError("only for programmers, of course")

        def warn(log):
            log.warning("a line of the log")
        ''',
    )
    (package / "below.py").write_text('def reason_of(path):\n    return f"held by {path} since then"\n', "utf-8")
    (package / "cli" / "command.py").write_text('TEXT = "a text of the command line"\n', "utf-8")
    assert {one.template: one.place for one in messages(package)} == {
        "held by {1} since then": "lib_resize/below.py:2",
        "{1}: the entry is open ({text2}): {text3}. Close it.": "lib_resize/panel/new.py:9",
    }


@pytest.mark.parametrize(
    ("expression", "place"),
    [("path", "{1}"), ("error", "{text1}"), ("str(error)", "{text1}"), ("'; '.join(reasons)", "{text1}"), ("x", "{1}")],
)
def test_a_place_for_a_message_differs_from_one_for_a_value(tmp_path: Path, expression: str, place: str) -> None:
    """Values are never translated, so a name that looks like a message is shown unchanged."""
    text = f"""
        def raised(path, error, x):
            reasons = [f"the name {{x}} is taken here", "it is too long"]
            raise Fault("file", f"cannot go on: {{{expression}}}")
        """
    assert f"cannot go on: {place}" in [one.template for one in messages(_package(tmp_path, text))]


def test_a_joint_without_words_needs_no_translation() -> None:
    assert not is_translated(Message("{1}: {text2}", ""))
    assert not is_translated(Message("{1} is {2}", ""))
    assert is_translated(Message("cannot be read: {1}", ""))


def test_places_for_messages_are_joined_where_templates_are_alike() -> None:
    alike = [Message("cannot be read: {1} and {text2}", "a"), Message("cannot be read: {text1} and {2}", "b")]
    assert templates(alike) == {"cannot be read: {text1} and {text2}": "a"}


def _matches(message: str) -> bool:
    patterns = ("(.*)".join(map(re.escape, re.split(r"\{(?:\d+|text\d+)\}", text))) for text in NEEDED)
    return any(re.fullmatch(pattern, message, re.DOTALL) for pattern in patterns)


@pytest.mark.parametrize(
    "content", [b"", b"abc", b"<html>", bytes(8), b"\xff" * 16, b"\x02\0\0\0\0\0\0\0[]", b"GGUF" * 4]
)
def test_errors_about_real_files_match_a_template(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "{1}: $& (x).safetensors"
    path.write_bytes(content)
    with pytest.raises(ResizeError) as found:
        SafeFile(path)
    assert _matches(str(found.value)), found.value


@pytest.mark.parametrize("recipe", ["odd", "fro_lora=1", "rank=0", "rank=8,rank=9", "thr=-3,size=3", "rank=8,", "rank"])
def test_errors_about_recipes_match_a_template(recipe: str) -> None:
    with pytest.raises(ResizeError) as found:
        parse_recipe(recipe)
    assert _matches(str(found.value)), found.value


@pytest.mark.parametrize(
    "prompt", ["<lora:a", "<lora:>", "<lora:a:b>", "<lora:a:1:1:1:1>", "<lora:a:dyn=x>", "<lora:a:lbw=>"]
)
def test_errors_about_prompts_match_a_template(prompt: str) -> None:
    with pytest.raises(ResizeError) as found:
        parse_prompt(prompt)
    assert _matches(str(found.value)), found.value


def test_an_error_about_a_suffix_matches_a_template() -> None:
    with pytest.raises(ResizeError) as found:
        check_suffix("_{odd}")
    assert _matches(str(found.value)), found.value


def test_the_tool_reports_what_is_missing_and_adds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "xx.json").write_text('{"{1} was never a message": "?", "Size": "S"}', "utf-8")
    monkeypatch.setattr(tool, "LOCALIZATIONS", tmp_path)
    assert tool.main(["--add"]) == 1
    printed = capsys.readouterr().out
    assert "There is no job {1}." in printed
    assert "{1} was never a message" in printed
    added = tool.dictionary(tmp_path / "xx.json")
    assert added["Size"] == "S"
    assert added["There is no job {1}."] == ""
    assert set(NEEDED) <= set(added)
