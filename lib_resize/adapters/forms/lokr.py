"""LoKr: ``scale * kron(w1, w2)``, each factor in full or as a pair, w2 also as a Tucker decomposition: eight layouts.

The singular values of a Kronecker product are the products of the singular values of its factors. Truncating w2 loses
``||w1||_F`` times what w2 loses, so w1 is kept unchanged and w2 is truncated to its best approximation.

Readers divide alpha by a rank: the number of rows of ``w2_b``, else of ``w1_b``. They ignore alpha where both factors
are in full. So a scale is always folded into w2, and alpha is the rank by that rule.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import LayerError
from ...linalg.arrays import Arrays
from ...linalg.casts import Double, Single, singles
from ...linalg.factor import Factor, Pair
from ...linalg.lazy import LazyMatrix, kronecker_pair
from ...linalg.tucker import tucker_product
from .form import Form, Shape, Tensors, TensorSlot, WriteSpec, kernel_fits, relative_difference
from .full import Full
from .lokr_factors import W1, W2, FullW2, PairW2, TuckerW2, W2Spectrum
from .lora import LowRank, lora_from_pair
from .tucker import read_tucker_factors


@dataclass(frozen=True)
class LokrSpectrum:
    """w2 decomposed, and the strengths of the whole delta."""

    s: Double
    w2: W2Spectrum

    @property
    def nbytes(self) -> int:
        return self.s.nbytes + self.w2.nbytes


@dataclass(frozen=True)
class Lokr(Form):
    """The Kronecker product of w1 and w2, times `factor`."""

    w1: W1
    w2: W2
    factor: float
    stored: tuple[str, str]
    """safetensors dtypes of w1 and w2."""
    taps: Shape = ()
    """The kernel; empty where the file flattens it."""
    ignored_alpha: float = 1.0
    """The file's alpha where readers ignore it."""

    kind = "LoKr"

    @property
    def nested(self) -> bool:  # type: ignore[override]
        return self.w2.nested

    @property
    def size(self) -> tuple[int, int]:
        (n1, m1), (n2, m2) = self.w1.size, self.w2.size
        return n1 * n2, m1 * m2

    @property
    def rank(self) -> int:
        return self.w2.rank

    @property
    def kernel(self) -> Shape:
        return self.taps

    def with_kernel(self, kernel: Shape) -> Lokr:
        return replace(self, taps=kernel) if not self.taps and kernel_fits(kernel, self.w2.size[1]) else self

    @property
    def scale(self) -> float:
        return self.factor

    @property
    def dtypes(self) -> frozenset[str]:
        return frozenset(self.stored)

    @property
    def parameters_per_rank(self) -> int:
        return self.w2.parameters_per_rank

    @property
    def parameters_per_squared_rank(self) -> int:
        return self.w2.parameters_per_squared_rank

    def stored_ranks(self, solved: Any) -> NDArray[np.intp] | None:
        return self.w2.stored_ranks()

    @property
    def _strength_of_w1(self) -> float:
        """``|scale| * ||w1||_F``."""
        return abs(self.factor) * self.w1.norm

    def decompose(self, arrays: Arrays, base: Factor | None = None) -> LokrSpectrum:
        if not np.isfinite(self._strength_of_w1):
            raise LayerError("w1 or the scale holds NaN or infinite values: the file is damaged")
        solved = self.w2.decompose(arrays)
        return LokrSpectrum(solved.s * self._strength_of_w1, solved)

    def slots(self, rank: int) -> tuple[TensorSlot, ...]:
        w1 = (TensorSlot(role, shape, self.stored[0]) for role, shape in self.w1.shapes().items())
        w2 = (TensorSlot(role, shape, self.stored[1]) for role, shape in self.w2.shapes(rank, self.taps).items())
        return (*w1, *w2)

    def values(self, work: WriteSpec) -> dict[str, Single]:
        spectrum, shift = _spectrum(work), _shift(self, work)
        strength = self.factor * work.gain**2 / shift
        return self.w1.values(shift) | self.w2.values(spectrum.w2, work.kept, work.arrays, strength)

    def alpha(self, rank: int) -> float:
        if not self.w2.is_stored_in_full(rank):
            return float(rank)
        w1 = self.w1.factor
        return float(w1.rank) if isinstance(w1, Pair) else self.ignored_alpha

    def error(self, found: Lokr, work: WriteSpec) -> float:
        spectrum, shift = _spectrum(work), _shift(self, work)
        strength = self.factor * work.gain**2 / shift
        w1_error = relative_difference(found.w1.dense(), shift * self.w1.dense())
        w2_error = self.w2.error(found.w2, found.factor, spectrum.w2, work.kept, work.arrays, strength)
        return float(np.hypot(w1_error, w2_error))

    def times(self, weight: float) -> Lokr:
        return replace(self, factor=self.factor * weight)

    def full(self, values: dict[str, Single]) -> Single:
        w1 = values["lokr_w1"] if "lokr_w1" in values else values["lokr_w1_a"] @ values["lokr_w1_b"]
        if "lokr_w2" in values:
            w2 = values["lokr_w2"]
        elif "lokr_t2" in values:
            w2 = tucker_product(values["lokr_w2_a"].T, values["lokr_t2"], values["lokr_w2_b"])
        else:
            w2 = values["lokr_w2_a"] @ values["lokr_w2_b"]
        return np.kron(w1, w2)

    def converted(self) -> LowRank | Full:
        """Return a LoRA of rank columns(w1) * r, by ``kron(w1, B) @ kron(I, A)``.

        In full where that rank is no lower than that of the matrix.
        """
        w2 = self.w2.as_pair()
        if w2 is not None:
            left = LazyMatrix(self.w1.size, lambda: self.w1.dense().astype(np.float32))
            pair = kronecker_pair(left, w2, self.factor)
            if pair.rank <= min(self.size):
                return lora_from_pair(pair, self.kernel, self.stored[1])
        n, m = self.size
        matrix = LazyMatrix(self.size, lambda: _dense(self))
        return Full(matrix, (n, m // prod(self.kernel), *self.kernel), self.stored[1])

    def base_alignment(self, solved: Any, weight: Factor, arrays: Arrays, *, transposed: bool) -> Double:
        w = singles(weight.bits, weight.kind)
        (n1, m1), (n2, m2) = self.w1.size, self.w2.size
        blocks = (w.T if transposed else w).reshape(n1, n2, m1, m2)
        seen = np.einsum("ac,abcd->bd", self.w1.dense(), blocks, optimize=True)
        if isinstance(self.w2, TuckerW2):
            return self.w2.alignment(solved.w2, seen) * (abs(self.factor) / (self._strength_of_w1 or 1.0))
        assert isinstance(self.w2, (FullW2, PairW2))
        up, down = self.w2.all_dimensions(solved.w2, arrays)
        met = np.einsum("bj,bd,jd->j", up, seen, down, optimize=True)
        strengths = solved.s / (abs(self.factor) or 1.0)
        return np.asarray(np.abs(np.divide(met, strengths, out=np.zeros(self.rank), where=strengths > 0)))


def _dense(form: Lokr) -> Single:
    return np.asarray(np.kron(form.factor * form.w1.dense(), form.w2.dense()), np.float32)


def _shift(form: Lokr, work: WriteSpec) -> float:
    """Return a power of two to move from w2 into w1, where one is so much larger that float16 cannot hold both."""
    spectrum, strength = _spectrum(work), abs(form.factor) * work.gain**2
    w1 = form._strength_of_w1 / (abs(form.factor) or 1.0) / prod(form.w1.size) ** 0.5
    w2 = strength * float(np.linalg.norm(spectrum.w2.s)) / prod(form.w2.size) ** 0.5
    if w1 == 0.0 or w2 == 0.0 or 2.0**-8 < w1 / w2 < 2.0**8:
        return 1.0
    return float(2.0 ** np.round(np.log2(w2 / w1) / 2))


def _spectrum(work: WriteSpec) -> LokrSpectrum:
    assert isinstance(work.solved, LokrSpectrum)
    return work.solved


# Reading


def read_lokr(tensors: Tensors) -> Lokr:
    """Read a layer in any of the eight layouts. Raises DamagedFileError and LayerError."""
    w1, w2 = _read_w1(tensors), _read_w2(tensors)
    factor = tensors.outer_scale(_alpha_rank(tensors))
    ignored = tensors.file.scalar(tensors.parts["alpha"].key) if "alpha" in tensors else 1.0
    names = "lokr_w1" if "lokr_w1" in tensors else "lokr_w1_a", "lokr_w2" if "lokr_w2" in tensors else "lokr_w2_a"
    return Lokr(w1, w2, factor, (tensors.dtype(names[0]), tensors.dtype(names[1])), _read_kernel(tensors), ignored)


def _alpha_rank(tensors: Tensors) -> int | None:
    """Return the number that readers divide alpha by; None where they ignore alpha."""
    if "lokr_w2" not in tensors:
        return tensors.shape("lokr_w2_b")[0]
    return None if "lokr_w1" in tensors else tensors.shape("lokr_w1_b")[0]


def _read_w1(tensors: Tensors) -> W1:
    if "lokr_w1" in tensors:
        return W1(tensors.matrix("lokr_w1"))
    return W1(_read_pair(tensors, "lokr_w1_a", "lokr_w1_b"))


def _read_w2(tensors: Tensors) -> W2:
    if "lokr_w2" in tensors:
        return FullW2(tensors.matrix("lokr_w2"))
    if "lokr_t2" in tensors:
        return TuckerW2(read_tucker_factors(tensors, "lokr_w2_a", "lokr_t2", "lokr_w2_b", transposed=True, scale=1.0))
    return PairW2(_read_pair(tensors, "lokr_w2_a", "lokr_w2_b"))


def _read_pair(tensors: Tensors, up: str, down: str) -> Pair:
    tensors.need(up, down)
    left, right = tensors.matrix(up), tensors.matrix(down)
    tensors.expect(up, left.shape[1] == right.shape[0], f"its rank is not that of {down}, {right.shape[0]}")
    return Pair(left, right)


def _read_kernel(tensors: Tensors) -> Shape:
    for role in ("lokr_w2", "lokr_t2", "lokr_w2_b"):
        if role in tensors:
            return tensors.shape(role)[2:]
    return ()
