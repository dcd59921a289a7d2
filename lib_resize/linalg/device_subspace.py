"""How strongly base weights act along the dimensions of deltas, for many layers on a device of torch.

The formula is that of `norms.subspace_norms`. Weights and factors are uploaded as stored, in one copy for a group, and
one number for each dimension comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .arrays import Array, TorchArrays
from .casts import Bits, Double
from .device_decompose import stored_bytes
from .device_upload import Upload
from .factor import Factor, Pair, Spectrum, Stored

_SHARE = 4  # a group has at most this share of the device's bytes, as stored
_STRIPE = 32  # bytes / 32 numbers of a weight are in float32 at a time, an eighth of the bytes


@dataclass(frozen=True)
class PlacedMatrix:
    """A float32 matrix of a model that may be on the device already. A `Factor` that is read at each access."""

    shape: tuple[int, int]
    read: Callable[[], Bits]
    """Returns it in the memory of the CPU."""
    copy: Callable[[str], Array | None]
    """Returns a copy of it on a device of torch, (rows, columns), float32; None where only `read` can be trusted."""
    kind: str = "F32"

    @property
    def bits(self) -> Bits:
        return self.read()


@dataclass(frozen=True)
class SubspaceJob:
    """A delta (n, m), and the weight that it changes."""

    pair: Pair
    spectrum: Spectrum
    read: Callable[[], Factor]
    """Reads the weight, (n, m), or (m, n) if `transposed`."""
    transposed: bool

    @property
    def bytes(self) -> int:
        """Return the most bytes that are uploaded."""
        n, m = self.pair.size
        return 4 * n * m + stored_bytes(self.pair.up) + stored_bytes(self.pair.down) + 8 * self.pair.rank**2


def fits_device(job: SubspaceJob, arrays: TorchArrays) -> bool:
    """Return whether a layer is small enough for a device, and its singular vectors are known."""
    return job.bytes <= arrays.bytes // _SHARE and job.spectrum.p.size > 0


def subspace_norms_on_device(jobs: Sequence[SubspaceJob], arrays: TorchArrays) -> Iterator[Double]:
    """Yield ``|u_i^T W v_i|`` of every dimension i of each delta, (r,), float64, in the order of the list.

    Dimensions that are zero give 0. Torch's errors are not caught.
    """
    upload = Upload(arrays)
    for group in _groups(jobs, arrays.bytes // _SHARE):
        with arrays.torch.inference_mode(), arrays.full_float32():
            met = [_met(job, arrays, upload) for job in group]
            found: Double = arrays.torch.cat(met).cpu().numpy()
        ends = np.cumsum([job.spectrum.effective_rank for job in group])
        for job, own in zip(group, np.split(found, ends[:-1]), strict=True):
            out = np.zeros(len(job.spectrum.s))
            out[: len(own)] = np.abs(own) / job.spectrum.s[: len(own)]
            yield out


def _groups(jobs: Sequence[SubspaceJob], most: int) -> Iterator[list[SubspaceJob]]:
    group: list[SubspaceJob] = []
    for job in jobs:
        if group and sum(one.bytes for one in [*group, job]) > most:
            yield group
            group = []
        group.append(job)
    if group:
        yield group


def _met(job: SubspaceJob, arrays: TorchArrays, upload: Upload) -> Array:
    """Return ``u_i^T W v_i s_i`` of the dimensions that are not zero, float64, on the device."""
    rank, spectrum = job.spectrum.effective_rank, job.spectrum
    p, q = Stored(np.ascontiguousarray(spectrum.p[:, :rank]), "F32"), Stored(spectrum.q[:rank], "F32")
    factors = ([job.pair.up], [job.pair.down], [p], [q])
    weight = _weight(job.read(), arrays, upload)
    up, down, p, q = (stack[0] for stack in upload.stacks(factors))
    left, right = up.float() @ p, (q @ down.float()).T
    if job.transposed:
        left, right = right, left
    met = arrays.torch.zeros(rank, dtype=arrays.torch.float64, device=arrays.target)
    step = max(1, arrays.bytes // _STRIPE // weight.shape[1])
    for start in range(0, weight.shape[0], step):
        stripe = weight[start : start + step]
        met += (left[start : start + step].double() * (stripe.float() @ right).double()).sum(0)
    return met


def _weight(factor: Factor, arrays: TorchArrays, upload: Upload) -> Array:
    """Return a weight on the device: as stored, or in float32."""
    placed = factor.copy(arrays.device) if isinstance(factor, PlacedMatrix) else None
    return upload.stacks([[factor]])[0][0] if placed is None else placed
