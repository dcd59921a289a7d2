"""LoRA and LoCon: ``scale * up @ down``. Also Control-LoRA, with other names and scale 1."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...errors import DamagedFileError, LayerError
from ...files.header import TensorEntry
from ...linalg.arrays import Arrays
from ...linalg.blocks import blocks_of, decompose_blocks, in_block_order
from ...linalg.casts import STORAGE, Double, Single
from ...linalg.factor import Factor, Pair, Spectrum, decompose
from ...linalg.norms import subspace_norms
from ...linalg.truncate import truncated
from .form import Form, Shape, Tensors, TensorSlot, WriteSpec, inner_product, kept_energy, not_floating, projected_error

LARGEST_KEPT = 256
"""Rank up to which singular vectors are kept. Those of larger ones would fill memory, and are computed again."""


@dataclass(frozen=True)
class LowRank(Form):
    """One pair of factors. Any of its dimensions may be kept."""

    pair: Pair
    up_shape: Shape
    """As stored, (n, r) or (n, r, 1, 1)."""
    down_shape: Shape
    """As stored, (r, m) or (r, in, height, width)."""
    stored: tuple[str, str]
    """safetensors dtypes of up and down in the source; of a merge, the widest."""
    roles: tuple[str, str] = ("up", "down")
    cuts: tuple[int, ...] = ()
    """Rows at which the pieces of a fused layer begin, without the first."""

    kind = "LoRA"
    has_own_alpha = False

    @property
    def size(self) -> tuple[int, int]:
        return self.pair.size

    @property
    def rank(self) -> int:
        return self.pair.rank

    @property
    def kernel(self) -> Shape:
        return self.down_shape[2:]

    @property
    def scale(self) -> float:
        return self.pair.scale

    @property
    def dtypes(self) -> frozenset[str]:
        return frozenset(self.stored)

    def with_row_cuts(self, rows: tuple[int, ...]) -> LowRank:
        return self if rows == self.cuts else replace(self, cuts=rows)

    def decompose(self, arrays: Arrays, base: Factor | None = None) -> Spectrum:
        return decompose_together([self], arrays)[0]

    def slots(self, rank: int) -> tuple[TensorSlot, ...]:
        up = (self.up_shape[0], rank, *self.up_shape[2:])
        down = (rank, *self.down_shape[1:])
        return TensorSlot(self.roles[0], up, self.stored[0]), TensorSlot(self.roles[1], down, self.stored[1])

    def values(self, work: WriteSpec) -> dict[str, Single]:
        spectrum = self._whole(work.solved, work.arrays)
        up, down = truncated(self.pair, spectrum, in_block_order(spectrum, work.kept), work.arrays, work.gain)
        return dict(zip(self.roles, (up, down), strict=True))

    def error(self, found: LowRank, work: WriteSpec) -> float:
        shared = work.gain**2 * inner_product(found.pair, self.pair)
        return projected_error(inner_product(found.pair, found.pair), shared, kept_energy(work))

    def full(self, values: dict[str, Single]) -> Single:
        return np.asarray(values[self.roles[0]] @ values[self.roles[1]])

    def times(self, weight: float) -> LowRank:
        return replace(self, pair=replace(self.pair, scale=self.pair.scale * weight))

    def converted(self) -> LowRank:
        return self

    def base_alignment(self, solved: Any, weight: Factor, arrays: Arrays, *, transposed: bool) -> Double:
        return subspace_norms(self.pair, self._whole(solved, arrays), weight, arrays, transposed=transposed)

    def _whole(self, solved: Any, arrays: Arrays) -> Spectrum:
        spectrum: Spectrum = solved if solved.p.size else _spectra([self], arrays)[0]
        return spectrum


def decompose_together(forms: Sequence[LowRank], arrays: Arrays) -> list[Spectrum]:
    """Decompose forms of one common rank.

    See `linalg.factor.decompose`, and `linalg.blocks` for those trained in pieces.
    """
    return [without_vectors(one) if forms[0].rank > LARGEST_KEPT else one for one in _spectra(forms, arrays)]


def _spectra(forms: Sequence[LowRank], arrays: Arrays) -> list[Spectrum]:
    blocks = [blocks_of(form.pair.up, form.cuts) if form.cuts else () for form in forms]
    pairs = [form.pair for form, found in zip(forms, blocks, strict=True) if not found]
    whole = iter(decompose(pairs, arrays) if pairs else ())
    return [
        decompose_blocks(form.pair, found, arrays) if found else next(whole)
        for form, found in zip(forms, blocks, strict=True)
    ]


def without_vectors(spectrum: Spectrum) -> Spectrum:
    """Return the singular values only."""
    nothing = np.zeros((0, 0), np.float32)
    return Spectrum(spectrum.s, nothing, nothing, spectrum.owner)


def lora_from_pair(pair: Pair, kernel: Shape, dtype: str) -> LowRank:
    """Return a LoRA made from a pair (n, m), with the kernel unflattened."""
    n, m = pair.size
    ones = tuple(1 for _ in kernel)
    down = (pair.rank, m // math.prod(kernel), *kernel)
    return LowRank(pair, (n, pair.rank, *ones), down, (dtype, dtype))


def read_lora(tensors: Tensors) -> LowRank:
    """Read ``up`` and ``down``, or ``bare_up`` and ``bare_down``."""
    roles = ("bare_up", "bare_down") if "bare_up" in tensors or "bare_down" in tensors else ("up", "down")
    _check_complete(tensors, roles)
    up, down = tensors.entry(roles[0]), tensors.entry(roles[1])
    _check_shapes(tensors, up, down)
    rank = down.shape[0]
    pair = Pair(tensors.matrix(roles[0]), tensors.matrix(roles[1]), tensors.outer_scale(rank))
    return LowRank(pair, up.shape, down.shape, (up.dtype, down.dtype), roles)


def _check_complete(tensors: Tensors, roles: tuple[str, str]) -> None:
    for role, other in (roles, roles[::-1]):
        if role not in tensors:
            raise DamagedFileError(
                f"{tensors.file.path}: layer {tensors.stem} has {other} but no {role} "
                f"(only {', '.join(sorted(tensors.parts))}); the file is incomplete. Download or save it again."
            )


def _check_shapes(tensors: Tensors, up: TensorEntry, down: TensorEntry) -> None:
    integers = next((entry.dtype for entry in (up, down) if entry.dtype not in STORAGE), None)
    fault = not_floating(integers) if integers else _shape_fault(up.shape, down.shape)
    if fault:
        raise LayerError(f"{tensors.file.path}: layer {tensors.stem}: up is {up.shape}, down is {down.shape}: {fault}.")


def _shape_fault(up: Shape, down: Shape) -> str:
    """Return what is wrong with the shapes of a pair; empty where they fit."""
    if len(up) == len(down) == 3 and up[0] == down[0] > 1 and up[2] == down[1]:
        return (
            "a stack of factors, one pair for each expert. No host applies it; merge it with the program that made it"
        )
    if len(up) < 2 or len(down) < 2 or math.prod(up[2:]) != 1:
        return "expected (out, rank) and (rank, in), or the same for a convolution"
    if up[1] != down[0]:
        if up[0] == down[1] < min(up[1], down[0]):
            return f"{_TURNED}; (out, rank) and (rank, in) were expected. {_WAY_BACK}"
        return f"ranks {up[1]} and {down[0]} differ; the file is damaged or not a LoRA"
    return "a layer without dimensions, which hosts refuse" if 0 in up or 0 in down else ""


_TURNED = "the two factors are swapped or transposed"
_WAY_BACK = "Hosts refuse such a file or misread it; save it again with the program that made it"


def check_upright(layers: Mapping[str, Form], shapes: Mapping[str, Shape], *, ours: bool) -> list[str]:
    """Return notes about layers whose rank is above both of their sides. Raises LayerError if factors are swapped.

    A swapped or transposed pair of a square layer fits together: (r, out) and (in, r) look like a layer of (r, r) with
    the rank `out`. `shapes` are those of the family's layers, if they are known. If not, most layers of the file must
    look so, unless it is `ours`.
    """
    pairs = {stem: form for stem, form in layers.items() if isinstance(form, LowRank)}
    above = {stem: form for stem, form in pairs.items() if form.rank > max(form.size)}
    swapped = _swapped(above, shapes, len(pairs), ours=ours)
    if swapped:
        form = above[swapped[0]]
        raise LayerError(
            f"layer {swapped[0]}: up is {form.up_shape}, down is {form.down_shape}: a rank of {form.rank} in a layer "
            f"of {form.size[0]} times {form.size[1]}, in {len(swapped)} of {len(pairs)} layers: {_TURNED}. {_WAY_BACK}."
        )
    if not above:
        return []
    first, form = next(iter(above.items()))
    return [
        f"{len(above)} layers have a rank above both of their sides (first {first}: rank {form.rank}, "
        f"{form.size[0]} times {form.size[1]}); dimensions beyond the smaller side have no effect"
    ]


def _swapped(above: Mapping[str, LowRank], shapes: Mapping[str, Shape], count: int, *, ours: bool) -> list[str]:
    """Return the stems of the layers whose factors are swapped, out of those with a rank `above` both sides."""
    square = [stem for stem, form in above.items() if form.size[0] == form.size[1]]
    known = [stem for stem in square if _flat(shapes.get(stem, ())) == (above[stem].rank,) * 2]
    if known or ours:
        return known
    return square if 2 * len(square) > count else []


def _flat(shape: Shape) -> Shape:
    return (shape[0], math.prod(shape[1:])) if shape else ()
