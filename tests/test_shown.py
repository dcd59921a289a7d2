"""Laws of what is printed: no control character gets through, and no line is longer than somebody reads."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_resize.cli import main as cli
from lib_resize.errors import FileError
from lib_resize.panel.faults import error_json
from lib_resize.shown import MOST, json_text, shown, shown_lines

any_text = st.text(st.characters())
UNFIT = ("Cc", "Cs", "Zl", "Zp")
TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"


def is_fit(text: str) -> bool:
    return not any(unicodedata.category(letter) in UNFIT or letter in TURNING for letter in text)


@given(any_text)
def test_nothing_unfit_is_shown(text: str) -> None:
    assert is_fit(shown(text))
    assert is_fit(shown_lines(text).replace("\n", ""))


@given(any_text)
def test_json_reads_back_and_prints_safely(text: str) -> None:
    written = json_text({"name": text})
    assert is_fit(written)
    written.encode("utf-8")
    assert json.loads(written) == {"name": text}


@given(st.text(st.characters(categories=["L", "N"])))
def test_ordinary_text_stays(text: str) -> None:
    assert shown(text[:MOST]) == text[:MOST]


def test_the_middle_of_a_long_text_is_left_out() -> None:
    text = shown("begin" + "x" * 10**6 + "end")
    assert len(text) < MOST + 10
    assert text.startswith("begin")
    assert text.endswith("end")


def test_escapes_say_what_was_there() -> None:
    assert shown("a\x1b[2Jb\n\x9b\u202ec\udce9") == r"a\x1b[2Jb\n\x9b\u202ec\xe9"


@pytest.mark.skipif(os.name == "nt", reason="Windows allows no such names")
@pytest.mark.parametrize("command", ["resize", "inspect", "library", "merge"])
def test_no_command_prints_what_a_name_wants_of_the_terminal(lora: Path, tmp_path: Path, command: str, capsys) -> None:
    folder = tmp_path / "x\x1b]0;title\x07"
    folder.mkdir()
    path = folder / "evil\x1b[2J\nfake: line.safetensors"
    path.write_bytes(lora.read_bytes()[:1000])
    (folder / "good\x1b[31m.safetensors").write_bytes(lora.read_bytes())
    named = {"merge": [f"{path}:0.5", "-o", str(tmp_path / "m.safetensors")], "library": [str(folder)]}
    cli.main(
        [command, *named.get(command, [str(path), str(folder), "-r", "rank=1"][: 4 if command == "resize" else 2])]
    )
    captured = capsys.readouterr()
    printed = captured.out + captured.err
    assert r"evil\x1b[2J\nfake" in printed or command == "library"
    assert is_fit(printed.replace("\n", ""))


def test_the_page_gets_no_such_message_either() -> None:
    message = error_json(FileError("a\x1b[2J" + "x" * 10**5))["message"]
    assert message.startswith(r"a\x1b[2Jxxx")
    assert len(message) < MOST + 10
