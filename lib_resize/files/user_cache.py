"""Small JSON files in the user's folder for caches. Standard library only.

Losing one costs time, never correctness: a file that cannot be read counts as missing, and a failed write is ignored.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from ..errors import ResizeError
from .atomic import write_whole


def cache_folder() -> Path:
    """Return the folder of the caches: ``RESIZE_LORA_CACHE``, or the platform's folder for caches."""
    chosen = os.environ.get("RESIZE_LORA_CACHE")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "resize-lora"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "resize-lora"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "resize-lora"


def read_document(name: str) -> Any:
    """Return what `write_document` wrote under a name; None where that is missing or is no JSON."""
    try:
        return json.loads((cache_folder() / name).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def write_document(name: str, document: Any) -> None:
    """Write a document as JSON under a name, in one step.

    If two processes or threads write at the same time, the file is that of one of them, and whole.
    """
    with contextlib.suppress(ResizeError, OSError):
        write_whole(cache_folder() / name, json.dumps(document).encode(), overwrite=True)
