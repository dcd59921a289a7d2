"""The norms of many weights on a device of torch, without a wait for the device after each product.

The methods are those of `norms`: sums of squares of blocks in float32 that are added in float64, and Lanczos. Weights
of equal shape are stacked, and go through the same steps together. The coefficients of Lanczos stay on the device; the
CPU looks at them every few steps, and the stack is done when all of its weights are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from .arrays import Array, TorchArrays
from .casts import Double
from .device_upload import Upload, in_pieces
from .factor import Factor
from .norms import BREAKDOWN, STEPS, TOLERANCE

_FIRST_LOOK = 8
_LOOK_EVERY = 4
_ROW = 4096  # numbers that are summed in float32
_LARGE = 1 << 18  # numbers of a matrix that is multiplied by itself
_SHARE_OF_STACK = 12
"""A stack has at most bytes / 12 numbers (two thirds of the bytes: as stored and in float32), unless one weight has
more; and that has at most bytes / 6, so the largest need as many bytes as are allowed."""
_SHARE_OF_ONE = 6

Shape = tuple[int, int]
NormsOfOne = tuple[int, float, float | None]
"""The place of a weight in the list, its Frobenius norm, and its spectral norm if that is measured: NaN where the first
is not finite."""


def fits_device(shape: Shape, arrays: TorchArrays) -> bool:
    """Return whether a weight is small enough to be measured on a device."""
    return 0 < shape[0] * shape[1] <= arrays.bytes // _SHARE_OF_ONE


def stacks_of(shapes: Sequence[Shape], arrays: TorchArrays) -> Iterator[list[int]]:
    """Yield places of equal shapes, as many as are stacked at a time; the order of the list is kept where possible."""
    waiting: dict[Shape, list[int]] = {}
    for i, shape in enumerate(shapes):
        own = waiting.setdefault(shape, [])
        own.append(i)
        if (len(own) + 1) * shape[0] * shape[1] > arrays.bytes // _SHARE_OF_STACK:
            yield waiting.pop(shape)
    yield from waiting.values()


def norms_on_device(
    shapes: Sequence[Shape], read: Callable[[int], Factor], arrays: TorchArrays, *, spectral: bool
) -> Iterator[list[NormsOfOne]]:
    """Measure weights that `read` returns by their place in the list, and yield some at a time; all come.

    Each must be of its shape, which `fits_device`. Torch's errors are not caught.
    """
    upload = Upload(arrays)
    for places in stacks_of(shapes, arrays):
        by_kind: dict[str, list[tuple[int, Factor]]] = {}
        for i in places:
            factor = read(i)
            by_kind.setdefault(factor.kind, []).append((i, factor))
        for pairs in by_kind.values():
            with arrays.torch.inference_mode():
                (stack,) = upload.stacks([[factor for _, factor in pairs]])
                found = norms_of_stack(stack, arrays, spectral=spectral)
            yield [(i, *norms) for (i, _), norms in zip(pairs, found, strict=True)]


def norms_of_stack(stack: Array, arrays: TorchArrays, *, spectral: bool) -> list[tuple[float, float | None]]:
    """Return the norms of matrices that are on the device, (count, n, m), of any floating dtype."""
    if not spectral:
        return [(float(fro), None) for fro in _frobenius(stack, arrays).tolist()]
    wide = stack.float()
    fro = _frobenius(wide, arrays)
    with arrays.full_float32():
        spn = largest_singular_values(wide, arrays)
    pairs = zip(fro.tolist(), spn.tolist(), strict=True)
    return [(float(one), float(other) if np.isfinite(one) else float("nan")) for one, other in pairs]


def _frobenius(stack: Array, arrays: TorchArrays) -> Double:
    torch = arrays.torch
    found = []
    for piece in in_pieces(stack, arrays.bytes // 16):
        flat = stack[piece].flatten(1)
        flat = flat.float() if flat.dtype == torch.float64 else flat
        whole = flat.shape[1] // _ROW * _ROW
        lengths = [_lengths(torch, flat[:, :whole].unflatten(1, (-1, _ROW)))] if whole else []
        lengths += [_lengths(torch, flat[:, None, whole:])] if whole < flat.shape[1] else []
        found.append(torch.cat(lengths, 1))
    # MPS has no float64: there the few lengths are added on the CPU.
    each: Double = torch.cat(found).cpu().double().numpy()
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.sqrt(np.sum(each * each, axis=1)))


def _lengths(torch: Any, rows: Array) -> Array:
    """Return the lengths of rows (count, rows, columns) in float32, (count, rows)."""
    return torch.linalg.vector_norm(rows, dim=2, dtype=torch.float32)


def largest_singular_values(stack: Array, arrays: TorchArrays) -> Double:
    """Return the largest singular values of float32 matrices (count, n, m) to about 1e-5, (count,).

    See `norms.largest_singular_value`. A matrix that is not finite gives NaN, a zero one 0.
    """
    torch = arrays.torch
    count, n, m = stack.shape
    steps = min(STEPS, n + 1, m)
    start = np.random.default_rng(0).standard_normal(m, dtype=np.float32)
    first = arrays.to_device(start / np.float32(np.linalg.norm(start))).expand(count, m)
    basis = torch.zeros((count, steps, m), dtype=torch.float32, device=stack.device)
    basis[:, 0] = first
    # The scale of each weight, so that no square leaves the range of float32.
    scale = torch.linalg.vector_norm(_products(torch, stack, first), dim=1)
    gain = torch.where(scale > 0, scale.reciprocal(), torch.zeros_like(scale))[:, None]
    coefficients = torch.zeros((2, steps, count), dtype=torch.float32, device=stack.device)
    value = np.full(count, np.nan)
    open_ones = np.ones(count, np.bool_)
    for step in range(steps):
        _lanczos_step(torch, stack, gain, basis, coefficients, step)
        is_last = step + 1 == steps
        if is_last or (step + 1 >= _FIRST_LOOK and (step + 1 - _FIRST_LOOK) % _LOOK_EVERY == 0):
            diagonal, couplings = coefficients[:, : step + 1].cpu().double().numpy()
            open_ones &= np.isfinite(diagonal).all(0) & np.isfinite(couplings).all(0)
            chosen = np.flatnonzero(open_ones)
            value[chosen], residual = _leading_ritz(diagonal[:, chosen].T, couplings[:, chosen].T)
            open_ones[chosen] = residual > TOLERANCE * value[chosen]
            if is_last or not open_ones.any():
                break
    return np.asarray(scale.cpu().double().numpy() * np.sqrt(np.maximum(value, 0.0)))


def _lanczos_step(torch: Any, stack: Array, gain: Array, basis: Array, coefficients: Array, step: int) -> None:
    """Append a diagonal element and a coupling for each matrix, and the next vector of each basis.

    Where the coupling is a rounding error, the basis is complete: it gets the coupling 0 and vectors of zeros, which
    change no eigenvalue.
    """
    x = basis[:, step]
    y = _products(torch, stack.transpose(1, 2), _products(torch, stack, x) * gain) * gain
    diagonal = (x * y).sum(1)
    coefficients[0, step] = diagonal
    y = y - diagonal[:, None] * x
    if step:
        y = y - coefficients[1, step - 1][:, None] * basis[:, step - 1]
    known = basis[:, : step + 1]
    y = y - (known.transpose(1, 2) @ (known @ y[:, :, None]))[:, :, 0]
    coupling = torch.linalg.vector_norm(y, dim=1)
    coupling = torch.where(coupling > BREAKDOWN * coefficients[0].amax(0), coupling, torch.zeros_like(coupling))
    coefficients[1, step] = coupling
    if step + 1 < basis.shape[1]:
        inverse = torch.where(coupling > 0, coupling.reciprocal(), torch.zeros_like(coupling))
        basis[:, step + 1] = y * inverse[:, None]


def _products(torch: Any, stack: Array, x: Array) -> Array:
    """Return the product of each matrix (count, n, m) and its vector, x (count, m), as (count, n).

    A product of one large matrix is a kernel that reads it once at full speed; that of a stack may not be.
    """
    count, n, m = stack.shape
    if n * m < _LARGE:
        return torch.bmm(stack, x[:, :, None])[:, :, 0]
    found = torch.empty((count, n), dtype=stack.dtype, device=stack.device)
    for matrix, vector, out in zip(stack, x, found, strict=True):
        torch.mv(matrix, vector, out=out)
    return found


def _leading_ritz(diagonal: Double, couplings: Double) -> tuple[Double, Double]:
    """Return the leading eigenvalues of tridiagonal matrices, and the residuals of their Ritz pairs, (count,) each.

    `diagonal` and `couplings` are (count, steps); the last couplings are those of the residuals.
    """
    count, steps = diagonal.shape
    matrices = np.zeros((count, steps, steps))
    own, next_one = np.arange(steps), np.arange(steps - 1)
    matrices[:, own, own] = diagonal
    matrices[:, next_one, next_one + 1] = matrices[:, next_one + 1, next_one] = couplings[:, :-1]
    values, vectors = np.linalg.eigh(matrices)
    return values[:, -1], couplings[:, -1] * np.abs(vectors[:, -1, -1])
