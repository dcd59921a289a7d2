"""Large matrices a few rows at a time, so that no second copy is in memory."""

from __future__ import annotations

from collections.abc import Iterator

from .arrays import Array, Arrays
from .assemble import Assembled
from .factor import Factor

_SMALL = 1 << 24  # numbers up to which a thread keeps a buffer for whole matrices


def rows_in_cache(columns: int, arrays: Arrays) -> int:
    """Return how many rows of this many columns fit into the cache of a CPU, or a block of a device."""
    return max(1, 2 * arrays.block_elements // columns)


def stripes(weight: Factor, arrays: Arrays) -> Iterator[tuple[int, Array]]:
    """Yield (first row, rows) of a weight (n, m) in float32. Each is valid until the next one is requested."""
    bits = None if isinstance(weight, Assembled) else weight.bits
    rows, columns = weight.shape
    step = rows_in_cache(columns, arrays)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        part = weight.rows(start, stop) if isinstance(weight, Assembled) else bits[start:stop]  # type: ignore[index]
        yield start, arrays.load_float32(part, weight.kind)


def load_whole(weight: Factor, arrays: Arrays) -> Array:
    """Return all of a weight in float32, (n, m). Valid until the next call in this thread."""
    n, m = weight.shape
    if n * m <= max(_SMALL, arrays.block_elements) and not isinstance(weight, Assembled):
        return arrays.load_float32(weight.bits, weight.kind)
    w = arrays.empty(n, m)
    for start, stripe in stripes(weight, arrays):
        w[start : start + len(stripe)] = stripe
    return w
