"""Stored matrices on their way to a device: many in one copy, while the device works on those before.

Bits are copied into one of two buffers in memory that the device reads by itself (pinned), and converted to floating
point numbers on the device. A buffer is filled again when the device has read it. Nothing else waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Array, TorchArrays
from .casts import STORAGE, Bits, singles
from .factor import Factor

_ALIGNED = 256  # bytes: a matrix of any dtype may begin there


class Upload:
    """Two buffers, used in turn. For one thread."""

    def __init__(self, arrays: TorchArrays) -> None:
        self._arrays = arrays
        self._buffers: list[Any] = [None, None]
        self._read: list[Any] = [None, None]
        self._turn = 0

    def stacks(self, stacks: Sequence[Sequence[Factor]]) -> list[Array]:
        """Return each stack of matrices of one shape (rows, columns) and dtype as (count, rows, columns).

        They are on the device in the dtype in which they are stored; float8, which not every device has, in float32.
        All of them share memory, which is freed with the last one. Raises ValueError where shapes of a stack differ.
        """
        found = [[_bits_of(factor) for factor in stack] for stack in stacks]
        sizes = [sum(bits.nbytes for bits, _ in stack) for stack in found]
        ends = list(accumulate(-(-size // _ALIGNED) * _ALIGNED for size in sizes))
        places = [0, *ends[:-1]]
        buffer = self._free_buffer(ends[-1])
        host: NDArray[np.uint8] = buffer.numpy()
        for stack, place in zip(found, places, strict=True):
            _fill(host[place:], stack)
        copied = self._sent(buffer[: ends[-1]])
        return [
            self._typed(copied[place : place + size], stack)
            for stack, place, size in zip(found, places, sizes, strict=True)
        ]

    def _free_buffer(self, size: int) -> Any:
        """Return the buffer whose turn it is, with room for `size` bytes, when the device has read it."""
        torch, turn = self._arrays.torch, self._turn
        if self._read[turn] is not None:
            self._read[turn].synchronize()
        buffer = self._buffers[turn]
        if buffer is None or len(buffer) < size:
            pinned = self._arrays.target.type == "cuda"
            buffer = self._buffers[turn] = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
        return buffer

    def _sent(self, part: Any) -> Any:
        """Copy a buffer to the device, without waiting for it if it is pinned."""
        torch, target = self._arrays.torch, self._arrays.target
        copied = torch.empty(len(part), dtype=torch.uint8, device=target)
        is_cuda = target.type == "cuda"
        copied.copy_(part, non_blocking=is_cuda)
        if is_cuda:
            self._read[self._turn] = torch.cuda.Event()
            self._read[self._turn].record(torch.cuda.current_stream(target))
        self._turn = 1 - self._turn
        return copied

    def _typed(self, copied: Any, stack: Sequence[tuple[Bits, str]]) -> Array:
        torch = self._arrays.torch
        dtypes = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
        bits, kind = stack[0]
        return copied.view(dtypes[kind]).view(len(stack), *bits.shape)


def _bits_of(factor: Factor) -> tuple[Bits, str]:
    bits, kind = factor.bits, factor.kind
    if kind.startswith("F8"):
        return singles(bits, kind), "F32"
    if bits.dtype != STORAGE[kind]:
        raise ValueError(f"{kind} is carried by {STORAGE[kind].__name__}, not by {bits.dtype}")
    return bits, kind


def _fill(host: NDArray[np.uint8], stack: Sequence[tuple[Bits, str]]) -> None:
    """Copy the bits of a stack, one after the other."""
    first, kind = stack[0]
    for i, (bits, own) in enumerate(stack):
        if bits.shape != first.shape or own != kind:
            raise ValueError(f"a stack of {kind} {first.shape} cannot hold {own} {bits.shape}")
        place = host[i * bits.nbytes : (i + 1) * bits.nbytes]
        np.copyto(place.view(bits.dtype).reshape(bits.shape), bits)


def in_pieces(stack: Array, most_elements: int) -> list[slice]:
    """Return ranges of a stack (count, rows, columns) of at most so many numbers, and of one matrix at least."""
    count, rows, columns = stack.shape
    step = max(1, most_elements // max(rows * columns, 1))
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]
