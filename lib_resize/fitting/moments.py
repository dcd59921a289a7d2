"""The moments of one layer, streamed, and the factors that follow from them; see `linalg.regression`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..linalg.casts import Double, Single
from ..linalg.regression import RIDGE, Regression, rank_k_regression, ridge, with_ridge
from .places import Place

LEAST_TOKENS = 1.0
"""Fewer tokens for each dimension of the original say too little: the layer is truncated plainly."""


@dataclass(frozen=True)
class Original:
    """The delta ``gain * up @ down`` of a layer, or of a piece of a fused one, on the device of the model."""

    up: Tensor
    """``U diag(s / s_1)``, (n, r): float16 holds it, however small the delta is."""
    down: Tensor
    """``V^T``, (r, m): rows of length 1, so products with an input are no larger than the input."""
    gain: float
    """s_1."""

    def output(self, z: Tensor) -> Tensor:
        """Return what the delta adds, (tokens, n), for ``z = down x``, (tokens, r)."""
        return (z * self.gain) @ self.up.T.to(z.dtype)


class Target:
    """A layer, or a piece of a fused one, that is fitted: its moments, and its factors P and Q so far."""

    def __init__(self, index: int, place: Place, rank: int, original: Original, first_row: int = 0) -> None:
        """`index` is that of the layer in the adapter, `rank` is k, 1 to r; `first_row` is that of a piece in it."""
        self.index, self.first_row, self.place, self.rank = index, first_row, place, rank
        self.original = original
        self.reset()

    def reset(self) -> None:
        """Forget all moments, and begin with the truncation."""
        up = self.original.up
        rank = up.shape[1]
        self.c: Double = np.zeros((rank, rank))
        """C, (r, r)."""
        self.s = torch.zeros(up.shape, dtype=torch.float32, device=up.device)
        """S, (n, r), on the device."""
        self.tokens = self.solved_at = self.dropped = 0
        """Tokens so far; tokens when it was solved last; calls that were left out because of NaN or infinities."""
        self.unpaired = False
        """Whether its input was not that of a batch of pairs in some call."""
        self._p = up[:, : self.rank]
        self._q = torch.eye(rank, dtype=up.dtype, device=up.device)[: self.rank]

    @property
    def is_known(self) -> bool:
        """Whether enough tokens were seen, and not all of them zero."""
        return not self.unpaired and self.tokens >= LEAST_TOKENS * len(self.c) and float(np.trace(self.c)) > 0

    def output(self, z: Tensor) -> Tensor:
        """Return what the present factors add, (tokens, n), for ``z = V^T x``, (tokens, r)."""
        return ((z @ self._q.T.to(z.dtype)) * self.original.gain) @ self._p.T.to(z.dtype)

    def add(self, z: Tensor, e: Tensor | None) -> None:
        """Add tokens: z (tokens, r), and e (tokens, n), or None where the output is not seen.

        Then e is that of the layer's own delta, ``S = B C``. A call with NaN or infinities is left out.
        """
        z = z.float()
        c = _double(z.T @ z)
        s = self._own(c) if e is None else e.float().T @ z
        if not (np.isfinite(c).all() and bool(torch.isfinite(s).all())):
            self.dropped += 1
            return
        self.c += c
        self.s += s
        self.tokens += len(z)

    def solve(self, lam: float = RIDGE) -> None:
        """Compute P and Q from the moments so far."""
        found, wide = self._solution(lam)
        self._p = (wide @ torch.from_numpy(found.left / self.original.gain).to(wide)).to(self.original.up)
        self._q = torch.from_numpy(found.right).to(self.original.up)
        self.solved_at = self.tokens

    def factors(self, lam: float = RIDGE) -> tuple[Single, Single]:
        """Return P (n, k) and ``Q V^T`` (k, m) from all moments."""
        found, wide = self._solution(lam)
        p = wide @ torch.from_numpy(found.left).to(wide)
        q = torch.from_numpy(found.right).float() @ self.original.down.float().cpu()
        return _single(p), _single(q)

    def _solution(self, lam: float) -> tuple[Regression, Tensor]:
        """Return the regression and S', (n, r), float64."""
        pull = ridge(self.c, lam)
        wide = _wide(self.s) + pull * self.original.gain * _wide(self.original.up)
        return rank_k_regression(with_ridge(self.c, pull), _double(wide.T @ wide), self.rank), wide

    def _own(self, c: Double) -> Tensor:
        return self.original.gain * (self.original.up.float() @ torch.from_numpy(c).to(self.s))


def _wide(values: Tensor) -> Tensor:
    """Return float64; MPS has none, so it is computed on the CPU there."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def _double(values: Tensor) -> Double:
    return np.asarray(_wide(values).cpu().numpy())


def _single(values: Tensor) -> Single:
    return np.ascontiguousarray(values.float().cpu().numpy())
