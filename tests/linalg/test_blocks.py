"""Fused layers that were trained in pieces: recognised exactly, decomposed by piece, written back in pieces."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_resize.linalg.arrays import NumpyArrays
from lib_resize.linalg.blocks import Block, blocks_of, decompose_blocks, in_block_order
from lib_resize.linalg.casts import doubles, round_to
from lib_resize.linalg.factor import Pair, Stored, decompose
from lib_resize.linalg.truncate import truncated

ARRAYS = NumpyArrays()
SIZES, RANKS, COLUMNS = (12, 8, 20), (3, 2, 4), 10


def fused(kind: str = "F16", seed: int = 0, order: list[int] | None = None) -> tuple[Pair, list[np.ndarray]]:
    """A pair of three pieces, its dimensions in this order, and the pieces' deltas."""
    rng = np.random.default_rng(seed)
    up = np.zeros((sum(SIZES), sum(RANKS)))
    row = column = 0
    for rows, rank in zip(SIZES, RANKS, strict=True):
        up[row : row + rows, column : column + rank] = rng.standard_normal((rows, rank))
        row, column = row + rows, column + rank
    down = rng.standard_normal((sum(RANKS), COLUMNS))
    chosen = order if order is not None else list(range(sum(RANKS)))
    ups, downs = (Stored(round_to(x.astype(np.float32), kind), kind) for x in (up[:, chosen], down[chosen]))
    pair = Pair(ups, downs, scale=0.5)
    return pair, np.split(delta(pair), np.cumsum(SIZES)[:-1])


def delta(pair: Pair) -> np.ndarray:
    return pair.scale * doubles(pair.up.bits, pair.up.kind) @ doubles(pair.down.bits, pair.down.kind)


CUTS = tuple(np.cumsum(SIZES)[:-1].tolist())


@pytest.mark.parametrize("kind", ["F16", "BF16", "F32", "F8_E4M3"])
def test_pieces_are_found_in_every_dtype(kind: str) -> None:
    pair, _ = fused(kind)
    assert blocks_of(pair.up, CUTS) == (
        Block((0, 12), (0, 1, 2)),
        Block((12, 20), (3, 4)),
        Block((20, 40), (5, 6, 7, 8)),
    )


@given(st.permutations(range(sum(RANKS))))
def test_pieces_are_found_in_any_order_of_dimensions(order: list[int]) -> None:
    pair, _ = fused(order=order)
    owners = np.repeat(range(3), RANKS)[order]
    assert [block.columns for block in blocks_of(pair.up, CUTS)] == [
        tuple(np.flatnonzero(owners == i).tolist()) for i in range(3)
    ]


def test_a_negative_zero_is_a_zero() -> None:
    pair, _ = fused()
    pair.up.bits[30, 0] = 0x8000
    assert len(blocks_of(pair.up, CUTS)) == 3


@pytest.mark.parametrize("kind", ["F16", "BF16", "F32", "F8_E4M3"])
def test_the_smallest_number_outside_of_its_piece_makes_one_layer_of_it(kind: str) -> None:
    pair, _ = fused(kind)
    pair.up.bits[30, 0] = 1 if kind != "F32" else np.float32(1e-38)
    assert blocks_of(pair.up, CUTS) == ()


def test_a_dense_up_and_one_whose_rows_are_all_of_one_piece_have_no_pieces() -> None:
    rng = np.random.default_rng(0)
    dense = Stored(rng.standard_normal((40, 6)).astype(np.float32), "F32")
    assert blocks_of(dense, CUTS) == ()
    dense.bits[12:] = 0
    assert blocks_of(dense, CUTS) == ()
    dense.bits[:] = 0
    assert blocks_of(dense, CUTS) == ()


@pytest.mark.parametrize("order", [None, [8, 0, 3, 5, 1, 7, 2, 4, 6]])
def test_the_spectrum_is_that_of_all_pieces(order: list[int] | None) -> None:
    pair, deltas = fused(order=order)
    spectrum = decompose_blocks(pair, blocks_of(pair.up, CUTS), ARRAYS)
    each = [np.linalg.svd(d, compute_uv=False)[:r] for d, r in zip(deltas, RANKS, strict=True)]
    np.testing.assert_allclose(spectrum.s, np.sort(np.concatenate(each))[::-1], rtol=1e-6)
    for i, own in enumerate(each):
        np.testing.assert_allclose(spectrum.s[spectrum.owner == i], own, rtol=1e-6)
    assert spectrum.s @ spectrum.s == pytest.approx(np.sum(delta(pair) ** 2), rel=1e-6)


@given(st.sets(st.integers(0, sum(RANKS) - 1), min_size=1))
def test_what_is_kept_is_the_best_of_each_piece_and_leaves_the_others_zero(kept: set[int]) -> None:
    pair, deltas = fused()
    spectrum = decompose_blocks(pair, blocks_of(pair.up, CUTS), ARRAYS)
    chosen = in_block_order(spectrum, np.array(sorted(kept)))
    up, down = truncated(pair, spectrum, chosen, ARRAYS)
    assert spectrum.owner is not None
    owners = spectrum.owner[chosen]
    assert list(owners) == sorted(owners)
    for i, (first, last) in enumerate(zip((0, *CUTS), (*CUTS, 40), strict=True)):
        assert not np.any(up[:first, owners == i])
        assert not np.any(up[last:, owners == i])
        u, s, vt = np.linalg.svd(deltas[i], full_matrices=False)
        places = [int(np.sum(spectrum.owner[:k] == i)) for k in sorted(kept) if spectrum.owner[k] == i]
        best = (u[:, places] * s[places]) @ vt[places]
        np.testing.assert_allclose(up[first:last] @ down, best, atol=1e-5)


def test_without_pieces_nothing_is_put_in_another_order() -> None:
    pair, _ = fused()
    kept = np.array([0, 2, 5])
    assert in_block_order(decompose([pair], ARRAYS)[0], kept) is kept
