"""The style sheet as browsers read it: a rule that is left open swallows all that follow."""

from __future__ import annotations

import re
from pathlib import Path

STYLE = Path(__file__).parents[2] / "style.css"


def test_every_rule_is_closed_before_the_next_begins() -> None:
    text = re.sub(r"/\*.*?\*/", "", STYLE.read_text("utf-8"), flags=re.DOTALL)
    inside: list[str] = []
    for head, mark in re.findall(r"([^{};]*)([{};])", text):
        if mark == "{":
            assert all(rule.startswith("@") for rule in inside), (inside, head.strip())
            inside.append(head.strip())
        elif mark == "}":
            inside.pop()
    assert inside == []
