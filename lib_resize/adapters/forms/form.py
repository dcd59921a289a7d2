"""What all kinds of layers have in common: how tensors make a delta, how it is decomposed, and what is written of it.

The engine uses only the size of a form, the strengths of its dimensions and the tensors that it stores at rank k. Keys
and tensors are known to the form alone. Every delta is a matrix (n, m), with kernels flattened after their inputs.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ...errors import DamagedFileError, LayerError
from ...files.header import TensorEntry
from ...files.reader import SafeFile
from ...linalg.arrays import Arrays
from ...linalg.casts import STORAGE, Bits, Double, Single, doubles
from ...linalg.factor import Factor, Joined, Pair, Stored
from ...linalg.lazy import LazyMatrix, ReadMatrix, Transposed
from ...linalg.truncate import KeptIndices
from ..keys.suffixes import ParsedKey

Shape = tuple[int, ...]


class Decomposition(Protocol):
    """A decomposed form."""

    @property
    def s(self) -> Double:
        """Strengths, (rank,), float64: the first k hold ``sum of s_j^2 over j < k`` of the delta's squared norm."""
        ...

    @property
    def nbytes(self) -> int: ...


class TensorSlot(NamedTuple):
    """One tensor that a form stores."""

    role: str
    shape: Shape
    dtype: str
    """safetensors dtype in the source, for output files that keep it."""


@dataclass(frozen=True)
class WriteSpec:
    """What to write of a decomposed layer."""

    solved: Decomposition
    kept: KeptIndices
    arrays: Arrays
    gain: float = 1.0
    """The delta is multiplied by the square of this."""
    base: Factor | None = None
    """The base layer's weight, for forms that need it."""
    regauged: bool = False
    """Whether up and down are rotated and rounded for float8; see `linalg.float8_gauge`."""


class Form(ABC):
    """The delta of one layer, as its kind of adapter stores it."""

    kind: ClassVar[str]
    """Name of its row in the registry."""
    needs_base: ClassVar[bool] = False
    """Whether the delta depends on the base layer's weight."""
    nested: bool = False
    """Whether only the first k dimensions can be kept together, and not any k of them."""
    has_own_alpha: ClassVar[bool] = True
    """Whether the form's own rule sets alpha; else it is that of the file, see `adapters.write.layout`."""

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """(n, m) of the delta."""

    @property
    @abstractmethod
    def rank(self) -> int:
        """Number of dimensions."""

    @property
    @abstractmethod
    def kernel(self) -> Shape:
        """(height, width) of a convolution's kernel, also of 1x1.

        Empty for Linear, and if the file does not show it.
        """

    @property
    @abstractmethod
    def scale(self) -> float:
        """The factor of the product of the tensors, as in the file."""

    @property
    @abstractmethod
    def dtypes(self) -> frozenset[str]:
        """safetensors dtypes of its tensors."""

    @property
    def is_conv(self) -> bool:
        """Whether it is a convolution larger than 1x1."""
        return math.prod(self.kernel) > 1

    def with_kernel(self, kernel: Shape) -> Form:
        """Return the form with the kernel of its layer, which some kinds flatten."""
        return self

    def with_row_cuts(self, rows: tuple[int, ...]) -> Form:
        """Return the form with the rows at which the pieces of a fused layer begin, without the first."""
        return self

    @property
    def parameters_per_rank(self) -> int:
        """Numbers stored per rank."""
        return sum(self.size)

    @property
    def parameters_per_squared_rank(self) -> int:
        """Numbers stored per square of the rank."""
        return 0

    def stored_ranks(self, solved: Decomposition) -> NDArray[np.intp] | None:
        """Return the rank that is written for each rank, (rank + 1,), non-decreasing.

        None where every rank is written.
        """
        return None

    @abstractmethod
    def decompose(self, arrays: Arrays, base: Factor | None = None) -> Decomposition:
        """Decompose the delta. Raises LayerError for NaN, infinities and damaged scales."""

    @abstractmethod
    def slots(self, rank: int) -> tuple[TensorSlot, ...]:
        """Return the tensors that hold `rank` dimensions, 1 or more."""

    @abstractmethod
    def values(self, work: WriteSpec) -> dict[str, Single]:
        """Return the values of these tensors by role, float32; their shapes may be flattened."""

    @abstractmethod
    def full(self, values: dict[str, Single]) -> Single:
        """Return the delta (n, m), float32, that readers compute from `values` at scale 1."""

    def alpha(self, rank: int) -> float:
        """Return the alpha with which readers of this kind apply scale 1."""
        return float(rank)

    @abstractmethod
    def error(self, found: Any, work: WriteSpec) -> float:
        """Return how far `found`, the same kind of form read back from a file, is from what was to be written.

        Relative, in the Frobenius norm.
        """

    @abstractmethod
    def times(self, weight: float) -> Form:
        """Return the form with its delta multiplied by `weight`."""

    def converted(self) -> Form | None:
        """Return the same delta, exactly, as a LoRA or in full; None if it is unknown without the base weight."""
        return None

    @abstractmethod
    def base_alignment(self, solved: Decomposition, weight: Factor, arrays: Arrays, *, transposed: bool) -> Double:
        """Return ``|<D_j, W>| / ||D_j||_F`` of every dimension j, (rank,), float64.

        How strongly the base weight acts along it.

        The weight W is (n, m), or (m, n) if `transposed`.
        """


F = TypeVar("F")


@dataclass(frozen=True)
class Absent:
    """A factor without its values."""

    kind: str
    shape: tuple[int, int]

    @property
    def bits(self) -> Bits:
        raise ValueError("a cached analysis holds no factors; open the file again")


def without_data(value: F) -> F:
    """Return the form without its values, so that it needs neither memory nor its file."""
    if isinstance(value, (ReadMatrix, Stored, Joined, LazyMatrix, Transposed)):
        return Absent(value.kind, value.shape)  # type: ignore[return-value]
    if isinstance(value, (str, float, tuple)):  # most fields, of a thousand layers
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        before = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **{name: without_data(one) for name, one in before.items()})
    return value


@dataclass(frozen=True)
class Tensors:
    """The tensors of one layer in a file, by role."""

    file: SafeFile
    stem: str
    parts: Mapping[str, ParsedKey]
    outer_scale: Callable[[int | None], float]
    """Returns the scale of a layer of that rank, from any source; None for layers whose alpha readers ignore."""
    used: set[str] = dataclasses.field(default_factory=set)
    """Roles whose values were read."""

    def __contains__(self, role: str) -> bool:
        return role in self.parts

    def entry(self, role: str) -> TensorEntry:
        return self.file.header.entries[self.parts[role].key]

    def shape(self, role: str) -> Shape:
        return self.entry(role).shape

    def dtype(self, role: str) -> str:
        return self.entry(role).dtype

    def need(self, *roles: str) -> None:
        """Raise DamagedFileError if one of the roles is missing."""
        for role in roles:
            if role not in self.parts:
                there = ", ".join(sorted(self.parts))
                raise DamagedFileError(
                    f"{self.file.path}: layer {self.stem} has {there} but no {role}; the file is incomplete. "
                    f"Download or save it again."
                )

    def matrix(self, role: str, *, transposed: bool = False) -> Factor:
        """Return the tensor as a matrix (first, rest), or its transpose. Raises LayerError if it is none."""
        entry = self.entry(role)
        shape, dtype = entry.shape, entry.dtype
        self.used.add(role)
        if dtype not in STORAGE:
            raise self.fault(role, not_floating(dtype))
        if 0 in shape:
            raise self.fault(role, "a layer without dimensions, which hosts refuse")
        if not shape:
            raise self.fault(role, "a single number, but a matrix was expected; the file is damaged")
        read = partial(self.file.bits, self.parts[role].key)
        found = ReadMatrix(read, dtype, (shape[0], math.prod(shape[1:])))
        return Transposed(found) if transposed else found

    def fault(self, role: str, what: str) -> LayerError:
        shape = self.shape(role)
        return LayerError(f"{self.file.path}: layer {self.stem}: {self.parts[role].key} is {shape}: {what}.")

    def expect(self, role: str, condition: bool, what: str) -> None:
        """Raise LayerError if the condition for the shape of a tensor does not hold."""
        if not condition:
            raise self.fault(role, f"{what}; the file is damaged or of an unknown kind")


def not_floating(dtype: str) -> str:
    """Return the fault of factors whose dtype is not floating point."""
    return (
        f"values of dtype {dtype}, so the file is quantised; floating point was expected. Save it in float16 or "
        f"bfloat16 with the program that quantised it"
    )


def kernel_fits(kernel: Shape, columns: int) -> bool:
    """Return whether flattened inputs of that many columns can have this kernel."""
    return columns % math.prod(kernel) == 0


def relative_difference(found: Double, wanted: Double) -> float:
    """Return ``||found - wanted|| / ||wanted||``, or ``||found||`` if `wanted` is zero."""
    whole = float(np.linalg.norm(wanted))
    return float(np.linalg.norm(found - wanted)) / (whole if whole > 0 else 1.0)


def relative_distance(found: Pair, wanted: Pair) -> float:
    """Return ``||found - wanted||_F / ||wanted||_F`` of two deltas (n, m), from their factors, in float64."""
    square, whole = inner_product(found, found), inner_product(wanted, wanted)
    if whole == 0.0:
        return math.sqrt(max(square, 0.0))
    return math.sqrt(abs(square - 2 * inner_product(found, wanted) + whole) / whole)


def projected_error(square: float, shared: float, kept: float) -> float:
    """Return ``||found - P source|| / ||P source||`` for a `found` in the span of the orthogonal projection P.

    `square` is ``||found||^2``, `shared` is ``<found, source>`` and `kept` is ``||P source||^2``.
    """
    if kept == 0.0:
        return math.sqrt(max(square, 0.0))
    return math.sqrt(abs(square - 2 * shared + kept) / kept)


def kept_energy(work: WriteSpec) -> float:
    """Return the squared norm of what is to be written, from the strengths of the kept dimensions."""
    kept = work.solved.s[work.kept] * work.gain**2
    return float(kept @ kept)


def inner_product(one: Pair, other: Pair) -> float:
    """Return ``<one, other>_F`` of two deltas (n, m), from their factors, in float64."""
    left = doubles(one.up.bits, one.up.kind).T @ doubles(other.up.bits, other.up.kind)
    right = doubles(one.down.bits, one.down.kind) @ doubles(other.down.bits, other.down.kind).T
    return one.scale * other.scale * float(np.sum(left * right))
