"""Errors for files that are no whole, well-formed safetensors files. Standard library only."""

from __future__ import annotations

from pathlib import Path

from ..errors import DamagedFileError

COPY_AGAIN = "Download or copy the file again."
SAVE_AGAIN = "Save it again with the tool that made it, or get another version."

_MAX_SHOWN = 80
"""Characters of a value that a message shows."""


def damaged_file(path: Path, found: str, expected: str, advice: str = COPY_AGAIN) -> DamagedFileError:
    """Return an error whose message names the file, what was found, what was expected, and what to do."""
    return DamagedFileError(f"{path}: {found}; expected {expected}. {advice}")


def shortened(value: object) -> str:
    """Return a value from a file as text for a message, at most 80 characters of it."""
    if isinstance(value, list) and len(value) > 8:
        return f"[{', '.join(map(shortened, value[:4]))}, ... {len(value)} in all]"
    try:
        text = repr(value[:_MAX_SHOWN] if isinstance(value, str) else value)
    except RecursionError:
        return "..."
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."
