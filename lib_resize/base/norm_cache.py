"""Norms of base layers, kept per user between runs.

One small JSON file a checkpoint, named by the checkpoint's content, so that a renamed or moved file keeps its norms
and a changed one never finds wrong ones. Losing the cache costs seconds, never correctness: a file that cannot be
read counts as absent, one that cannot be written is left.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path

VERSION = 2
"""Raised whenever norms are computed differently."""

Norms = dict[str, tuple[float, float | None]]
"""Name of a weight (see `checkpoint`) -> Frobenius norm, and spectral norm or None where nobody asked for it."""


def cache_folder() -> Path:
    """Where norms lie: ``RESIZE_LORA_CACHE``, or the platform's own folder for caches."""
    chosen = os.environ.get("RESIZE_LORA_CACHE")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "resize-lora"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "resize-lora"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "resize-lora"


def load(fingerprint: str) -> Norms:
    """The norms known of a checkpoint; empty where there are none or the file is damaged."""
    try:
        document = json.loads(_file(fingerprint).read_text("utf-8"))
        if document["version"] != VERSION or document["fingerprint"] != fingerprint:
            return {}
        return {name: _checked(*values) for name, values in document["norms"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def save(fingerprint: str, norms: Mapping[str, tuple[float, float | None]]) -> None:
    """Adds norms to those on disk. Another process that saves at the same moment may win; neither file is damaged."""
    path = _file(fingerprint)
    merged = {**load(fingerprint), **norms}
    document = {"version": VERSION, "fingerprint": fingerprint, "norms": merged}
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(json.dumps(document), "utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _file(fingerprint: str) -> Path:
    return cache_folder() / f"norms-{fingerprint[:32]}.json"


def _checked(fro: float, spn: float | None) -> tuple[float, float | None]:
    for value in (fro, spn):
        if value is not None and not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 0):
            raise ValueError(f"not a norm: {value!r}")
    return float(fro), None if spn is None else float(spn)
