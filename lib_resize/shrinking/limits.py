"""What a smaller file must gain and keep to replace its source."""

from __future__ import annotations

from dataclasses import dataclass

from ..archive.links import Reason
from ..plans import Plan

_ROUNDING = 1e-9  # of a retention that is asked for as the floor too


@dataclass(frozen=True)
class Limits:
    """The least that a file must gain and keep."""

    least_gain: float = 0.0
    """Share of the bytes that a file must save, 0 to 1; a file that would grow is always left alone."""
    floor: float = 0.0
    """Least weight retention, 0 to 1."""


def too_little(plan: Plan, limits: Limits) -> Reason | None:
    """Return why a planned file does not replace its source; None where it does."""
    if plan.saved <= 0:
        return Reason("gain", "the new file would not be smaller")
    if plan.saved < limits.least_gain:
        return Reason("gain", f"it would save only {plan.saved:.1%} ({100 * limits.least_gain:g}% at least)")
    if plan.retention < limits.floor - _ROUNDING:
        return Reason("floor", f"its weight retention would be {plan.retention:.1%} ({limits.floor:.1%} at least)")
    return None
