"""Size and retention of a LoRA over the number of dimensions that are kept, without planning a file for each."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from ..adapters.forms.form import Form
from ..adapters.forms.lora import LowRank
from ..adapters.write.style import Style
from ..engine.analysis import Analysis
from ..files.header import DTYPE_BYTES
from ..recipe.scores import LayerFacts
from ..recipe.select import Ranking
from .protocol.types import Json


def ranks_of(ranks: Sequence[int] | NDArray[np.int64]) -> list[int]:
    """Return the smallest, the median and the largest rank of the layers that are kept."""
    every = np.sort(np.asarray(ranks, np.int64))
    kept = every[np.count_nonzero(every == 0) :]
    return [int(kept[0]), int(kept[len(kept) // 2]), int(kept[-1])] if len(kept) else [0, 0, 0]


class SizeCurve:
    """Size and retention at every count of dimensions, in the order in which a recipe keeps them."""

    def __init__(self, analysis: Analysis, ranking: Ranking, style: Style) -> None:
        layers, adapter = analysis.layers, analysis.adapter
        self._ranking = ranking
        self._together = adapter.together
        sizes = [_sizes(layer.form, facts, style) for layer, facts in zip(adapter.layers, layers, strict=True)]
        self._sizes = np.concatenate(sizes)
        self._places = np.cumsum([0] + [len(part) for part in sizes[:-1]])
        self._forced = np.array([len(forced) for forced in ranking.forced], np.int64)
        squares = [facts.s * facts.s for facts in layers]
        held = sum(float(part[index].sum()) for part, index in zip(squares, ranking.forced, strict=True))
        whole = sum(float(part.sum()) for part in squares)
        starts = np.cumsum([0] + [len(part) for part in squares])
        flat = np.concatenate(squares)
        running = held + np.concatenate([[0.0], np.cumsum(flat[starts[ranking.layer] + ranking.index])])
        self._retention = np.sqrt(np.minimum(running / whole, 1.0)) if whole > 0 else np.ones(len(running))
        marginal = np.concatenate([np.diff(part) for part in sizes])
        self._size = np.concatenate([[0], np.cumsum(marginal[starts[ranking.layer] + ranking.index])])

    def counts(self, points: int) -> list[int]:
        """Return rising counts of free dimensions: half of them spaced evenly in bytes, half in retention."""
        last = len(self._ranking.layer)
        half = points // 2
        by_size = np.searchsorted(self._size, np.linspace(self._size[0], self._size[-1], half))
        by_share = np.searchsorted(self._retention, np.linspace(self._retention[0], self._retention[-1], half))
        return sorted({int(min(count, last)) for count in (0, last, *by_size, *by_share)})

    def retention(self, count: int) -> float:
        """Return the retention of a count, rounded down to what the text of a recipe can hold."""
        return max(1e-6, float(np.floor(self._retention[count] * 1e6) / 1e6))

    def ranks(self, count: int) -> NDArray[np.int64]:
        """Return the rank of every layer at a count."""
        new: NDArray[np.int64] = self._forced + np.bincount(self._ranking.layer[:count], minlength=len(self._forced))
        for group in self._together:
            if any(new[i] for i in group):
                for i in group:
                    new[i] = max(new[i], 1)
        return new

    def data(self, ranks: Sequence[int] | NDArray[np.int64]) -> int:
        """Return the bytes of all factors."""
        return int(self._sizes[self._places + np.asarray(ranks, np.int64)].sum())

    def point(self, count: int, head: float) -> Json:
        """Return the `Point` of the protocol; `head` is the bytes of the file besides its factors."""
        ranks = self.ranks(count)
        threshold = float(self._ranking.flat[count - 1]) if count else None
        return {
            "retention": self.retention(count),
            "bytes": round(self.data(ranks) + head),
            "ranks": ranks_of(ranks),
            "layers_gone": int(np.count_nonzero(ranks == 0)),
            "threshold": None if threshold is None else round(threshold, 4),
        }


def _sizes(form: Form, facts: LayerFacts, style: Style) -> NDArray[np.int64]:
    """Return the bytes of a layer at every rank, shape (r + 1,)."""
    if isinstance(form, LowRank):  # most files hold nothing else, and a file of a thousand layers must not wait
        return np.arange(form.rank + 1, dtype=np.int64) * _bytes(form, 1, style)
    stored = np.arange(form.rank + 1) if facts.stored_ranks is None else facts.stored_ranks
    return np.array([_bytes(form, int(rank), style) for rank in stored], np.int64)


def _bytes(form: Form, rank: int, style: Style) -> int:
    slots = form.slots(rank) if rank else ()
    return sum(DTYPE_BYTES[style.dtype or slot.dtype] * prod(slot.shape) for slot in slots)


def value_count(form: Form, rank: int) -> int:
    """Return the number of values that a layer stores at a rank."""
    return sum(prod(slot.shape) for slot in form.slots(rank)) if rank else 0
