"""A cache of the norms of base weights, per user, on the disk.

There is one small JSON file for each checkpoint, named by a fingerprint of its contents: a renamed or moved checkpoint
keeps its norms, and a changed one never gets wrong ones. Losing the cache costs seconds, never correctness: a cache
file that cannot be read counts as missing, and a failed write is ignored.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path

VERSION = 3
"""Increased whenever norms are computed differently."""

NormPair = tuple[float, float | None]
"""Frobenius norm, and spectral norm or None where it was not measured."""

NormTable = dict[str, NormPair]
"""Key of a weight (see `partner_norms.norm_key`) -> its norms."""


def cache_folder() -> Path:
    """Return the folder of the cache: ``RESIZE_LORA_CACHE``, or the platform's folder for caches."""
    chosen = os.environ.get("RESIZE_LORA_CACHE")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "resize-lora"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "resize-lora"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "resize-lora"


def load(fingerprint: str) -> NormTable:
    """Read the known norms of a checkpoint; empty where there are none or the file is damaged."""
    try:
        document = json.loads(_file(fingerprint).read_text("utf-8"))
        if document["version"] != VERSION or document["fingerprint"] != fingerprint:
            return {}
        return {name: checked_norms(*values) for name, values in document["norms"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def save(fingerprint: str, norms: Mapping[str, NormPair]) -> None:
    """Add norms to those on the disk.

    If two processes save at the same time, one may overwrite the other's norms, but the file stays whole.
    """
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


def checked_norms(fro: float, spn: float | None) -> NormPair:
    """Return a pair that was read from a file. Raises ValueError where it is no pair of norms."""
    for value in (fro, spn):
        if value is not None and not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 0):
            raise ValueError(f"not a norm: {value!r}")
    return float(fro), None if spn is None else float(spn)
