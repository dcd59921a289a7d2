"""How long the suite waits, as one number, for machines of any speed."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT = 120.0


@dataclass
class Limits:
    """`patience` is set by --patience: seconds for one action or expectation in the page."""

    patience: float = DEFAULT

    @property
    def long(self) -> float:
        """Seconds for an image, a resize, or the first drawing of the page."""
        return 3 * self.patience


limits = Limits()
