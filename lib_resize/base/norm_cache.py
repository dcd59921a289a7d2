"""A cache of the norms of base weights, per user, on the disk.

There is one small JSON file for each checkpoint, named by a fingerprint of its contents: a renamed or moved checkpoint
keeps its norms, and a changed one never gets wrong ones. Losing the cache costs seconds, never correctness: a cache
file that cannot be read counts as missing, and a failed write is ignored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..files.user_cache import read_document, write_document

VERSION = 3
"""Increased whenever norms are computed differently."""

NormPair = tuple[float, float | None]
"""Frobenius norm, and spectral norm or None where it was not measured."""

NormTable = dict[str, NormPair]
"""Key of a weight (see `partner_norms.norm_key`) -> its norms."""


def load(fingerprint: str) -> NormTable:
    """Read the known norms of a checkpoint; empty where there are none or the file is damaged."""
    document = read_document(_name(fingerprint))
    try:
        if document["version"] != VERSION or document["fingerprint"] != fingerprint:
            return {}
        return {name: checked_norms(*values) for name, values in document["norms"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def save(fingerprint: str, norms: Mapping[str, NormPair]) -> None:
    """Add norms to those on the disk.

    If two processes save at the same time, one may overwrite the other's norms, but the file stays whole.
    """
    merged = {**load(fingerprint), **norms}
    write_document(_name(fingerprint), {"version": VERSION, "fingerprint": fingerprint, "norms": merged})


def _name(fingerprint: str) -> str:
    return f"norms-{fingerprint[:32]}.json"


def checked_norms(fro: float, spn: float | None) -> NormPair:
    """Return a pair that was read from a file. Raises ValueError where it is no pair of norms."""
    for value in (fro, spn):
        if value is not None and not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 0):
            raise ValueError(f"not a norm: {value!r}")
    return float(fro), None if spn is None else float(spn)
