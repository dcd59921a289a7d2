"""Read the record of this program in a file, and put the figure of a comparison into it. Standard library only.

Files come from anywhere: a record may have any shape. What is not as this program writes it is unreadable, never an
error.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from .effect_record import EffectRecord
from .file_names import storable
from .metadata import PROMPT_HASH, RECORD, FitRecord, resize_record

FIT, EFFECT = "fit", "effect"
BASES = ("latents", "pixels")
_MOST = 10**9
_LONGEST_NAME = 200
_MOST_MODELS = 16
_HASH = re.compile(f"[0-9a-f]{{{PROMPT_HASH}}}")

Read = TypeVar("Read")


@dataclass(frozen=True)
class ImageRecords:
    """What a file's record says of images."""

    fit: FitRecord | None = None
    effect: EffectRecord | None = None
    unreadable: tuple[str, ...] = ()
    """``fit`` or ``effect``, where the file has one that this program did not write."""


def image_records(metadata: Mapping[str, str]) -> ImageRecords:
    """Return the records of a fit and of a comparison in a file's metadata."""
    document = resize_record(metadata)
    fit, effect = _read(document.get(FIT), _fit), _read(document.get(EFFECT), _effect)
    found = {FIT: fit, EFFECT: effect}
    unreadable = tuple(name for name, one in found.items() if one is None and document.get(name) is not None)
    return ImageRecords(fit, effect, unreadable)


def with_effect(metadata: Mapping[str, str], effect: EffectRecord) -> dict[str, str] | None:
    """Return a file's metadata with a figure in its record, in place of an earlier one.

    Return None where the file has no record of this program.
    """
    document = resize_record(metadata)
    if not document.get("version"):
        return None
    document[EFFECT] = effect.as_json()
    return {**metadata, RECORD: storable(json.dumps(document, ensure_ascii=False))}


def _read(document: Any, read: Callable[[Mapping[str, Any]], Read]) -> Read | None:
    if not isinstance(document, dict):
        return None
    try:
        return read(document)
    except (KeyError, ValueError):
        return None


def _fit(document: Mapping[str, Any]) -> FitRecord:
    errors = document["errors"]
    if not isinstance(errors, dict) or len(errors) > _MOST_MODELS:
        raise ValueError("errors")
    return FitRecord(
        images=_count(document["images"]),
        steps=_count(document["steps"]),
        prompt=_hash(document["prompt"]),
        layers=_count(document["layers"]),
        errors={_name(name): _pair(pair) for name, pair in errors.items()},
    )


def _pair(document: Any) -> tuple[float, float]:
    if not isinstance(document, dict):
        raise ValueError("errors")
    return _number(document["plain"]), _number(document["fitted"])


def _effect(document: Mapping[str, Any]) -> EffectRecord:
    sampler, steps = document["sampler"], document["steps"]
    return EffectRecord(
        kept=_share(document["kept"]),
        worst=_share(document["worst"]),
        seeds=_count(document["seeds"]),
        sampler=None if sampler is None else _name(sampler),
        steps=None if steps is None else _count(steps),
        width=_count(document["width"]),
        height=_count(document["height"]),
        basis=_basis(document["basis"]),
        prompt=_hash(document["prompt"]),
    )


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _MOST:  # `type`, not isinstance: True is an int, but no count
        raise ValueError("not a count")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) <= _MOST or not math.isfinite(value):
        raise ValueError("not a number")
    return float(value)


def _share(value: Any) -> float:
    share = _number(value)
    if share > 1.0:
        raise ValueError("not a share")
    return share


def _name(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST_NAME:
        raise ValueError("not a name")
    return value


def _hash(value: Any) -> str:
    if not isinstance(value, str) or _HASH.fullmatch(value) is None:
        raise ValueError("not a hash")
    return value


def _basis(value: Any) -> str:
    if value not in BASES:
        raise ValueError("not a basis")
    return str(value)
