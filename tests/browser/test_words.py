"""Every text of the scripts have its translations, with the same places for values. Needs no browser."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lib_resize.panel.lora_warnings import TEMPLATES

ROOT = Path(__file__).parents[2]
SCRIPT = "".join(path.read_text("utf-8") for path in sorted((ROOT / "javascript").glob("*.js")))
WARNINGS = set(TEMPLATES.values())
QUOTED = r"""(?:'([^'\\]+)'|"([^"\\]+)")"""
CALLED = [*re.findall(rf"\bt\(\s*{QUOTED}", SCRIPT), *re.findall(rf"\b(?:one|many) = {QUOTED}", SCRIPT)]
PLURALS = re.findall(r"\bplural\(\s*[\w.]+,\s*'([^'\\]+)',\s*'([^'\\]+)'", SCRIPT)
COLUMNS = re.findall(r"^        \['\w+', '([A-Z]\w+)'\]", SCRIPT, re.MULTILINE)
TITLES = set(
    re.findall(r"^        \w+: '([^']+)',", SCRIPT.partition("const TITLES = {")[2].partition("}")[0], re.MULTILINE)
)
TEXTS = WARNINGS | TITLES | {text for found in (*CALLED, *PLURALS) for text in found if text} | set(COLUMNS)


@pytest.fixture(params=["zh-Hans", "ja"])
def words(request: pytest.FixtureRequest) -> dict[str, str]:
    translated: dict[str, str] = json.loads((ROOT / "localizations" / f"{request.param}.json").read_text("utf-8"))
    return translated


def test_every_text_is_translated(words: dict[str, str]) -> None:
    assert len(TEXTS) > 180
    assert len(PLURALS) == 23
    assert len(COLUMNS) >= 6
    assert len(WARNINGS) == 9
    assert len(TITLES) == 8
    assert sorted(TEXTS - words.keys()) == []


def test_translations_keep_the_places_of_values(words: dict[str, str]) -> None:
    def places(text: str) -> list[str]:
        return sorted(re.findall(r"\{\w+\}", text))

    assert {text: translated for text, translated in words.items() if places(text) != places(translated)} == {}


def test_the_scripts_write_text_and_never_html() -> None:
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", SCRIPT)


def test_every_rule_of_the_style_is_closed_where_it_begins_a_line() -> None:
    """A rule that is left open swallows all behind it."""
    open_rules = 0
    for number, line in enumerate((ROOT / "style.css").read_text("utf-8").splitlines(), 1):
        if line.startswith((":is(", "@", "/*")):
            assert open_rules == 0, number
        open_rules += line.count("{") - line.count("}")
    assert open_rules == 0
