"""The array library that `lib_resize.linalg` is written against: numpy on the CPU, torch on a device.

What both libraries write alike (``@``, ``.T``, slices, arithmetic) is used directly. `Arrays` has the rest: loading
stored bits, and copying results back. The small (r, r) problems are always solved by numpy on the CPU, in float64.
"""

from __future__ import annotations

import contextlib
import sys
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import DeviceError
from .casts import SHIFTED_UNIT, Bits, scratch, shifting_is_exact, singles, widen, widen_shifted

Array = Any
"""A numpy array or a torch tensor, floating."""


class Arrays(Protocol):
    """The operations that numpy and torch write differently."""

    device: str
    """Where arrays are: "cpu", or torch's name of a device."""
    block_elements: int
    """How many numbers to load at once: few enough for the cache of a CPU, or for the memory of a device."""

    def load_float64(self, bits: Bits, kind: str) -> Array:
        """Return the stored numbers as float64, in the same shape. Valid until the next call in this thread."""
        ...

    def load_scaled(self, bits: Bits, kind: str) -> tuple[Array, float]:
        """Return float64 numbers and the power of two by which all of them must be multiplied; else as `load_float64`.

        With another factor than 1, infinities and NaN come as finite numbers, which are 2^16 or more after it.
        """
        ...

    def load_float32(self, bits: Bits, kind: str) -> Array:
        """Return the stored numbers as float32, in the same shape. Valid until the next call in this thread."""
        ...

    def to_device(self, values: NDArray[np.float32]) -> Array:
        """Copy a numpy float32 array to the device."""
        ...

    def empty(self, *shape: int) -> Array:
        """Return an uninitialised float32 array on the device."""
        ...

    def to_numpy(self, values: Array) -> NDArray[Any]:
        """Return the array as a numpy array of the same dtype and shape."""
        ...


class NumpyArrays:
    """The CPU. It uses numpy alone, so torch is not imported."""

    device = "cpu"
    block_elements = 81920  # of float64: 640 KiB of a 1 MiB cache

    def load_float64(self, bits: Bits, kind: str) -> Array:
        return widen(bits, kind, scratch("wide", bits.size, np.float64).reshape(bits.shape))

    def load_scaled(self, bits: Bits, kind: str) -> tuple[Array, float]:
        if kind != "F16" or not shifting_is_exact():
            return self.load_float64(bits, kind), 1.0
        return widen_shifted(bits, scratch("wide", bits.size, np.float64).reshape(bits.shape)), SHIFTED_UNIT

    def load_float32(self, bits: Bits, kind: str) -> Array:
        return widen(bits, kind, scratch("single", bits.size, np.float32).reshape(bits.shape))

    def to_device(self, values: NDArray[np.float32]) -> Array:
        return values

    def empty(self, *shape: int) -> Array:
        return np.empty(shape, np.float32)

    def to_numpy(self, values: Array) -> NDArray[Any]:
        return np.asarray(values)


DEVICE_BYTES = 256 << 20
"""How much memory of a device work uses, besides what others keep there, unless `limit_memory` says less."""
_BYTES_PER_ELEMENT = 32  # a piece as stored, as float32, as float64 and a product of it, all at once
_BLOCK = DEVICE_BYTES // _BYTES_PER_ELEMENT


class TorchArrays:
    """A device of torch. If it has no float64 (MPS), sums that need float64 are computed on the CPU.

    Single layers are computed through the methods of `Arrays`, with a wait for the device after each. The modules
    `device_*` compute groups of layers with one wait each.
    """

    def __init__(self, device: str) -> None:
        self._torch = _import_torch(device)
        try:
            self._device = self._torch.device(device)
            self._torch.zeros(1, device=self._device).sum().item()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise DeviceError(
                f"device {device!r} cannot be used: {str(error).splitlines()[0]}. "
                f"Use `-d cpu`, or install a torch that supports this device."
            ) from error
        self.device = str(self._device)
        self.block_elements = _BLOCK
        self.bytes = DEVICE_BYTES
        """The most memory of the device that a group of layers uses."""
        self.has_float64 = self._device.type != "mps"
        self._wide_device = self._device if self.has_float64 else "cpu"

    @property
    def torch(self) -> Any:
        """The module torch."""
        return self._torch

    @property
    def target(self) -> Any:
        """The torch.device."""
        return self._device

    @property
    def name(self) -> str:
        """The name of the device's hardware where torch knows it, else that of the device."""
        is_cuda = self._device.type == "cuda"
        return str(self._torch.cuda.get_device_name(self._device)) if is_cuda else self.device

    @property
    def library(self) -> str:
        """The version of torch: with it, the speed of a device changes."""
        return str(self._torch.__version__)

    def wait(self) -> None:
        """Wait until the device has done all work so far."""
        self._torch.zeros(1, device=self._device).item()  # devices work in the order of the calls

    def full_float32(self) -> AbstractContextManager[None]:
        """Return a context in which products of float32 matrices are not rounded to TF32, as WebUIs allow it."""
        from .float32_precision import full_float32  # for devices alone

        return full_float32(self._torch)

    def limit_memory(self, most_bytes: int) -> None:
        """Use at most this many bytes of the device: smaller blocks, and on CUDA a limit that torch enforces.

        Work that needs more ends with torch's out-of-memory error, see `is_out_of_memory`.
        """
        self.bytes = min(DEVICE_BYTES, most_bytes)
        self.block_elements = max(1, min(_BLOCK, most_bytes // _BYTES_PER_ELEMENT))
        if self._device.type == "cuda":
            total = self._torch.cuda.get_device_properties(self._device).total_memory
            self._torch.cuda.set_per_process_memory_fraction(min(1.0, most_bytes / total), self._device)

    def load_float64(self, bits: Bits, kind: str) -> Array:
        return self._tensor(bits, kind, self._wide_device).double()

    def load_scaled(self, bits: Bits, kind: str) -> tuple[Array, float]:
        return self.load_float64(bits, kind), 1.0

    def load_float32(self, bits: Bits, kind: str) -> Array:
        return self._tensor(bits, kind, self._device).float()

    def to_device(self, values: NDArray[np.float32]) -> Array:
        return self._torch.from_numpy(np.ascontiguousarray(values)).to(self._device)

    def empty(self, *shape: int) -> Array:
        return self._torch.empty(shape, dtype=self._torch.float32, device=self._device)

    def to_numpy(self, values: Array) -> NDArray[Any]:
        return np.asarray(values.cpu().numpy())

    def _tensor(self, bits: Bits, kind: str, device: Any) -> Array:
        """Copy the bits to the device as stored and convert them there.

        Float8, which not every device has, on the CPU.
        """
        torch = self._torch
        if kind.startswith("F8"):
            return torch.from_numpy(singles(bits, kind)).to(device)
        owned = np.array(bits, copy=True)  # torch does not take read-only memory
        if kind in ("F32", "F64"):
            return torch.from_numpy(owned).to(device)
        half = torch.bfloat16 if kind == "BF16" else torch.float16
        return torch.from_numpy(owned.view(np.int16)).view(half).to(device)


def open_arrays(device: str = "cpu") -> Arrays:
    """Return the arrays of a device: "cpu" is numpy, any other name is torch's ("cuda", "cuda:1", "mps").

    Raises DeviceError if torch or the device is missing.
    """
    return NumpyArrays() if device == "cpu" else TorchArrays(device)


AUTO = "auto"
"""CUDA's device if there is one, else the CPU."""


def resolved(device: str) -> str:
    """Return the name of a device, that of `AUTO` too. Loads torch for `AUTO`."""
    return found_device(load=True) or "cpu" if device == AUTO else device


def found_device(*, load: bool) -> str | None:
    """Return CUDA's device if torch has one, else None.

    Loading torch takes longer than resizing a small file: without `load` only a torch that this process has loaded
    already is asked.
    """
    torch = sys.modules.get("torch")
    if torch is None and load:
        with contextlib.suppress(DeviceError):
            torch = _import_torch("auto")
    cuda = getattr(torch, "cuda", None)
    return "cuda" if cuda is not None and cuda.is_available() else None


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether this is torch's error for a device without free memory. Does not import torch."""
    return type(error).__name__ == "OutOfMemoryError" or "out of memory" in str(error)


def _import_torch(device: str) -> Any:
    try:
        import torch
    except ImportError as error:
        raise DeviceError(
            f"device {device!r} needs torch, which is not installed. Use `-d cpu`, or install torch."
        ) from error
    return torch
