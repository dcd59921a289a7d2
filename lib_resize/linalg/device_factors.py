"""The new factors of many layers on a device of torch: multiplied and rounded there, and downloaded together.

A group of layers is uploaded as stored, in one copy, with the columns of P and the rows of Q that are kept. Products
are in float32, as on the CPU, and are rounded once to the dtype of the file, to nearest, ties to even. With the numbers
comes the largest magnitude of each matrix, so that the caller sees what does not fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Array, TorchArrays
from .casts import LARGEST, STORAGE, Bits
from .device_decompose import stored_bytes
from .device_upload import Upload
from .factor import Pair, Spectrum, Stored
from .truncate import KeptIndices

ROUNDED = ("F32", "F16", "BF16")
"""The dtypes to which a device rounds."""
_SHARE = 8  # a group has at most this share of the device's bytes as stored; twice as much as float32


@dataclass(frozen=True)
class FactorJob:
    """What `truncate.truncated` gets, at least one dimension, and the dtypes to which its result is rounded."""

    pair: Pair
    spectrum: Spectrum
    kept: KeptIndices
    gain: float
    dtypes: tuple[str, str]
    """Of up and of down; each is one of `ROUNDED`."""


Rounded = tuple[Bits, Bits] | None
"""The storage arrays of up (n, k) and down (k, m); None where a number is too large for its dtype, or is NaN."""


def rounded_factors(jobs: Sequence[FactorJob], arrays: TorchArrays) -> Iterator[Rounded]:
    """Compute and round the factors of each job, and yield them in the order of the list.

    The device works on a group while the one before is used. Torch's errors are not caught.
    """
    upload = Upload(arrays)
    before: tuple[list[FactorJob], Any] | None = None
    for group in _groups(jobs, arrays.bytes // _SHARE):
        with arrays.torch.inference_mode(), arrays.full_float32():
            launched = group, _launched(group, arrays, upload)
        if before is not None:
            yield from _unpacked(*before)
        before = launched
    if before is not None:
        yield from _unpacked(*before)


def _groups(jobs: Sequence[FactorJob], most: int) -> Iterator[list[FactorJob]]:
    group: list[FactorJob] = []
    filled = 0
    for job in jobs:
        size = group_bytes(job)
        if group and filled + size > most:
            yield group
            group, filled = [], 0
        group.append(job)
        filled += size
    if group:
        yield group


def group_bytes(job: FactorJob) -> int:
    """Return the bytes of a job that are uploaded."""
    return stored_bytes(job.pair.up) + stored_bytes(job.pair.down) + 8 * job.pair.rank * len(job.kept)


def _launched(group: Sequence[FactorJob], arrays: TorchArrays, upload: Upload) -> Array:
    """Begin a group: all its numbers as bytes, after the largest magnitudes of up and down, (2, jobs), float32."""
    alike: dict[tuple[Any, ...], list[int]] = {}
    for i, job in enumerate(group):
        up, down = job.pair.up, job.pair.down
        alike.setdefault((up.shape, up.kind, down.shape, down.kind, len(job.kept), job.dtypes), []).append(i)
    batches = list(alike.values())
    stacks = upload.stacks([stack for own in batches for stack in _stacks([group[i] for i in own])])
    parts: list[Array] = [None] * (2 * len(group))
    largest: list[Array] = [None] * (2 * len(group))
    for number, own in enumerate(batches):
        up, down, p, q = (stack.float() for stack in stacks[4 * number : 4 * number + 4])
        for side, made in enumerate((up @ p, q @ down)):
            magnitudes, rounded = made.abs().amax((1, 2)), _rounded(made, group[own[0]].dtypes[side], arrays)
            for place, i in enumerate(own):
                largest[2 * i + side], parts[2 * i + side] = magnitudes[place], rounded[place]
    torch = arrays.torch
    return torch.cat([torch.stack(largest).view(torch.uint8), *(part for part in parts)])


def _stacks(jobs: Sequence[FactorJob]) -> tuple[list[Any], ...]:
    """Return what is multiplied: ups, downs, and the parts of P and Q that are kept, times the gain."""
    p = [Stored(job.spectrum.p[:, job.kept] * np.float32(job.gain), "F32") for job in jobs]
    q = [Stored(job.spectrum.q[job.kept] * np.float32(job.gain), "F32") for job in jobs]
    return [job.pair.up for job in jobs], [job.pair.down for job in jobs], p, q


def _rounded(made: Array, dtype: str, arrays: TorchArrays) -> Array:
    """Round matrices (count, rows, columns), and return the bytes of each, (count, bytes)."""
    torch = arrays.torch
    kinds = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    return made.to(kinds[dtype]).contiguous().view(torch.uint8).reshape(len(made), -1)


def _unpacked(group: Sequence[FactorJob], packed: Array) -> Iterator[Rounded]:
    data: NDArray[np.uint8] = packed.cpu().numpy()
    largest = data[: 8 * len(group)].view(np.float32).reshape(-1, 2)
    start = largest.nbytes
    for job, (of_up, of_down) in zip(group, largest, strict=True):
        (n, m), k = job.pair.size, len(job.kept)
        found = []
        for shape, dtype in zip(((n, k), (k, m)), job.dtypes, strict=True):
            storage = np.dtype(STORAGE[dtype])
            stop = start + shape[0] * shape[1] * storage.itemsize
            found.append(data[start:stop].copy().view(storage).reshape(shape))
            start = stop
        fits = of_up <= LARGEST[job.dtypes[0]] and of_down <= LARGEST[job.dtypes[1]]
        yield (found[0], found[1]) if fits else None
