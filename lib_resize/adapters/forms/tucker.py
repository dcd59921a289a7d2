"""Tucker LoCon: ``up``, a small core ``mid`` with the kernel, and a 1x1 ``down``; LyCORIS' use_tucker.

``delta[x, y, t] = scale * sum_ab up[x, a] mid[a, b, t] down[b, y]``. Both outer ranks are cut to the same k, because
ComfyUI and Forge read only a square ``mid``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...linalg.arrays import Arrays
from ...linalg.casts import Double, Single, singles
from ...linalg.factor import Factor, Stored
from ...linalg.tucker import (
    TuckerFactors,
    TuckerSpectrum,
    decompose_tucker,
    truncated_tucker,
    tucker_alignment,
    tucker_as_pair,
    tucker_product,
)
from .form import Form, Shape, Tensors, TensorSlot, WriteSpec, inner_product, relative_distance
from .lora import LowRank, lora_from_pair


@dataclass(frozen=True)
class Tucker(Form):
    """`TuckerFactors` with kohya's names."""

    core: TuckerFactors
    shapes: tuple[Shape, Shape, Shape]
    """Of up, mid and down as stored."""
    stored: tuple[str, str, str]

    kind = "Tucker LoCon"
    nested = True

    @property
    def size(self) -> tuple[int, int]:
        return self.core.size

    @property
    def rank(self) -> int:
        return self.core.rank

    @property
    def kernel(self) -> Shape:
        return self.shapes[1][2:]

    @property
    def scale(self) -> float:
        return self.core.scale

    @property
    def dtypes(self) -> frozenset[str]:
        return frozenset(self.stored)

    @property
    def parameters_per_rank(self) -> int:
        return self.core.up.shape[0] + self.core.down.shape[1]

    @property
    def parameters_per_squared_rank(self) -> int:
        return self.core.taps

    def decompose(self, arrays: Arrays, base: Factor | None = None) -> TuckerSpectrum:
        return decompose_tucker(self.core, arrays)

    def slots(self, rank: int) -> tuple[TensorSlot, ...]:
        up, mid, down = self.shapes
        return (
            TensorSlot("up", (up[0], rank, *up[2:]), self.stored[0]),
            TensorSlot("mid", (rank, rank, *mid[2:]), self.stored[1]),
            TensorSlot("down", (rank, *down[1:]), self.stored[2]),
        )

    def values(self, work: WriteSpec) -> dict[str, Single]:
        up, mid, down = truncated_tucker(self.core, _spectrum(work), len(work.kept), work.arrays, work.gain**2)
        return {"up": up, "mid": mid, "down": down}

    def error(self, found: Tucker, work: WriteSpec) -> float:
        return tucker_error(found.core, self.core, _spectrum(work), len(work.kept), work.arrays, work.gain**2)

    def full(self, values: dict[str, Single]) -> Single:
        return tucker_product(values["up"], values["mid"], values["down"])

    def times(self, weight: float) -> Tucker:
        return replace(self, core=replace(self.core, scale=self.core.scale * weight))

    def converted(self) -> LowRank:
        return lora_from_pair(tucker_as_pair(self.core), self.kernel, self.stored[1])

    def base_alignment(self, solved: Any, weight: Factor, arrays: Arrays, *, transposed: bool) -> Double:
        w = singles(weight.bits, weight.kind)
        return tucker_alignment(self.core, solved, w.T if transposed else w)


def tucker_error(
    found: TuckerFactors, source: TuckerFactors, spectrum: TuckerSpectrum, rank: int, arrays: Arrays, strength: float
) -> float:
    """Return the relative error of truncated factors that were read back, `strength` times the source's.

    The truncation, computed again, must equal them. It must also be an orthogonal projection of the source: its inner
    product with the source is its own squared norm.
    """
    up, middle, down = truncated_tucker(source, spectrum, rank, arrays, strength)
    wanted = tucker_as_pair(TuckerFactors(as_stored(up), as_stored(middle.reshape(rank, -1)), as_stored(down)))
    kept = float(np.sum(spectrum.s[:rank] ** 2)) * strength**2
    shared = strength * inner_product(wanted, tucker_as_pair(source))
    return max(relative_distance(tucker_as_pair(found), wanted), abs(shared - kept) / kept if kept > 0 else 0.0)


def as_stored(values: Single) -> Stored:
    """Return a matrix in memory as a factor."""
    return Stored(np.ascontiguousarray(values), "F32")


def _spectrum(work: WriteSpec) -> TuckerSpectrum:
    assert isinstance(work.solved, TuckerSpectrum)
    return work.solved


def read_tucker_factors(
    tensors: Tensors, up: str, mid: str, down: str, *, transposed: bool, scale: float
) -> TuckerFactors:
    """Read three tensors as `TuckerFactors`.

    `transposed`: up is stored as (a, n), as in LoHa and LoKr files. Raises LayerError for shapes that do not fit.
    """
    tensors.need(up, mid, down)
    left, right = tensors.matrix(up, transposed=transposed), tensors.matrix(down)
    shape = tensors.shape(mid)
    tensors.expect(mid, len(shape) >= 3, "a core of ranks and kernel was expected, (rank, rank, height, width)")
    tensors.expect(mid, shape[0] == left.shape[1], f"its first rank is not that of {up}, {left.shape[1]}")
    tensors.expect(mid, shape[1] == right.shape[0], f"its second rank is not that of {down}, {right.shape[0]}")
    return TuckerFactors(left, tensors.matrix(mid), right, scale)


def read_tucker(tensors: Tensors) -> Tucker:
    """Read ``up``, ``mid`` and ``down``."""
    tensors.need("up", "mid", "down")
    for role in ("up", "down"):
        shape = tensors.shape(role)
        tensors.expect(role, len(shape) >= 2 and math.prod(shape[2:]) == 1, "a 1x1 convolution was expected")
    core = read_tucker_factors(
        tensors, "up", "mid", "down", transposed=False, scale=tensors.outer_scale(tensors.shape("down")[0])
    )
    shapes = tensors.shape("up"), tensors.shape("mid"), tensors.shape("down")
    return Tucker(core, shapes, (tensors.dtype("up"), tensors.dtype("mid"), tensors.dtype("down")))
