"""Brackets of a prompt that turn what is inside on and off: prompt editing, alternation, and random choice."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_CLOSING = {"[": "]", "{": "}"}
_NUMBER_AT_END = re.compile(r":\s*[0-9]*\.?[0-9]+\s*$")


@dataclass
class _Open:
    """A bracket that is not closed yet."""

    sign: str
    start: int
    tags: list[int] = field(default_factory=list)
    bars: bool = False


def schedules_in(text: str) -> dict[int, str]:
    """Return the bracket that turns a tag on and off, by the position of the tag.

    Such brackets are ``[a:b:10]``, ``[a|b]`` and ``{a|b}``. They are described in words, for messages.
    """
    found: dict[int, str] = {}
    stack: list[_Open] = []
    for token in re.finditer(r"\\.|<(?:lora|lyco):[^<>]*>|[\[\]{}|]", text):
        sign, at = token[0], token.start()
        if sign.startswith("<"):
            for bracket in stack:
                bracket.tags.append(at)
        elif sign in _CLOSING:
            stack.append(_Open(sign, at))
        elif sign == "|" and stack:
            stack[-1].bars = True
        elif stack and sign == _CLOSING[stack[-1].sign]:
            closed = stack.pop()
            description = _description(closed, text[closed.start : at])
            found.update((tag, description) for tag in closed.tags if description and tag not in found)
    return found


def _description(bracket: _Open, inside: str) -> str:
    """Return what a bracket does over time; empty for one that only weights words."""
    if bracket.sign == "{":
        return "{…|…}, one of which is drawn for each image" if bracket.bars else ""
    if bracket.bars:
        return "[…|…], which alternates between steps"
    moment = _NUMBER_AT_END.search(inside)
    return f"[…{moment[0].strip()}], which changes the prompt at a step" if moment else ""
