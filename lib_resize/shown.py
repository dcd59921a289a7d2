"""Text of files and users made fit to be shown: no control characters, and not longer than somebody reads.

File names, metadata and the names of tensors may hold anything: sequences that rewrite a terminal, letters that turn
the reading direction, a megabyte of text. Everything that prints, and everything that sends a message to a page, calls
one of these functions.
"""

from __future__ import annotations

import json
import re
from typing import Any

MOST = 1000
"""Characters of a line."""

MIB = 1 << 20

# Controls (C0, DEL, C1), line and paragraph separators, marks that turn the reading direction, and halves of
# surrogate pairs, which stand for bytes of a file name that are not UTF-8.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_FIRST_BYTE, _LAST_BYTE = 0xDC80, 0xDCFF  # what Python makes of such bytes


def shown(text: str, most: int = MOST) -> str:
    """One line that is safe to print: unfit characters escaped, the middle of a long text left out."""
    if len(text) > most:
        head = most * 2 // 3
        text = f"{text[:head]} […] {text[len(text) - (most - head) :]}"
    return _UNFIT.sub(_escaped, text)


def shown_lines(text: str) -> str:
    """The same for each line of a text whose line breaks are ours."""
    return "\n".join(shown(line) for line in text.split("\n"))


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON that any terminal can print and any file can hold: what is unfit in a string is an escape of JSON."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return _UNFIT.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    if _FIRST_BYTE <= code <= _LAST_BYTE:
        return f"\\x{code - 0xDC00:02x}"
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(found[0])
    return short or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def mib(size: int) -> str:
    """A size in MiB with three digits or more: 45.3, 217.9, 1204."""
    value = size / MIB
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
