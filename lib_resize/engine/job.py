"""A finished plan: all that is needed to write one file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..adapters.write.layout import OutputLayout
from ..plans import Plan
from ..recipe.grammar import Recipe
from ..recipe.select import Choice
from .analysis import Analysis
from .selection import Selection


@dataclass(frozen=True)
class ResizeJob:
    """All that is settled before the first byte is written."""

    selection: Selection
    plan: Plan
    path: Path

    @property
    def analysis(self) -> Analysis:
        """The analysed LoRA, in the form that is written."""
        return self.selection.analysis

    @property
    def recipe(self) -> Recipe:
        """The recipe that selected the dimensions."""
        return self.selection.recipe

    @property
    def choice(self) -> Choice:
        """The dimensions that stay."""
        return self.selection.choice

    @property
    def layout(self) -> OutputLayout:
        """The tensors of the new file."""
        return self.selection.layout
