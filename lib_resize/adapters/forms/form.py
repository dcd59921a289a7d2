"""What a layer's form is: how its tensors make a delta, how that is decomposed, and what is written of it.

The engine sees nothing of a form but its size, the strengths of its dimensions and what it stores at k of them; keys
and tensors are the form's own business. Every delta is a matrix (n, m), kernels flattened behind their inputs.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ...errors import DamagedFileError, LayerError
from ...files.reader import SafeFile
from ...linalg.arrays import Arrays
from ...linalg.casts import STORAGE, Bits, Double, Single, doubles
from ...linalg.factor import Factor, Joined, Pair, Stored
from ...linalg.lazy import LazyMatrix, Transposed
from ...linalg.truncate import KeptIndices
from ..keys.suffixes import ParsedKey

Shape = tuple[int, ...]


class Decomposition(Protocol):
    """A form, decomposed."""

    @property
    def s(self) -> Double:
        """Strengths, (rank,): the first k hold ``sum of s_j^2 over j < k`` of the delta's squared norm."""
        ...

    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True)
class TensorSlot:
    """One tensor that a form stores."""

    role: str
    shape: Shape
    dtype: str
    """safetensors dtype in the source, for those who keep it."""


@dataclass(frozen=True)
class WriteSpec:
    """What is to be written of a decomposed layer."""

    solved: Decomposition
    kept: KeptIndices
    arrays: Arrays
    gain: float = 1.0
    """The delta is multiplied by the square of this."""
    base: Factor | None = None
    """The base layer's weight, for forms that need it."""


class Form(ABC):
    """One layer's delta as its kind of adapter stores it."""

    kind: ClassVar[str]
    """Name of its row in the registry."""
    needs_base: ClassVar[bool] = False
    """Whether the delta depends on the base layer's weight."""
    nested: bool = False
    """Whether only the first k dimensions can stay together, and not any k of them."""
    has_own_alpha: ClassVar[bool] = True
    """Whether alpha is the form's own rule; else that of the file, see `adapters.write`."""

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """(n, m) of the delta."""

    @property
    @abstractmethod
    def rank(self) -> int:
        """How many dimensions it has."""

    @property
    @abstractmethod
    def kernel(self) -> Shape:
        """(height, width) of a convolution's kernel, also of 1x1; empty for Linear, and where the file hides it."""

    @property
    @abstractmethod
    def scale(self) -> float:
        """What the file multiplies the product of its factors by."""

    @property
    @abstractmethod
    def dtypes(self) -> frozenset[str]:
        """safetensors dtypes of its tensors."""

    @property
    def is_conv(self) -> bool:
        """A convolution larger than 1x1."""
        return math.prod(self.kernel) > 1

    def with_kernel(self, kernel: Shape) -> Form:
        """The same form, told what kernel its layer has: some kinds write it flattened."""
        return self

    def with_row_cuts(self, rows: tuple[int, ...]) -> Form:
        """The same form, told at which rows the pieces of a fused layer begin, but for the first."""
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
        """Where not every rank is written: the rank that is written in its place, (rank + 1,), not falling."""
        return None

    @abstractmethod
    def decompose(self, arrays: Arrays, base: Factor | None = None) -> Decomposition:
        """Raises LayerError for NaN, infinities and damaged scales."""

    @abstractmethod
    def slots(self, rank: int) -> tuple[TensorSlot, ...]:
        """The tensors that hold `rank` dimensions, 1 or more."""

    @abstractmethod
    def values(self, work: WriteSpec) -> dict[str, Single]:
        """Their numbers by role, flattened as they like."""

    @abstractmethod
    def full(self, values: dict[str, Single]) -> Single:
        """The delta (n, m) that readers make of what `values` gives, at scale 1."""

    def alpha(self, rank: int) -> float:
        """The alpha with which readers of this kind apply scale 1."""
        return float(rank)

    @abstractmethod
    def error(self, found: Any, work: WriteSpec) -> float:
        """How far `found`, the same kind of form read back from a file, is from what was to be written.

        Relative, Frobenius.
        """

    @abstractmethod
    def times(self, weight: float) -> Form:
        """The same form with its delta multiplied."""

    def converted(self) -> Form | None:
        """The same delta, exactly, as a LoRA or as a matrix in full; None where there is none without the base."""
        return None

    @abstractmethod
    def base_alignment(self, solved: Decomposition, weight: Factor, arrays: Arrays, *, transposed: bool) -> Double:
        """``|<D_j, W>| / |D_j|`` of every dimension j, (rank,): how much the base weight acts along it."""


F = TypeVar("F")


@dataclass(frozen=True)
class Absent:
    """A factor whose numbers were let go of."""

    kind: str
    shape: tuple[int, int]

    @property
    def bits(self) -> Bits:
        raise ValueError("a kept analysis holds no factors; open the file again")


@dataclass(frozen=True)
class InFile:
    """A tensor as a matrix, read from its file each time its bits are asked for."""

    file: SafeFile
    key: str
    kind: str
    shape: tuple[int, int]

    @property
    def bits(self) -> Bits:
        return self.file.bits(self.key).reshape(self.shape)


def without_data(value: F) -> F:
    """The same form without its numbers, so that no part of its file is held."""
    if isinstance(value, (InFile, Stored, Joined, LazyMatrix, Transposed)):
        return Absent(value.kind, value.shape)  # type: ignore[return-value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **{name: without_data(one) for name, one in fields.items()})
    return value


@dataclass(frozen=True)
class Tensors:
    """One layer's tensors in a file, by role."""

    file: SafeFile
    stem: str
    parts: Mapping[str, ParsedKey]
    outer_scale: Callable[[int | None], float]
    """The scale of a layer of that rank, whatever the file tells it by; None for layers whose alpha readers ignore."""
    used: set[str] = dataclasses.field(default_factory=set)
    """Roles whose numbers were taken."""

    def __contains__(self, role: str) -> bool:
        return role in self.parts

    def shape(self, role: str) -> Shape:
        return self.file.header.entries[self.parts[role].key].shape

    def dtype(self, role: str) -> str:
        return self.file.header.entries[self.parts[role].key].dtype

    def need(self, *roles: str) -> None:
        """Raises DamagedFileError where one is missing."""
        for role in roles:
            if role not in self.parts:
                there = ", ".join(sorted(self.parts))
                raise DamagedFileError(
                    f"{self.file.path}: layer {self.stem} has {there} but no {role}; the file is incomplete. "
                    f"Download or save it again."
                )

    def matrix(self, role: str, *, transposed: bool = False) -> Factor:
        """The tensor as stored, (first, rest), or its transpose."""
        shape, dtype = self.shape(role), self.dtype(role)
        self.used.add(role)
        if dtype not in STORAGE:
            raise self.fault(role, not_floating(dtype))
        if 0 in shape:
            raise self.fault(role, "a layer without dimensions; hosts refuse such a file, and so do we")
        if not shape:
            raise self.fault(role, "a single number, where a matrix was expected; the file is damaged")
        found = InFile(self.file, self.parts[role].key, dtype, (shape[0], math.prod(shape[1:])))
        return Transposed(found) if transposed else found

    def fault(self, role: str, what: str) -> LayerError:
        shape = self.shape(role)
        return LayerError(f"{self.file.path}: layer {self.stem}: {self.parts[role].key} is {shape}: {what}.")

    def expect(self, role: str, condition: bool, what: str) -> None:
        """Raises LayerError where a tensor has not the shape that it needs."""
        if not condition:
            raise self.fault(role, f"{what}; the file is damaged, or of a kind that we do not know")


def not_floating(dtype: str) -> str:
    """What is wrong with factors of a dtype that is not floating point."""
    return (
        f"numbers of dtype {dtype}, so the file is quantised; floating point was expected. Save it in float16 or "
        f"bfloat16 with the program that quantised it"
    )


def kernel_fits(kernel: Shape, columns: int) -> bool:
    """Whether flattened inputs of that many columns can have this kernel."""
    return columns % math.prod(kernel) == 0


def relative_difference(found: Double, wanted: Double) -> float:
    """``||found - wanted|| / ||wanted||``, or ``||found||`` where nothing is wanted."""
    whole = float(np.linalg.norm(wanted))
    return float(np.linalg.norm(found - wanted)) / (whole if whole > 0 else 1.0)


def relative_distance(found: Pair, wanted: Pair) -> float:
    """``||found - wanted||_F / ||wanted||_F`` of two deltas, in factor space, float64."""
    square, whole = inner_product(found, found), inner_product(wanted, wanted)
    if whole == 0.0:
        return math.sqrt(max(square, 0.0))
    return math.sqrt(abs(square - 2 * inner_product(found, wanted) + whole) / whole)


def projected_error(square: float, shared: float, kept: float) -> float:
    """``||found - P source|| / ||P source||`` for a found that lies in the span of the orthogonal projection P.

    From ``||found||^2``, ``<found, source>`` and ``||P source||^2``.
    """
    if kept == 0.0:
        return math.sqrt(max(square, 0.0))
    return math.sqrt(abs(square - 2 * shared + kept) / kept)


def kept_energy(work: WriteSpec) -> float:
    """Squared norm of what is to be written, by the strengths of what is kept."""
    kept = work.solved.s[work.kept] * work.gain**2
    return float(kept @ kept)


def inner_product(one: Pair, other: Pair) -> float:
    """``<one, other>_F`` of two deltas, in factor space, float64."""
    left = doubles(one.up.bits, one.up.kind).T @ doubles(other.up.bits, other.up.kind)
    right = doubles(one.down.bits, one.down.kind) @ doubles(other.down.bits, other.down.kind).T
    return one.scale * other.scale * float(np.sum(left * right))
