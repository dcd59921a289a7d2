"""Text from files and users made safe to print: without control characters, and of limited length.

File names, metadata and tensor names may contain anything: terminal escape sequences, marks that change the text
direction, a megabyte of text. All output to a terminal, and all messages to a page, go through these functions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

MOST = 1000
"""Largest number of characters in a line."""

MIB = 1 << 20

# Controls (C0, DEL, C1), line and paragraph separators, marks that change the text direction, and lone surrogates,
# which represent bytes of a file name that are not UTF-8.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_FIRST_BYTE, _LAST_BYTE = 0xDC80, 0xDCFF  # Python's surrogates for such bytes


def shown(text: str, most: int = MOST) -> str:
    """Return one line that is safe to print: unsafe characters escaped, and a long text shortened in the middle."""
    if len(text) > most:
        head = most * 2 // 3
        text = f"{text[:head]} […] {text[len(text) - (most - head) :]}"
    return _UNFIT.sub(_escaped, text)


def shown_lines(text: str) -> str:
    """Return the same for each line of a text whose line breaks are intended."""
    return "\n".join(shown(line) for line in text.split("\n"))


def json_text(value: Any, indent: int | None = None) -> str:
    """Return JSON that is safe to print and to write: unsafe characters in strings are JSON escapes."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return _UNFIT.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    if _FIRST_BYTE <= code <= _LAST_BYTE:
        return f"\\x{code - 0xDC00:02x}"
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(found[0])
    return short or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def first_of(names: Sequence[str], most: int, joint: str = ", ") -> str:
    """Return the first names of a list, and how many more there are: ``a, b and 3 more``."""
    first = joint.join(names[:most])
    return f"{first} and {len(names) - most} more" if len(names) > most else first


def mib(size: int) -> str:
    """Return a size in MiB with at least three digits: 45.3, 217.9, 1204."""
    value = size / MIB
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def shown_share(share: float) -> str:
    """Return a share of the effect in percent: 100 only for equal images, and 0 where nothing is kept."""
    percent = min(100.0 * share, 99.9) if share < 1.0 else 100.0
    return f"{max(percent, 0.0):.1f} %"
