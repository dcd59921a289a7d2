"""The style sheet as browsers read it: a rule that is left open swallows all that follow."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
STYLE = re.sub(r"/\*.*?\*/", "", (ROOT / "style.css").read_text("utf-8"), flags=re.DOTALL)
PAGE = "".join(path.read_text("utf-8") for path in (ROOT / "javascript").glob("*.js"))
CARD_BUTTON = (ROOT / "lib_resize" / "hosts" / "webui.py").read_text("utf-8")


def rules() -> Iterator[tuple[list[str], str]]:
    """Yield for each rule the rules around it, and its selector."""
    around: list[str] = []
    for head, mark in re.findall(r"((?:\"[^\"]*\"|[^{};\"])*)([{};])", STYLE):
        if mark == "{":
            yield list(around), head.strip()
            around.append(head.strip())
        elif mark == "}":
            around.pop()
    assert around == []


def test_every_rule_is_closed_and_none_is_deeper_than_a_part_of_a_control() -> None:
    assert max(len(around) for around, _ in rules()) == 3


def test_outside_of_media_only_our_own_elements_have_rules() -> None:
    """A rule for tags or classes of the host at the top would change the host's page."""
    for around, selector in rules():
        if all(one.startswith("@") for one in around) and not selector.startswith("@"):
            for one in re.split(r",(?![^()]*\))", selector):
                assert "resize-lora" in one or "resize_lora" in one, one


def test_every_name_in_the_style_is_one_of_the_page() -> None:
    names = set(re.findall(r"[.#](resize[-_]lora[\w-]*)", STYLE))
    made = {f"resize_lora_{name}" for name in ("bake_prompt", "generate", "interrupt", "menu", "wipe", "wire")}
    columns = {f"resize-lora-col-{name}" for name in ("after", "bytes", "family", "gain", "kind", "name", "rank")}
    sections = {f"resize-lora-{name}" for name in ("library", "queue", "runs", "results", "study")}
    host = {"resize-lora-button"} if "resize-lora-button card-button" in CARD_BUTTON else set()
    unknown = {name for name in names - columns - sections - made - host if name not in PAGE}
    assert unknown == set()
