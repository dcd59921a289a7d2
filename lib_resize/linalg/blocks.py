"""Fused layers that were trained in pieces: an up whose columns each reach the rows of one piece alone.

Such a delta is a stack of independent ones, ``[B_1 A_1; B_2 A_2; …]``, stored as one pair of rank r_1 + r_2 + …. It is
decomposed piece by piece: each dimension then belongs to one piece, so that what is kept is block-diagonal again, and
a program that takes the pieces apart finds them as they were. Squares still add up, because dimensions of different
pieces have no row in common; they may share columns, so the spectrum is that of the pieces, not that of the whole.
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
"""Bytes of a number that is stored as bits -> all of them but the sign."""


@dataclass(frozen=True)
class Block:
    """One piece: the half-open range of its rows, and the columns of up that reach them, ascending."""

    rows: tuple[int, int]
    columns: tuple[int, ...]


def blocks_of(up: Factor, cuts: Sequence[int]) -> tuple[Block, ...]:
    """The pieces of an up (n, r) whose rows are cut at `cuts` (ascending, within 0 and n); empty where it is not
    block-diagonal. Stored zeros decide, of either sign: nothing is taken for a zero that is none.
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
    """Which columns hold anything but zeros."""
    if kind in ("F32", "F64"):
        return np.asarray(np.any(bits != 0, axis=0))
    return np.asarray(np.any(bits & _MAGNITUDE[bits.itemsize] != 0, axis=0))


def decompose_blocks(pair: Pair, blocks: Sequence[Block], arrays: Arrays) -> Spectrum:
    """The spectra of all pieces as one, strongest dimensions first, each in the factor space of the whole pair."""
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
    """The dimensions that stay in the order in which they are stored: piece after piece, each strongest first."""
    if spectrum.owner is None:
        return kept
    return np.asarray(kept)[np.argsort(spectrum.owner[kept], kind="stable")]
