"""The decomposition of `factor` on a device of torch: many layers at once, with one wait for the device each time.

A group of layers is uploaded as stored, in one copy. Layers of equal shape are stacked, and their Gram matrices are
computed together, in float64. The (r, r) problems are solved where that is faster, see `solver_rates`: on the device,
whose results come back in one download, or by workers of the CPU, to which the Gram matrices come in one download.
While the CPU looks at one group, the device has the next.

The device solves plain layers only, and its results are checked there. What is not plain is left to the CPU's code,
which is the only one for such cases: NaN and infinities, factors of deficient rank, factors that cancel each other,
and eigenvectors that do not solve their problem to the last digits.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrays import Array, TorchArrays
from .casts import Double
from .device_upload import Upload, in_pieces
from .factor import CANCELLING, DOUBTFUL, WEAK, ZERO_TOLERANCE, Factor, Pair, Spectrum, Stored, decompose_grams
from .finite import without_float_warnings
from .solver_rates import CPU, DEVICE, SolverRates

Found = tuple[int, Spectrum | None]
"""The place of a pair in the list, and its decomposition; None where it is left to `factor.decompose`."""

_STORED = 8
_PIECE = 64
_SQUARES = 240
"""A group has at most bytes / 8 as stored, bytes / 64 numbers of it are in float64 at a time (an eighth of the bytes),
and bytes / 240 numbers in one stack of (r, r) matrices: solving takes about ten of them (a third of the bytes)."""
_TOGETHER = 16384
"""Numbers in a stack of (r, r) matrices that one worker of the CPU solves in one call."""


@dataclass(frozen=True)
class Solvers:
    """Who solves (r, r) problems on the CPU, and the rates of both places."""

    pool: ThreadPoolExecutor
    """Its threads must not wait for this decomposition."""
    rates: SolverRates


@dataclass(frozen=True)
class _Job:
    pairs: Sequence[Pair]
    rates: SolverRates


@dataclass(frozen=True)
class _Launched:
    """A group whose work on the device has begun."""

    places: tuple[int, ...]
    pairs: tuple[Pair, ...]
    where: str
    result: Any
    """Solved on the device: bytes, see `_packed`. Else the Gram matrices, (2, layers, r, r)."""


def decompose_on_device(pairs: Sequence[Pair], arrays: TorchArrays, solvers: Solvers) -> Iterator[list[Found]]:
    """Decompose pairs of any ranks and shapes, and yield some at a time. All come, in no particular order.

    Torch's errors, such as one for a lack of memory, are not caught.
    """
    groups, others = _groups(pairs, arrays)
    if others:
        yield [(i, None) for i in others]
    upload, job = Upload(arrays), _Job(pairs, solvers.rates)
    before: _Launched | None = None
    for places in groups:
        with arrays.torch.inference_mode():
            launched = _launched(places, arrays, upload, job)
        if before is not None:
            yield _finished(before, solvers)
        before = launched
    if before is not None:
        yield _finished(before, solvers)


def _groups(pairs: Sequence[Pair], arrays: TorchArrays) -> tuple[list[list[int]], list[int]]:
    """Return groups of places of pairs of one rank, in the order of the list, and those that are not for a device."""
    open_groups: dict[int, tuple[list[int], int]] = {}
    full, others = [], []
    for i, pair in enumerate(pairs):
        size, rank = stored_bytes(pair.up) + stored_bytes(pair.down), pair.rank
        if not _is_plain(pair) or size > arrays.bytes // _STORED or rank**2 > arrays.bytes // _SQUARES:
            others.append(i)
            continue
        group, filled = open_groups.pop(rank, ([], 0))
        most = arrays.bytes // _SQUARES // rank**2
        if group and (filled + size > arrays.bytes // _STORED or len(group) >= most):
            full.append(group)
            group, filled = [], 0
        open_groups[rank] = ([*group, i], filled + size)
    return [*full, *(group for group, _ in open_groups.values())], others


def stored_bytes(factor: Factor) -> int:
    """Return the bytes of a factor when it is uploaded: float8 becomes float32."""
    rows, columns = factor.shape
    return rows * columns * {"F16": 2, "BF16": 2, "F64": 8}.get(factor.kind, 4)


def _is_plain(pair: Pair) -> bool:
    (n, r), (rank, m) = pair.up.shape, pair.down.shape
    return r == rank and min(n, r, m) > 0 and bool(np.isfinite(pair.scale))


def _launched(places: Sequence[int], arrays: TorchArrays, upload: Upload, job: _Job) -> _Launched:
    """Begin a group: its layers are put in an order in which those of equal shape are neighbours."""
    alike: dict[tuple[Any, ...], list[int]] = {}
    for i in places:
        up, down = job.pairs[i].up, job.pairs[i].down
        alike.setdefault((up.shape, up.kind, down.shape, down.kind), []).append(i)
    ordered = [i for own in alike.values() for i in own]
    pairs, rates = tuple(job.pairs[i] for i in ordered), job.rates
    rank, where = pairs[0].rank, rates.place(pairs[0].rank)
    scales, *stacks = upload.stacks([[_scales(pairs)], *_sides(job.pairs, alike.values())])
    grams = _grams(arrays, len(pairs), rank, stacks)
    if where == CPU:
        return _Launched(tuple(ordered), pairs, where, grams)
    began = _clock(arrays, rates, rank)
    result = _packed(arrays.torch, *_solved(arrays.torch, grams[0], grams[1]), scales.reshape(-1))
    if began is not None:
        arrays.wait()
        rates.add(rank, DEVICE, len(pairs), time.perf_counter() - began)
    return _Launched(tuple(ordered), pairs, where, result)


def _scales(pairs: Sequence[Pair]) -> Stored:
    return Stored(np.array([[pair.scale for pair in pairs]], np.float64), "F64")


def _sides(pairs: Sequence[Pair], alike: Iterable[list[int]]) -> Iterator[list[Factor]]:
    """Yield the ups and the downs of layers of equal shape."""
    for own in alike:
        yield [pairs[i].up for i in own]
        yield [pairs[i].down for i in own]


def _clock(arrays: TorchArrays, rates: SolverRates, rank: int) -> float | None:
    """Return the time when the device has nothing else to do, None where nothing is measured."""
    if rates.is_measured(rank):
        return None
    arrays.wait()
    return time.perf_counter()


def _finished(group: _Launched, solvers: Solvers) -> list[Found]:
    if group.where == DEVICE:
        return _unpacked(group, solvers.rates)
    grams: Double = group.result.cpu().numpy()
    began = time.perf_counter()
    found = _solved_by_workers(group, grams, solvers.pool)
    solvers.rates.add(group.pairs[0].rank, CPU, len(group.pairs), time.perf_counter() - began)
    return found


# Gram matrices


def _grams(arrays: TorchArrays, layers: int, rank: int, stacks: Sequence[Array]) -> Array:
    """Return the Gram matrices of the columns of up and of the rows of down, float64, (2, layers, r, r).

    `stacks` are ups and downs in turn, in the order of the layers.
    """
    found = arrays.torch.empty((2, layers, rank, rank), dtype=arrays.torch.float64, device=arrays.target)
    start = 0
    for up, down in zip(stacks[::2], stacks[1::2], strict=True):
        for side, stack in enumerate((up, down)):
            found[side, start : start + len(stack)] = _gram_stack(arrays.torch, stack, side, arrays.bytes // _PIECE)
        start += len(up)
    return found


def _gram_stack(torch: Any, stack: Array, side: int, most: int) -> Array:
    """Return ``X^T X`` (side 0, X (rows, r)) or ``X X^T`` (side 1, X (r, columns)) of each matrix of a stack."""
    found = []
    for piece in in_pieces(stack, most):
        part = stack[piece]
        length, width = (part.shape[1], part.shape[2]) if side == 0 else (part.shape[2], part.shape[1])
        step = max(64, most // (len(part) * width))
        total = torch.zeros((len(part), width, width), dtype=torch.float64, device=stack.device)
        for start in range(0, length, step):
            cut = part[:, start : start + step] if side == 0 else part[:, :, start : start + step]
            wide = cut.double()
            turned = wide.transpose(1, 2)
            total.baddbmm_(*((turned, wide) if side == 0 else (wide, turned)))
        found.append(total)
    return torch.cat(found)


# The (r, r) problems on the device


def _solved(torch: Any, gram_up: Array, gram_down: Array) -> tuple[Array, Array, Array, Array]:
    """Decompose unscaled deltas as `factor` does, all at once: s (layers, r), P and Q (layers, r, r), and whether each
    is right, (layers,)."""
    layers, rank, _ = gram_up.shape
    one = torch.eye(rank, dtype=torch.float64, device=gram_up.device).expand(layers, rank, rank)
    lengths = gram_down.diagonal(dim1=1, dim2=2)
    c, failed = torch.linalg.cholesky_ex(gram_down)
    d2 = torch.where(lengths > 0, lengths, torch.ones_like(lengths))
    pivots = c.diagonal(dim1=1, dim2=2) / d2.sqrt()
    good = (failed == 0) & (pivots.amin(1) >= WEAK * pivots.amax(1))
    c = _where(torch, good, c, one)
    gc = gram_up @ c
    h = c.transpose(1, 2) @ gc
    h = 0.5 * (h + h.transpose(1, 2))  # where factors cancel, rounding errors are not symmetric
    good = good & h.isfinite().all(2).all(1)
    h = _where(torch, good, h, one)
    square, w = torch.linalg.eigh(h)
    good = good & _is_solution(torch, h, square, w, one)
    s = square.flip(1).clamp_min(0.0).sqrt()
    t = (_scaled_norm(gram_up, d2) * _scaled_norm(gram_down, 1.0 / d2)).sqrt()[:, None]
    s = torch.where(s > ZERO_TOLERANCE * t, s, torch.zeros_like(s))
    doubtful = ((s > 0) & (s < DOUBTFUL * t)).any(1) | (t[:, 0] > CANCELLING * s[:, 0])
    inverse_root = torch.where(s > 0, s.sqrt().reciprocal(), torch.zeros_like(s))
    p = (c @ w).flip(2) * inverse_root[:, None, :]
    q = (w.transpose(1, 2) @ gc.transpose(1, 2)).flip(1) * (inverse_root**3)[:, :, None]
    return s, p, q, good & (~doubtful | (t[:, 0] == 0))


def _where(torch: Any, chosen: Array, one: Array, other: Array) -> Array:
    """Return the matrices of `one` where `chosen`, (layers,), else those of `other`."""
    return torch.where(chosen[:, None, None], one, other)


def _scaled_norm(gram: Array, d2: Array) -> Array:
    """Return the squared Frobenius norms of ``D G D``, see `factor`, as roots, (layers,)."""
    return (((gram * gram) @ d2[:, :, None])[:, :, 0] * d2).sum(1).sqrt()


def _is_solution(torch: Any, h: Array, square: Array, w: Array, one: Array) -> Array:
    """Return whether eigenvalues and eigenvectors solve their problem to the last digits, (layers,).

    Both residuals of LAPACK are a few units of float64; solvers of devices are not all of that kind.
    """
    digits = 4 * h.shape[1] * 2.0**-52
    largest = square.abs().amax(1).clamp_min(torch.finfo(torch.float64).tiny)
    residual = (h @ w - w * square[:, None, :]).abs().amax(2).amax(1)
    orthogonal = (w.transpose(1, 2) @ w - one).abs().amax(2).amax(1)
    return (residual <= digits * largest) & (orthogonal <= digits)


def _packed(torch: Any, s: Array, p: Array, q: Array, right: Array, scales: Array) -> Array:
    """Return everything in one array of bytes: s in float64, P and Q in float32, and a byte for each layer."""
    root = scales.abs().sqrt()[:, None, None]
    signed = root * scales.sign()[:, None, None]
    parts = (s * scales.abs()[:, None], (p * root).float(), (q * signed).float(), right.to(torch.uint8))
    return torch.cat([part.contiguous().view(torch.uint8).reshape(-1) for part in parts])


def _unpacked(group: _Launched, rates: SolverRates) -> list[Found]:
    data = group.result.cpu().numpy()
    layers, rank = len(group.pairs), group.pairs[0].rank
    ends = np.cumsum([8 * layers * rank, 4 * layers * rank**2, 4 * layers * rank**2])
    s, p, q, right = np.split(data, ends)
    s, p, q = (
        s.view(np.float64).reshape(layers, rank),
        p.view(np.float32).reshape(layers, rank, rank),
        q.view(np.float32).reshape(layers, rank, rank),
    )
    if 2 * np.count_nonzero(right) < layers:
        rates.avoid_device(rank)
    # Copies, so that a spectrum keeps no other one's memory.
    return [
        (place, Spectrum(s[i].copy(), p[i].copy(), q[i].copy()) if right[i] else None)
        for i, place in enumerate(group.places)
    ]


# The (r, r) problems on the CPU


def _solved_by_workers(group: _Launched, grams: Double, pool: ThreadPoolExecutor) -> list[Found]:
    finite = np.isfinite(np.diagonal(grams, axis1=2, axis2=3)).all(axis=(0, 2))
    rank = group.pairs[0].rank
    step = max(1, min(16, _TOGETHER // rank**2))
    good = np.flatnonzero(finite).tolist()

    def solve(chosen: list[int]) -> Sequence[Spectrum | None]:
        try:
            with without_float_warnings():
                return decompose_grams([group.pairs[i] for i in chosen], grams[0, chosen], grams[1, chosen])
        except np.linalg.LinAlgError:  # numbers that overflow
            return [None] if len(chosen) == 1 else [solve([i])[0] for i in chosen]

    parts = [good[start : start + step] for start in range(0, len(good), step)]
    found: dict[int, Spectrum | None] = {}
    for chosen, spectra in zip(parts, pool.map(solve, parts), strict=True):
        found.update(zip(chosen, spectra, strict=True))
    return [(place, found.get(i)) for i, place in enumerate(group.places)]
