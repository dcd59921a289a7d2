"""A layer whose factors were fitted to images, in place of the truncation of the source's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..adapters.forms.lora import LowRank
from ..linalg.factor import Spectrum
from ..linalg.truncate import KeptIndices


@dataclass(frozen=True)
class FittedLayer:
    """The new factors of a layer, all of whose dimensions are written."""

    form: LowRank
    """The source's form with the new pair, of rank k."""
    spectrum: Spectrum
    """Its decomposition."""
    lost: float
    """Frobenius norm of the source's delta minus the new one, before rounding and without `rescale`."""

    @property
    def kept(self) -> KeptIndices:
        """Its dimensions, (k,)."""
        return np.arange(self.form.rank)
