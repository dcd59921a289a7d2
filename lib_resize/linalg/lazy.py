"""Matrices that are not stored but made of stored ones when they are looked at: factors of products of matrices.

Each is a `Factor` like any other, so that what is known of pairs holds for sums, Kronecker and elementwise products
as well. Rows and columns of kernels are flattened as everywhere: a convolution (n, m, height, width) is the matrix
(n, m * height * width).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .casts import Bits, Single, singles
from .factor import Factor, Pair


@dataclass(frozen=True)
class LazyMatrix:
    """A matrix that a function computes anew at every look, as float32."""

    shape: tuple[int, int]
    make: Callable[[], Single] = field(compare=False)
    kind: str = "F32"

    @property
    def bits(self) -> Bits:
        return np.ascontiguousarray(self.make(), np.float32)


@dataclass(frozen=True)
class Transposed:
    """The transpose of a matrix."""

    inner: Factor

    @property
    def bits(self) -> Bits:
        return np.ascontiguousarray(self.inner.bits.T)

    @property
    def kind(self) -> str:
        return self.inner.kind

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.inner.shape
        return columns, rows


def materialise(factor: Factor) -> Single:
    """All of a factor in float32, (rows, columns)."""
    return singles(factor.bits, factor.kind)


def product_matrix(pair: Pair) -> LazyMatrix:
    """``scale * up @ down`` as one matrix (n, m)."""
    return LazyMatrix(
        pair.size, lambda: np.asarray(np.float32(pair.scale) * (materialise(pair.up) @ materialise(pair.down)))
    )


def hadamard_pair(first: Pair, second: Pair, scale: float) -> Pair:
    """The elementwise product ``scale * (B A) o (D C)`` as an exact pair of rank r1 * r2.

    Row x of its up is the Kronecker product of the rows x of B and D, column y of its down that of the columns y of
    A and C (the Khatri-Rao products; Kolda and Bader 2009, section 2.6).
    """
    rank = first.rank * second.rank
    (n, m) = first.size
    return Pair(
        up=LazyMatrix((n, rank), lambda: rowwise(materialise(first.up), materialise(second.up))),
        down=LazyMatrix((rank, m), lambda: rowwise(materialise(first.down).T, materialise(second.down).T).T),
        scale=scale * first.scale * second.scale,
    )


def rowwise(left: NDArray[np.float32], right: NDArray[np.float32]) -> Single:
    """The Kronecker product of equal rows: (x, a) and (x, b) give (x, a * b)."""
    return np.asarray((left[:, :, None] * right[:, None, :]).reshape(len(left), -1))


def kronecker_pair(left: Factor, right: Pair, scale: float) -> Pair:
    """``scale * kron(L, B A)`` as an exact pair of rank columns(L) * r, by ``kron(L, B) @ kron(I, A)``."""
    rows, columns = left.shape
    n, m = right.size
    rank = columns * right.rank
    return Pair(
        up=LazyMatrix((rows * n, rank), lambda: np.kron(materialise(left), materialise(right.up))),
        down=LazyMatrix(
            (rank, columns * m), lambda: np.kron(np.eye(columns, dtype=np.float32), materialise(right.down))
        ),
        scale=scale * right.scale,
    )
