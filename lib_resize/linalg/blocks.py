"""Fused layers that were trained in pieces: each column of up reaches the rows of one piece only.

Such a delta is a stack of independent ones, ``[B_1 A_1; B_2 A_2; …]``, stored as one pair of rank r_1 + r_2 + …. It is
decomposed piece by piece. Each dimension then belongs to one piece, so the result is block-diagonal again, and a
program that splits it finds the pieces unchanged. Squared norms still add up, because dimensions of different pieces
share no row. They may share columns, so the spectrum is that of the pieces and not that of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Arrays
from .casts import Bits
from .factor import Factor, Pair, Spectrum, Stored, decompose
from .truncate import KeptIndices

_MAGNITUDE = {2: 0x7FFF, 1: 0x7F}
"""Bytes of a number that is stored as bits -> all bits but the sign."""


@dataclass(frozen=True)
class Block:
    """One piece: the half-open range of its rows, and the columns of up that reach them, ascending."""

    rows: tuple[int, int]
    columns: tuple[int, ...]


def blocks_of(up: Factor, cuts: Sequence[int]) -> tuple[Block, ...]:
    """Return the pieces of an up (n, r) whose rows are cut at `cuts` (ascending, between 0 and n).

    Empty if the matrix is not block-diagonal. Only stored zeros, of either sign, count as zeros.
    """
    bits = up.bits
    edges = [0, *cuts, bits.shape[0]]
    ranges = list(pairwise(edges))
    used = np.stack([_is_used(bits[first:last], up.kind) for first, last in ranges])
    if used.sum(axis=0).max(initial=0) > 1:
        return ()
    # A column of zeros belongs to nobody; it stays with the first piece.
    owner = np.argmax(used, axis=0)
    found = [Block(rows, tuple(np.flatnonzero(owner == i).tolist())) for i, rows in enumerate(ranges)]
    filled = tuple(block for block in found if block.columns)
    return filled if len(filled) > 1 else ()


def _is_used(bits: Bits, kind: str) -> NDArray[np.bool_]:
    """Return which columns hold anything but zeros, (columns,)."""
    if kind in ("F32", "F64"):
        return np.asarray(np.any(bits != 0, axis=0))
    return np.asarray(np.any(bits & _MAGNITUDE[bits.itemsize] != 0, axis=0))


def decompose_blocks(pair: Pair, blocks: Sequence[Block], arrays: Arrays) -> Spectrum:
    """Decompose each piece, and return all dimensions as one spectrum, strongest first.

    P and Q are in the factor space of the whole pair. Raises LayerError where a factor holds NaN or an infinity.
    """
    up, down = pair.up.bits, pair.down.bits
    parts = [
        Pair(
            Stored(np.ascontiguousarray(up[slice(*block.rows)][:, block.columns]), pair.up.kind),
            Stored(np.ascontiguousarray(down[list(block.columns)]), pair.down.kind),
            pair.scale,
        )
        for block in blocks
    ]
    return _joined([decompose([part], arrays)[0] for part in parts], blocks, pair.rank)


def _joined(spectra: Sequence[Spectrum], blocks: Sequence[Block], rank: int) -> Spectrum:
    s = np.concatenate([spectrum.s for spectrum in spectra])
    owner = np.repeat(np.arange(len(blocks)), [len(block.columns) for block in blocks])
    p, q = np.zeros((rank, rank), np.float32), np.zeros((rank, rank), np.float32)
    first = 0
    for spectrum, block in zip(spectra, blocks, strict=True):
        own, columns = np.arange(first, first + len(block.columns)), np.array(block.columns)
        p[np.ix_(columns, own)] = spectrum.p
        q[np.ix_(own, columns)] = spectrum.q
        first += len(own)
    order = np.argsort(-s, kind="stable")
    return Spectrum(s[order], p[:, order], q[order], owner[order])


def in_block_order(spectrum: Spectrum, kept: KeptIndices) -> NDArray[np.integer[Any]]:
    """Return the kept dimensions in the order in which they are stored: by piece, and the strongest first in each."""
    if spectrum.owner is None:
        return kept
    return np.asarray(kept)[np.argsort(spectrum.owner[kept], kind="stable")]


def pieces_in_order(solved: Any, kept: KeptIndices) -> list[slice]:
    """Return the ranges of stored dimensions that belong to one piece each: all of them where there are no pieces."""
    owner = getattr(solved, "owner", None)
    if owner is None:
        return [slice(0, len(kept))]
    stored = np.sort(owner[kept], kind="stable")
    edges = [0, *(np.flatnonzero(np.diff(stored)) + 1).tolist(), len(stored)]
    return [slice(first, last) for first, last in pairwise(edges)]
