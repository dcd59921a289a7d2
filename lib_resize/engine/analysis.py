"""A LoRA with the decomposition of every layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..adapters.forms.form import Decomposition
from ..adapters.layer import Adapter
from ..linalg.factor import Factor
from ..recipe.scores import LayerFacts


@dataclass(frozen=True)
class Analysis:
    """A LoRA, decomposed."""

    adapter: Adapter
    spectra: tuple[Decomposition, ...]
    layers: tuple[LayerFacts, ...]
    """One each for `adapter.layers`."""
    base_name: str | None = None
    others: Mapping[str, Analysis] = field(default_factory=dict)
    """Value of `Style.convert` -> the same LoRA with its layers converted."""
    weights: Mapping[int, Callable[[], Factor]] = field(default_factory=dict)
    """What reads the base weight of a layer, by index: of those that cannot be written or measured without."""

    @property
    def zero(self) -> list[str]:
        """Names of the layers that are zero."""
        return [facts.name for facts in self.layers if not facts.alive]
