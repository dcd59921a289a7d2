"""The records of images in a file, as lines: how its factors were fitted, and what a comparison found."""

from __future__ import annotations

from collections.abc import Iterator

from ..files.effect_record import EffectRecord
from ..files.metadata import FitRecord
from ..files.own_record import ImageRecords
from ..shown import shown, shown_share

_NAME = 60
"""Characters of a name that are shown."""


def record_lines(records: ImageRecords) -> list[str]:
    """Return the records as lines; the prompts are hashes, as in the file."""
    lines = [] if records.fit is None else list(_fit_lines(records.fit))
    lines += [] if records.effect is None else [_effect_line(records.effect)]
    return lines + [f"{name}: its record in the file is unreadable" for name in records.unreadable]


def _fit_lines(fit: FitRecord) -> Iterator[str]:
    images = f"{_count(fit.images, 'image')} x {_count(fit.steps, 'step')}"
    errors = [_error(*pair) for pair in fit.errors.values()]
    if len(errors) > 1:
        errors = [f"{shown(name, _NAME)}: {error}" for name, error in zip(fit.errors, errors, strict=True)]
    made = f"fitted to {images} ({_count(fit.layers, 'layer')})"
    if fit.layers == 0:
        made, errors = (
            f"fitted to {images}, but no layer became better, so the factors are those of plain truncation",
            [],
        )
    yield "; ".join([made, *errors, f"prompt {fit.prompt}"])


def _error(plain: float, fitted: float) -> str:
    if fitted < plain:
        return f"error {fitted:.3g} instead of {plain:.3g}"
    return f"plain truncation is kept, with error {plain:.3g}"


def _effect_line(effect: EffectRecord) -> str:
    worst = f" (worst image {shown_share(effect.worst)})" if effect.seeds > 1 else ""
    parts = [
        f"keeps {shown_share(effect.kept)} of the effect{worst}",
        _count(effect.seeds, "image"),
        *([] if effect.sampler is None else [shown(effect.sampler, _NAME)]),
        *([] if effect.steps is None else [_count(effect.steps, "step")]),
        f"{effect.width} x {effect.height}",
        f"measured on {effect.basis}",
        f"prompt {effect.prompt}",
    ]
    return ", ".join(parts)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
