"""The numbers of made-up checkpoints and LoRAs. A tensor depends only on the seed and its name."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from ..files.header import TensorSpec
from ..linalg.casts import Bits, Double, Single, round_to

_BLOCK = 1 << 18  # numbers generated at a time
_LARGEST = 0.04  # median of the largest singular value of trained deltas


def generator(seed: int, key: str) -> np.random.Generator:
    """Return the random numbers of one tensor."""
    return np.random.Generator(np.random.SFC64([seed, zlib.crc32(key.encode())]))


# Checkpoints ------------------------------------------------------------------------------------------------------


def checkpoint_blocks(spec: TensorSpec, kind: int, seed: int) -> Iterator[Bits]:
    """Yield the stored numbers of one tensor of a checkpoint, piece by piece."""
    if spec.dtype == "I64":
        yield np.arange(math.prod(spec.shape), dtype="<i8")
        return
    chance = generator(seed, spec.name)
    values = _weight_blocks(spec, kind, chance) if len(spec.shape) >= 2 else iter([_vector(spec, chance)])
    for block in values:
        yield round_to(block, spec.dtype)


def _vector(spec: TensorSpec, chance: np.random.Generator) -> Single:
    """Return a bias near 0, a norm's gain near 1, or OpenCLIP's logit scale."""
    if not spec.shape:
        return np.full((), math.log(100.0), np.float32)
    values = chance.standard_normal(spec.shape, dtype=np.float32) * np.float32(0.02)
    return np.asarray(values + np.float32(spec.name.endswith(".weight")), np.float32)


def _weight_blocks(spec: TensorSpec, kind: int, chance: np.random.Generator) -> Iterator[Single]:
    """Yield rows of a matrix: noise of Frobenius norm 0.6 sqrt(rows), and for `kind` 0 and 1 some strong directions."""
    rows, columns = spec.shape[0], math.prod(spec.shape[1:])
    strengths = _strong_directions(kind, chance)[: min(rows, columns)]
    along = chance.standard_normal((len(strengths), columns), dtype=np.float32) / np.float32(math.sqrt(columns))
    along *= strengths[:, None] / np.float32(math.sqrt(rows))
    gains = _row_gains(spec)
    step = max(1, _BLOCK // columns)
    for start in range(0, rows, step):
        count = min(step, rows - start)
        block = chance.standard_normal((count, columns), dtype=np.float32) * np.float32(0.6 / math.sqrt(columns))
        block += chance.standard_normal((count, len(strengths)), dtype=np.float32) @ along
        yield block * gains[start : start + count, None]


def _strong_directions(kind: int, chance: np.random.Generator) -> Single:
    index = np.arange(1, 25, dtype=np.float32)
    if kind == 0:
        return np.asarray(4.0 * (0.6 + 0.8 * chance.random()) * index**-0.6, np.float32)
    return np.asarray(2.2 * index**-0.08 if kind == 1 else index[:0], np.float32)


def _row_gains(spec: TensorSpec) -> Single:
    """Return different sizes for the rows of fused q, k and v, so that every norm shows if they are confused."""
    gains: Single = np.ones(spec.shape[0], np.float32)
    if spec.name.endswith("in_proj_weight"):
        gains = np.repeat(np.array([1.0, 0.8, 0.5], np.float32), spec.shape[0] // 3)
    return gains


# LoRAs -------------------------------------------------------------------------------------------------------------


def down_values(rank: int, columns: int, chance: np.random.Generator) -> Single:
    """Return (rank, columns): uniform as initialized (rows of length 1/sqrt(3)), plus a direction common to all."""
    bound = np.float32(1.0 / math.sqrt(columns))
    values = chance.random((rank, columns), dtype=np.float32)
    values *= 2 * bound
    values -= bound
    shared = chance.standard_normal((1, columns), dtype=np.float32) * (np.float32(0.15) * bound)
    values += chance.standard_normal((rank, 1), dtype=np.float32) * shared
    return values


def up_values(rows: int, rank: int, chance: np.random.Generator, pieces: Sequence[tuple[int, int]] = ()) -> Single:
    """Return (rows, rank): nearly orthonormal columns, the strengths, and a random rotation that hides both.

    `pieces` are ranges of rows with columns of their own, which makes the matrix block-diagonal.
    """
    if pieces:
        return _up_of_pieces(rows, rank, chance, pieces)
    strengths = trained_spectrum(rank, chance) * math.sqrt(3.0 / rows)
    rotation = np.linalg.qr(chance.standard_normal((rank, rank)))[0]
    mixing = (strengths[:, None] * rotation).astype(np.float32)
    return np.asarray(chance.standard_normal((rows, rank), dtype=np.float32) @ mixing)


def _up_of_pieces(rows: int, rank: int, chance: np.random.Generator, pieces: Sequence[tuple[int, int]]) -> Single:
    up, own = np.zeros((rows, rank), np.float32), rank // len(pieces)
    for i, (first, last) in enumerate(pieces):
        up[first:last, i * own : (i + 1) * own] = up_values(last - first, own, chance)
    return up


def trained_spectrum(rank: int, chance: np.random.Generator) -> Double:
    """Return singular values like those of trained deltas, (rank,), descending: i^-p exp(-i/tau), largest near 0.04."""
    index = np.arange(rank, dtype=np.float64)
    power = chance.uniform(0.35, 1.1)
    tau = rank * chance.uniform(0.4, 2.0)
    largest = _LARGEST * math.exp(0.9 * chance.standard_normal())
    return np.asarray(largest * (index + 1) ** -power * np.exp(-index / tau))
