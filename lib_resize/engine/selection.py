"""What a recipe selects in one LoRA, and what the new file loses by it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ..adapters.forms.form import Decomposition
from ..adapters.forms.lora import LowRank
from ..adapters.layer import Adapter
from ..adapters.write.layout import OutputLayout, becomes_float8
from ..adapters.write.style import Style
from ..files.effect_record import EffectRecord
from ..files.metadata import FitRecord
from ..linalg.truncate import KeptIndices, discarded_norm, norm_of_strengths
from ..plans import LayerPlan
from ..recipe.grammar import Recipe
from ..recipe.scores import LayerFacts
from ..recipe.select import Choice, weight_retention
from .analysis import Analysis
from .fitted_layer import FittedLayer
from .reduction import Reduction

_EXPECTED_FLOAT8 = 0.036
"""What rounding two factors to fp8 usually does to a delta, relative, Frobenius: for plans that are not measured."""
_EXPECTED_REGAUGED = 0.034
"""The same for rotated factors with error feedback, over the root of k AM (0.3 AM + 0.7 GM), with the arithmetic and
the geometric mean of the k singular values. Rotation gives k AM^2 for the sum of s^2, see `linalg.float8_gauge`;
feedback brings the mean eigenvalue of H towards the geometric mean. Fitted to spectra over 0.3 to 2 decades."""
_LONGEST_SHARE = 0.123456


@dataclass(frozen=True)
class Selection:
    """The dimensions of one LoRA that a recipe keeps, and the tensors that hold them."""

    analysis: Analysis
    recipe: Recipe
    style: Style
    choice: Choice
    layout: OutputLayout
    reduction: Reduction | None = None
    """What the factors are made from where that is not the exact decomposition."""
    rounded: Mapping[int, float] | None = None
    """Frobenius norm of the delta minus the written one, without `rescale`, by layer index, for layers that are
    written in fp8. None where it is not measured yet, and estimated in the plan."""
    fitted: Mapping[int, FittedLayer] = field(default_factory=dict)
    """Layers whose factors were fitted to images, by index. `layout` has their forms."""
    fit: FitRecord | None = None
    """What the file's record says of the fit. Before the fit the longest record, so that the planned size is never too
    small."""
    effect: EffectRecord | None = None
    """What the file's record says of images that were compared; None: nothing."""

    @property
    def adapter(self) -> Adapter:
        """The LoRA that was analysed."""
        return self.analysis.adapter

    def decomposition(self, index: int) -> Decomposition:
        """Return what layer `index` of the adapter is written from."""
        if index in self.fitted:
            return self.fitted[index].spectrum
        return (self.reduction or self.analysis).spectra[index]

    def kept(self, index: int) -> KeptIndices:
        """Return the dimensions of that decomposition that are written."""
        return self.fitted[index].kept if index in self.fitted else self.choice.kept[index]

    def is_regauged(self, index: int) -> bool:
        """Return whether the factors of layer `index` are rotated and rounded with error feedback in fp8.

        Where plain truncation drops dimensions, that loss outweighs the rounding, and the dimensions stay sorted.
        """
        if self.reduction is not None or not isinstance(self.adapter.layers[index].form, LowRank):
            return False
        return index in self.fitted or not self.truncation[index] > 0

    @cached_property
    def losses(self) -> tuple[float, ...]:
        """Frobenius norm of what each layer loses by truncation and by rounding to fp8, without `rescale`."""
        lost = [math.hypot(one, facts.residual_norm) for one, facts in zip(self.truncation, self._facts, strict=True)]
        for index in self._float8:
            lost[index] = self._loss_in_float8(index, lost[index])
        return tuple(lost)

    @cached_property
    def truncation(self) -> tuple[float, ...]:
        """Frobenius norm of what each layer loses by its smaller rank, without `rescale`."""
        if self.reduction is not None:
            return self.reduction.lost
        plain = [discarded_norm(facts.s, kept) for facts, kept in zip(self._facts, self.choice.kept, strict=True)]
        return tuple(self.fitted[i].lost if i in self.fitted else lost for i, lost in enumerate(plain))

    @property
    def error(self) -> float:
        """Frobenius norm of what is lost over that of the whole LoRA; above 1 for some random projections."""
        whole = self.norm
        return math.hypot(*self.losses) / whole if whole > 0 else 0.0

    @cached_property
    def norm(self) -> float:
        """Frobenius norm of the whole LoRA."""
        return math.hypot(*(facts.fro for facts in self._facts))

    @property
    def retention(self) -> float:
        """Weight retention, 0 to 1. For other methods than the exact one, and for fp8, it follows from the error."""
        if self.reduction is None and not self._float8 and not self.fitted:
            return weight_retention(self._facts, self.choice.kept)
        return math.sqrt(max(0.0, 1.0 - self.error**2))

    @property
    def recorded_retention(self) -> float:
        """Retention as the file's record has it. Until fp8 is measured, and before a fit, it has the longest text, so
        that the planned size is never too small."""
        if self.fit is None and not self._float8:
            return self.retention
        unknown = (self.fit is not None and self.fit.planned) or (bool(self._float8) and self.rounded is None)
        return _LONGEST_SHARE if unknown else round(self.retention, 6)

    @property
    def is_estimated(self) -> bool:
        """Whether errors of fp8 layers are estimates."""
        return self.rounded is None and any(self.choice.ranks[index] for index in self._float8)

    def kept_norm(self, index: int) -> float:
        """Return the Frobenius norm of what layer `index` keeps, without `rescale`."""
        s = self.fitted[index].spectrum.s if index in self.fitted else self._facts[index].s
        return norm_of_strengths(s[self.kept(index)])

    def layer_plans(self) -> Iterator[LayerPlan]:
        """Yield the plan of every layer of the source."""
        rows = enumerate(zip(self._facts, self.choice.kept, self.choice.ranks, self.losses, strict=True))
        for index, (facts, kept, rank, lost) in rows:
            whole, base_norm = facts.fro, facts.base.fro if facts.base else None
            error = lost / whole if whole > 0 else 1.0
            sum_retained, max_ratio = (None, None) if index in self.fitted else self._spectral_figures(facts, kept)
            yield LayerPlan(
                name=facts.name,
                old_rank=len(facts.s),
                new_rank=rank,
                error_lora=error,
                error_ckpt=lost * self.recipe.rescale / base_norm if base_norm else None,
                fro_retained=math.sqrt(max(0.0, 1.0 - error**2)) if whole > 0 else None,
                sum_retained=sum_retained,
                max_ratio=max_ratio,
            )

    def _spectral_figures(self, facts: LayerFacts, kept: KeptIndices) -> tuple[float | None, float | None]:
        """Return `sum_retained` and `max_ratio` of `LayerPlan`, which only exact singular values have."""
        is_exact = self.recipe.is_exact and self.rounded is None
        if not is_exact or not facts.fro > 0 or facts.nested or facts.residual_norm:
            return None, None
        stays = facts.s[kept][facts.s[kept] > 0]
        return float(stays.sum() / facts.s.sum()), float(facts.s[0] / stays.min()) if len(stays) else None

    @property
    def _facts(self) -> Sequence[LayerFacts]:
        return self.analysis.layers

    @cached_property
    def _float8(self) -> tuple[int, ...]:
        layers = self.adapter.layers
        return tuple(index for index, layer in enumerate(layers) if becomes_float8(layer, self.style))

    def _loss_in_float8(self, index: int, truncated: float) -> float:
        if not self.choice.ranks[index]:
            return truncated
        if self.rounded is None:
            return math.hypot(truncated, self._expected_rounding(index))
        return math.hypot(self.rounded[index], self._facts[index].residual_norm)

    def _expected_rounding(self, index: int) -> float:
        if not self.is_regauged(index):
            return _EXPECTED_FLOAT8 * self.kept_norm(index)
        s = self._facts[index].s[self.choice.kept[index]]
        alive = s[s > 0]
        if not len(alive):
            return 0.0
        mean = float(alive.mean())
        return _EXPECTED_REGAUGED * math.sqrt(
            len(s) * mean * (0.3 * mean + 0.7 * math.exp(float(np.log(alive).mean())))
        )
