"""Matrices that are read or computed at each access: tensors of a file, and factors of products of matrices.

Each is a `Factor` like any other, so sums, Kronecker products and elementwise products are pairs as well. Rows and
columns of kernels are flattened: a convolution (n, m, height, width) is the matrix (n, m * height * width).
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
    """A float32 matrix that a function computes at each access."""

    shape: tuple[int, int]
    make: Callable[[], Single] = field(compare=False)
    kind: str = "F32"

    @property
    def bits(self) -> Bits:
        return np.ascontiguousarray(self.make(), np.float32)


@dataclass(frozen=True)
class ReadMatrix:
    """A stored matrix that a function reads at each access, so that it needs no memory in between."""

    read: Callable[[], Bits]
    """Returns the storage array of the tensor, of any shape with as many elements."""
    kind: str
    shape: tuple[int, int]

    @property
    def bits(self) -> Bits:
        return self.read().reshape(self.shape)


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
    """Return all of a factor in float32, (rows, columns)."""
    return singles(factor.bits, factor.kind)


def product_matrix(pair: Pair) -> LazyMatrix:
    """Return ``scale * up @ down`` as one matrix (n, m), computed at each access."""
    return LazyMatrix(
        pair.size, lambda: np.asarray(np.float32(pair.scale) * (materialise(pair.up) @ materialise(pair.down)))
    )


def hadamard_pair(first: Pair, second: Pair, scale: float) -> Pair:
    """Return the elementwise product ``scale * (B A) o (D C)`` of two pairs (n, m) as an exact pair of rank r1 * r2.

    Row x of its up is the Kronecker product of the rows x of B and D, column y of its down that of the columns y of A
    and C (Khatri-Rao products; Kolda and Bader 2009, section 2.6).
    """
    rank = first.rank * second.rank
    (n, m) = first.size
    return Pair(
        up=LazyMatrix((n, rank), lambda: rowwise(materialise(first.up), materialise(second.up))),
        down=LazyMatrix((rank, m), lambda: rowwise(materialise(first.down).T, materialise(second.down).T).T),
        scale=scale * first.scale * second.scale,
    )


def rowwise(left: NDArray[np.float32], right: NDArray[np.float32]) -> Single:
    """Return the Kronecker product of equal rows: (x, a) and (x, b) give (x, a * b), float32."""
    return np.asarray((left[:, :, None] * right[:, None, :]).reshape(len(left), -1))


def kronecker_pair(left: Factor, right: Pair, scale: float) -> Pair:
    """Return ``scale * kron(L, B A)`` as an exact pair of rank columns(L) * r, by ``kron(L, B) @ kron(I, A)``.

    For L (p, q) and a pair (n, m) it is (p * n, q * m).
    """
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
