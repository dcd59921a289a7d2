"""GLoRA: ``scale * (B + W A)`` with two pairs and the weight W of the base model that it was trained on.

New layout: B = b1 b2, A = a1 a2. Old layout: B = b2 b1, A = a2 a1, with mirrored shapes. Both parts are truncated to
one rank, B to its best approximation and A to the one that is best for ``W A``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from ...errors import LayerError
from ...linalg.arrays import Arrays
from ...linalg.casts import Double, Single
from ...linalg.factor import Factor, Joined, Pair, Spectrum, Stored, decompose
from ...linalg.lazy import LazyMatrix, Transposed, materialise
from ...linalg.truncate import truncated
from .form import Form, Shape, Tensors, TensorSlot, WriteSpec, relative_distance
from .full import Full
from .lora import LowRank, lora_from_pair


@dataclass(frozen=True)
class GloraSpectrum:
    """Both parts decomposed, and their joint energy at every rank."""

    s: Double
    plain: Spectrum
    """Of B."""
    weighted: Spectrum
    """Of W A, in the factors of A."""

    @property
    def nbytes(self) -> int:
        return self.s.nbytes + self.plain.nbytes + self.weighted.nbytes


@dataclass(frozen=True)
class Glora(Form):
    """The pairs B and A."""

    plain: Pair
    """B: (n, r) and (r, m)."""
    inner: Pair
    """A: (in, r) and (r, in)."""
    factor: float
    old: bool
    """Whether the file has the old layout."""
    shapes: dict[str, Shape]
    stored: str

    kind = "GLoRA"
    nested = True
    needs_base = True

    @property
    def size(self) -> tuple[int, int]:
        return self.plain.size

    @property
    def rank(self) -> int:
        return self.plain.rank

    @property
    def kernel(self) -> Shape:
        return self.shapes["b1" if self.old else "b2"][2:]

    @property
    def scale(self) -> float:
        return self.factor

    @property
    def dtypes(self) -> frozenset[str]:
        return frozenset({self.stored})

    @property
    def parameters_per_rank(self) -> int:
        return sum(self.plain.size) + sum(self.inner.size)

    def decompose(self, arrays: Arrays, base: Factor | None = None) -> GloraSpectrum:
        if base is None:
            raise LayerError(
                "GLoRA's delta depends on the weights of the model that it was trained on. Give that checkpoint as the "
                "first file, or with --base"
            )
        (plain,) = decompose([self.plain], arrays)
        (weighted,) = decompose([self._weighted(base)], arrays)
        steps = self._steps(plain, weighted, base, arrays)
        lost = np.array([steps[k:, k:].sum() for k in range(self.rank + 1)])
        held = np.maximum.accumulate(np.maximum(lost[0] - lost, 0.0))
        return GloraSpectrum(abs(self.factor) * np.sqrt(np.diff(held)), plain, weighted)

    def _weighted(self, base: Factor) -> Pair:
        """Return ``W A`` with the taps of a kernel as rows: (n * taps, r) and (r, in)."""
        rows, columns = base.shape
        inputs = self.inner.up.shape[0]

        def make() -> Single:
            return np.asarray(_by_input(materialise(base), inputs) @ materialise(self.inner.up))

        return Pair(LazyMatrix((rows * columns // inputs, self.rank), make), self.inner.down)

    def base_alignment(self, solved: Any, weight: Factor, arrays: Arrays, *, transposed: bool) -> Double:
        base = Transposed(weight) if transposed else weight
        (u, v), (p, q) = self._factors(solved.plain, solved.weighted, base, arrays)
        w = materialise(base)
        met = np.einsum("nj,nj->j", u, w @ v.T, dtype=np.float64)
        met += np.einsum("nj,nj->j", p, _by_input(w, q.shape[1]) @ q.T, dtype=np.float64)
        length = np.sqrt(np.maximum(np.diagonal(self._steps(solved.plain, solved.weighted, base, arrays)), 0.0))
        return np.asarray(np.abs(np.divide(met, length, out=np.zeros(self.rank), where=length > 0)))

    def _factors(
        self, plain: Spectrum, weighted: Spectrum, base: Factor, arrays: Arrays
    ) -> tuple[tuple[Single, Single], tuple[Single, Single]]:
        """Return all dimensions of B and of W A, as up and down each."""
        everything = np.arange(self.rank)
        b = truncated(self.plain, plain, everything, arrays)
        return b, truncated(self._weighted(base), weighted, everything, arrays)

    def _steps(self, plain: Spectrum, weighted: Spectrum, base: Factor, arrays: Arrays) -> Double:
        """Return the inner products of what dimensions j and k add to the delta, (r, r), float64."""
        (u, v), (p, q) = self._factors(plain, weighted, base, arrays)
        taps = prod(self.kernel)
        outer = np.einsum("xj,xtk->tjk", u, p.reshape(len(u), taps, -1), optimize=True, dtype=np.float64)
        along = np.einsum("jit,ki->tjk", v.reshape(self.rank, -1, taps), q, optimize=True, dtype=np.float64)
        mixed = (outer * along).sum(axis=0)
        return np.asarray(_gram(u, v) + _gram(p, q) + mixed + mixed.T)

    def slots(self, rank: int) -> tuple[TensorSlot, ...]:
        return tuple(TensorSlot(role, self._shape(role, rank), self.stored) for role in ("a1", "a2", "b1", "b2"))

    def _shape(self, role: str, rank: int) -> Shape:
        shape = self.shapes[role]
        return (shape[0], rank, *shape[2:]) if (role in ("a1", "b1")) != self.old else (rank, *shape[1:])

    def values(self, work: WriteSpec) -> dict[str, Single]:
        assert isinstance(work.solved, GloraSpectrum)
        assert work.base is not None
        gain = abs(self.factor * work.gain**2) ** 0.5
        sign = np.float32(np.copysign(1.0, self.factor))
        up, down = truncated(self.plain, work.solved.plain, work.kept, work.arrays, gain)
        left, right = truncated(self.inner, work.solved.weighted, work.kept, work.arrays, gain)
        names = ("b2", "b1", "a2", "a1") if self.old else ("b1", "b2", "a1", "a2")
        return dict(zip(names, (up * sign, down, left * sign, right), strict=True))

    def error(self, found: Glora, work: WriteSpec) -> float:
        wanted = self.values(work)
        parts = ((found.plain, "b"), (found.inner, "a"))
        return max(relative_distance(_scaled(pair, found.factor), self._pair(wanted, part)) for pair, part in parts)

    def full(self, values: dict[str, Single]) -> Single:
        raise LayerError("GLoRA's delta is unknown without the base model's weights")

    def with_base(self, base: Factor) -> LowRank | Full:
        """Return the same delta, exactly, for this base weight: a LoRA of rank 2 r, or in full for a convolution."""
        weighted = self._weighted(base)
        n, m = self.size
        if prod(self.kernel) > 1:
            return Full(
                LazyMatrix((n, m), lambda: self._dense(base)), (n, self.inner.up.shape[0], *self.kernel), self.stored
            )
        pair = Pair(
            Joined((self.plain.up, weighted.up), (1.0, 1.0), axis=1),
            Joined((self.plain.down, weighted.down), (1.0, 1.0), axis=0),
            self.factor,
        )
        return lora_from_pair(pair, self.kernel, self.stored)

    def _dense(self, base: Factor) -> Single:
        inputs, taps = self.inner.up.shape[0], prod(self.kernel)
        through = _by_input(materialise(base), inputs) @ materialise(self.inner.up) @ materialise(self.inner.down)
        through_base = np.swapaxes(through.reshape(-1, taps, inputs), 1, 2).reshape(self.size)
        return np.asarray(
            np.float32(self.factor) * (materialise(self.plain.up) @ materialise(self.plain.down) + through_base)
        )

    def times(self, weight: float) -> Glora:
        return replace(self, factor=self.factor * weight)

    def _pair(self, values: dict[str, Single], part: str) -> Pair:
        names = (f"{part}2", f"{part}1") if self.old else (f"{part}1", f"{part}2")
        up, down = (Stored(np.ascontiguousarray(values[name], np.float32), "F32") for name in names)
        return Pair(up, down)


def _scaled(pair: Pair, scale: float) -> Pair:
    return Pair(pair.up, pair.down, scale)


def _gram(up: Single, down: Single) -> Double:
    left, right = up.astype(np.float64), down.astype(np.float64)
    return np.asarray((left.T @ left) * (right @ right.T))


def _by_input(weight: Single, inputs: int) -> Single:
    """Return (n, in * taps) as (n * taps, in)."""
    return np.swapaxes(weight.reshape(len(weight), inputs, -1), 1, 2).reshape(-1, inputs)


def read_glora(tensors: Tensors) -> Glora:
    """Read ``a1 a2 b1 b2`` in either layout. Raises LayerError if the shapes fit neither."""
    roles = ("a1", "a2", "b1", "b2")
    tensors.need(*roles)
    if "bm" in tensors:
        raise tensors.fault(
            "bm",
            "GLoRA with a core (bm) is read by no host and is not resized; merge it into the checkpoint with LyCORIS",
        )
    shapes = {role: tensors.shape(role) for role in roles}
    for role in roles:
        tensors.expect(role, len(shapes[role]) >= 2, "a matrix was expected")
    old = _is_old(tensors, shapes)
    names = ("b2", "b1", "a2", "a1") if old else ("b1", "b2", "a1", "a2")
    b_up, b_down, a_up, a_down = (tensors.matrix(role) for role in names)
    inputs = shapes[names[1]][1]
    tensors.expect(
        names[2], a_up.shape[0] == a_down.shape[1] == inputs, f"{inputs} inputs were expected, as {names[1]}"
    )
    factor = tensors.outer_scale(b_down.shape[0])
    return Glora(Pair(b_up, b_down), Pair(a_up, a_down), factor, old, shapes, tensors.dtype("b1"))


def _is_old(tensors: Tensors, shapes: dict[str, Shape]) -> bool:
    """Return whether the layout is the old one. Both fit square layers; there the shorter side is the rank."""
    a1, a2, b1, b2 = (shapes[role] for role in ("a1", "a2", "b1", "b2"))
    old = b2[1] == b1[0] == a1[0] == a2[1]
    new = b2[0] == b1[1] == a1[1] == a2[0]
    tensors.expect("b2", old or new, f"its rank does not fit those of a1 {a1}, a2 {a2} and b1 {b1}")
    return old and (not new or a2[0] >= a2[1])
