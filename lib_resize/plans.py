"""What a resize will do, or has done, as plain numbers: printable, testable, JSON."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class LayerPlan:
    """One layer of a plan."""

    name: str
    """As the source file spells it."""
    old_rank: int
    new_rank: int
    error_lora: float
    """Frobenius norm of what goes, over that of the layer's delta; 1 for a layer that is zero."""
    error_ckpt: float | None
    """The same over the Frobenius norm of the base layer; None without base, or without partner in it."""
    fro_retained: float | None = None
    """Share of the layer's Frobenius norm that stays, 0 to 1, as kohya's script has it; None for a layer of zeros."""
    sum_retained: float | None = None
    """Share of the sum of its singular values; None for a layer of zeros, and for methods that keep other ones."""
    max_ratio: float | None = None
    """Largest singular value over the smallest that stays; None where none stays, and as above."""


@dataclass(frozen=True)
class Plan:
    """One file that a recipe makes of one LoRA."""

    source: str
    """Path of the source; of a merge, its paths with weights as on the command line."""
    output: str
    recipe: str
    """In full, as `recipe.grammar` writes it."""
    threshold: float | None
    """log10 score of the weakest chosen dimension; None where the recipe goes layer by layer."""
    bytes_before: int
    """Size of the source file; of a merge, of all of them."""
    bytes_after: int
    """Size of the new file, header and all."""
    retention: float
    """Weight retention: Frobenius norm of the kept dimensions over that of all, 0 to 1. It ranks files that one
    recipe made of one LoRA, and says little between recipes."""
    layers: tuple[LayerPlan, ...]
    copied: tuple[tuple[str, str], ...]
    """Tensors that go along byte for byte: new key, and why they cannot be resized."""
    dropped: tuple[str, ...]
    """Layers of the source that the new file lacks."""
    zero: tuple[str, ...] = ()
    """Layers of the source that are zero."""
    notes: tuple[str, ...] = ()
    """What the user should know."""

    @property
    def saved(self) -> float:
        """Share of the bytes that is saved; negative where the file grows."""
        return 1.0 - self.bytes_after / self.bytes_before

    @property
    def layer_retention(self) -> tuple[float, float] | None:
        """Mean and standard deviation over layers of `fro_retained`; None where all layers are zero.

        Every layer counts alike, so it differs from `retention`, in which strong layers count for more.
        """
        shares = [layer.fro_retained for layer in self.layers if layer.fro_retained is not None]
        if not shares:
            return None
        mean = math.fsum(shares) / len(shares)
        return mean, math.sqrt(math.fsum((share - mean) ** 2 for share in shares) / len(shares))

    def as_json(self, *, layers: bool = True) -> dict[str, Any]:
        """The plan as JSON values, as `--report` writes it; the list of layers only where asked."""
        fields = asdict(self if layers else replace(self, layers=()))
        if not layers:
            del fields["layers"]
        fields["layer_retention_mean"], fields["layer_retention_std"] = self.layer_retention or (None, None)
        fields["copied"] = [{"name": key, "why": why} for key, why in self.copied]
        return fields
