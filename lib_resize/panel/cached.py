"""One analysed LoRA, as it is kept in memory."""

from __future__ import annotations

from dataclasses import dataclass

from ..engine.analysis import Analysis
from ..files.alike import Layouts
from ..hosts.host import LoraFile
from ..studies.catalogue import Stamp
from .protocol.types import Json
from .references import NO_REFERENCE, ReferenceInfo

_OVERHEAD = 4096  # bytes of names and numbers per layer, besides the arrays

BaseKey = tuple[str, str | None]
"""A base model: kind of choice and title."""


@dataclass
class CachedAnalysis:
    """The analysis of a LoRA, with the base norms that were measured so far."""

    lora: LoraFile
    stamp: Stamp
    analysis: Analysis
    """Without base norms, and without the values of its factors."""
    blocks: tuple[str, ...]
    """Block of every layer."""
    layouts: Layouts
    """What was found from headers, for opening the file again."""
    based: Analysis | None = None
    """The same with the base norms that recipes needed so far."""
    base_key: BaseKey | None = None
    """The base model that these norms are from."""
    delta_base: BaseKey | None = None
    """The base model that its own delta depends on; None for kinds that depend on none."""
    asked: frozenset[str] = frozenset()
    """Scores that `based` can answer."""
    reference: ReferenceInfo = NO_REFERENCE
    shown: Json | None = None
    """The `Analysed file` of the protocol, once made."""

    @property
    def bytes(self) -> int:
        """Approximate memory of the arrays, in bytes."""
        held = (self.analysis, *self.analysis.others.values())
        return sum(one.nbytes + _OVERHEAD for analysis in held for one in analysis.spectra)

    @property
    def family(self) -> str | None:
        family = self.analysis.adapter.family
        return family.name if family else None
