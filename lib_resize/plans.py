"""The result of a resize, before or after it is written, as plain numbers."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class LayerPlan:
    """One layer of a plan."""

    name: str
    """Name of the layer in the source file."""
    old_rank: int
    new_rank: int
    error_lora: float
    """Frobenius norm of the removed part over that of the layer's delta, 0 to 1; 1 for a layer of zeros."""
    error_ckpt: float | None
    """The same over the Frobenius norm of the base layer; None without a base model, or if it lacks the layer."""
    fro_retained: float | None = None
    """Retained share of the layer's Frobenius norm, 0 to 1, as in kohya's script; None for a layer of zeros."""
    sum_retained: float | None = None
    """The same of the sum of its singular values; None for a layer of zeros, and for methods other than svd."""
    max_ratio: float | None = None
    """Largest singular value over the smallest retained one; None if none is retained, and as for `sum_retained`."""


@dataclass(frozen=True)
class Plan:
    """The file that a recipe makes from a LoRA."""

    source: str
    """Path of the source; for a merge, its paths with strengths as on the command line."""
    output: str
    """Path of the new file."""
    recipe: str
    """The recipe in full."""
    threshold: float | None
    """log10 score of the weakest retained dimension; None if the recipe selects layer by layer."""
    bytes_before: int
    """Size of the source file in bytes; for a merge, of all of its files."""
    bytes_after: int
    """Exact size of the new file in bytes, header included."""
    retention: float
    """Weight retention, 0 to 1: Frobenius norm of the retained dimensions over that of all. It compares files that one
    recipe made from one LoRA; between recipes it means little."""
    layers: tuple[LayerPlan, ...]
    """The layers of the source, in its order."""
    copied: tuple[tuple[str, str], ...]
    """Tensors that are copied unchanged: the new key, and why they cannot be resized."""
    dropped: tuple[str, ...]
    """Layers of the source that are not in the new file."""
    zero: tuple[str, ...] = ()
    """Layers of the source that are zero."""
    notes: tuple[str, ...] = ()
    """Notes for the user."""

    @property
    def saved(self) -> float:
        """Return the saved share of the bytes; negative if the file grows."""
        return 1.0 - self.bytes_after / self.bytes_before

    @property
    def layer_retention(self) -> tuple[float, float] | None:
        """Return mean and standard deviation over layers of `fro_retained`; None if all layers are zero.

        All layers have the same weight here; in `retention`, strong layers count for more.
        """
        shares = [layer.fro_retained for layer in self.layers if layer.fro_retained is not None]
        if not shares:
            return None
        mean = math.fsum(shares) / len(shares)
        return mean, math.sqrt(math.fsum((share - mean) ** 2 for share in shares) / len(shares))

    def as_json(self, *, layers: bool = True) -> dict[str, Any]:
        """Return the plan as JSON values, as in `--report`; without `layers`, the list of layers is omitted."""
        fields = asdict(self if layers else replace(self, layers=()))
        if not layers:
            del fields["layers"]
        fields["layer_retention_mean"], fields["layer_retention_std"] = self.layer_retention or (None, None)
        fields["copied"] = [{"name": key, "why": why} for key, why in self.copied]
        return fields


@dataclass(frozen=True)
class Result:
    """A file that was written."""

    path: Path
    """The new file."""
    plan: Plan
    """Sizes in bytes, weight retention, and the rank and error of each layer."""
    sidecars: tuple[Path, ...] = ()
    """Previews and descriptions that were copied to the new name."""
