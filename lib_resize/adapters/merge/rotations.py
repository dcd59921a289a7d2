"""Multipliers and rotations of a weight (IA3, OFT, BOFT): how they change a known base weight.

Each becomes a function from the weight W (n, in * taps) to W' - W. Rules are those of LyCORIS and A1111, and PEFT's own
for PEFT's tensors:

* IA3 (Liu and others 2022): LyCORIS adds ``w W`` by rows or columns; PEFT's vector is ``1 + w``.
* Diag-OFT (Qiu and others 2023): blocks of rows are rotated by ``R^T`` with ``R = (I + Q)(I - Q)^-1``, ``Q = B - B^T``.
  alpha is a limit: Q is no longer than ``alpha n``. Old files hold R itself. Rows may be rescaled at the end.
* BOFT (Liu and others 2024): several rotations by R, of rows that are further apart at each stage.
* PEFT rotates columns: OFT by ``(I - Q)(I + Q)^-1`` of a packed Q or by the first terms of ``(I + Q)(I - Q)^-1``, BOFT
  by ``(I - Q)(I + Q)^-1`` with ``Q = (B - B^T) / 2``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isqrt, prod
from typing import Any

import numpy as np

from ...errors import UnsupportedError
from ...linalg.casts import Double, Single
from ...linalg.factor import Factor
from ...linalg.lazy import materialise
from ..forms.form import Shape, Tensors

WeightChange = Callable[[Single], Single]
"""From a weight (n, m) to what is added to it, (n, m), float32."""


@dataclass(frozen=True)
class WeightInfo:
    """The shape of a base weight, before it is read."""

    size: tuple[int, int]
    """(n, in * taps)."""
    kernel: Shape = ()
    has_bias: bool = False

    @property
    def taps(self) -> int:
        return prod(self.kernel)


def weight_change(tensors: Tensors, weight: WeightInfo, settings: Mapping[str, Any] | None = None) -> WeightChange:
    """Return how one layer changes a weight. `settings` is PEFT's configuration, if there is one.

    Shapes are checked now; values are read when the change is computed. Raises UnsupportedError for layouts that cannot
    be verified against a reader, LayerError where tensors do not fit the weight, DamagedFileError where one is missing.
    """
    roles = frozenset(tensors.parts)
    layout = next((one for one in _LAYOUTS if one in roles), "")
    if not layout or roles - _LAYOUTS[layout] - {layout}:
        raise _refused(tensors, f"has {', '.join(sorted(roles))} together, which is no layout of a known reader")
    if layout == "oft_R":
        return _peft_oft(tensors, weight, settings)
    return _READERS[layout](tensors, weight)


_LAYOUTS: Mapping[str, frozenset[str]] = {
    "on_input": frozenset({"weight"}),
    "ia3_l": frozenset(),
    "oft_blocks": frozenset({"alpha", "rescale"}),
    "oft_diag": frozenset({"alpha", "rescale"}),
    "oft_R": frozenset(),
    "boft_R": frozenset({"boft_s"}),
}
"""Role that identifies a layout -> the roles that may accompany it."""


def _refused(tensors: Tensors, why: str) -> UnsupportedError:
    return UnsupportedError(
        f"{tensors.file.path}: layer {tensors.stem} {why}, so it cannot be merged. Have the program that made it merge "
        f"it into the model, and extract a LoRA from that."
    )


def _expect(tensors: Tensors, role: str, fits: bool, what: str) -> None:
    if not fits:
        raise tensors.fault(
            role, f"{what} were expected for the base weight; the file is damaged, or was trained on another model"
        )


# Multipliers --------------------------------------------------------------------------------------------------


def _ia3(tensors: Tensors, weight: WeightInfo) -> WeightChange:
    tensors.need("weight", "on_input")
    by_input = tensors.file.scalar(tensors.parts["on_input"].key) != 0
    return _multiplied(_vector(tensors, "weight", _count(weight, by_input)), weight, by_input, 0.0)


def _peft_ia3(tensors: Tensors, weight: WeightInfo) -> WeightChange:
    shape, outputs, inputs = tensors.shape("ia3_l"), _count(weight, False), _count(weight, True)
    if len(shape) > 2 and outputs == inputs:
        raise _refused(tensors, f"does not show whether PEFT's IA3 multiplies its {inputs} inputs or its outputs")
    by_input = prod(shape) != outputs if len(shape) > 2 else shape[:1] == (1,)
    if weight.has_bias and not by_input:
        raise _refused(tensors, "is PEFT's IA3 of outputs, which multiplies the layer's bias as well")
    return _multiplied(_vector(tensors, "ia3_l", _count(weight, by_input)), weight, by_input, 1.0)


def _count(weight: WeightInfo, by_input: bool) -> int:
    return weight.size[1] // weight.taps if by_input else weight.size[0]


def _vector(tensors: Tensors, role: str, count: int) -> Factor:
    _expect(tensors, role, prod(tensors.shape(role)) == count, f"{count} numbers")
    return tensors.matrix(role)


def _multiplied(values: Factor, weight: WeightInfo, by_input: bool, start: float) -> WeightChange:
    def make(base: Single) -> Single:
        gains = materialise(values).reshape(-1) - np.float32(start)
        return np.asarray(base * np.repeat(gains, weight.taps) if by_input else base * gains[:, None])

    return make


# Rotations of rows --------------------------------------------------------------------------------------------


def _oft(tensors: Tensors, weight: WeightInfo) -> WeightChange:
    """Return the change by Diag-OFT, or by BOFT with LyCORIS' name for it, whose blocks have one dimension more."""
    shape, n = tensors.shape("oft_blocks"), weight.size[0]
    _check_blocks(tensors, "oft_blocks", n)
    blocks, rescale = tensors.matrix("oft_blocks"), _rescale(tensors, "rescale", n)
    limit = n * (tensors.file.scalar(tensors.parts["alpha"].key) if "alpha" in tensors else 0.0)

    def make(base: Single) -> Single:
        turns = _cayley(_limited(_skew(_stacked(blocks, shape)), limit))
        if len(shape) == 4:
            return _rescaled(_turned(base, turns, apart=True), base, rescale)
        return _rescaled(_turned(base, np.swapaxes(turns, 1, 2)[None]), base, rescale)

    return make


def _old_oft(tensors: Tensors, weight: WeightInfo) -> WeightChange:
    shape, n = tensors.shape("oft_diag"), weight.size[0]
    tensors.expect("oft_diag", len(shape) == 3, "square blocks were expected")
    _check_blocks(tensors, "oft_diag", n)
    blocks, rescale = tensors.matrix("oft_diag"), _rescale(tensors, "rescale", n)

    def make(base: Single) -> Single:
        turns = _stacked(blocks, shape) - np.eye(shape[-1])
        return _rescaled(_turned(base, np.swapaxes(turns, 1, 2)[None]), base, rescale)

    return make


def _check_blocks(tensors: Tensors, role: str, rows: int) -> None:
    """Check that the blocks are square and rotate all rows; of several stages the last, too."""
    shape = tensors.shape(role)
    whole = len(shape) in (3, 4) and shape[-1] == shape[-2] and shape[-3] * shape[-1] == rows
    if whole and len(shape) == 4:
        whole = shape[-1] % 2 == 0 and rows % (shape[-1] << max(shape[0] - 1, 0)) == 0
    _expect(tensors, role, whole, f"square blocks for {rows} numbers")


def _rescale(tensors: Tensors, role: str, rows: int) -> Factor | None:
    return _vector(tensors, role, rows) if role in tensors else None


def _stacked(blocks: Factor, shape: Shape) -> Double:
    return materialise(blocks).reshape(shape).astype(np.float64)


def _skew(blocks: Double) -> Double:
    return np.asarray(blocks - np.swapaxes(blocks, -1, -2))


def _limited(q: Double, limit: float) -> Double:
    length = float(np.linalg.norm(q))
    return q * (limit / length) if 0 < limit < length else q


def _cayley(q: Double) -> Double:
    """Return ``(I + Q)(I - Q)^-1 - I``, (..., b, b), as ``2 (I - Q)^-1 Q``, exact for small rotations."""
    return np.asarray(2 * np.linalg.solve(np.eye(q.shape[-1]) - q, q))


def _turned(base: Single, turns: Double, *, apart: bool = False) -> Single:
    """Return what rotating the rows adds; `turns` are R - I, (stages, blocks, b, b).

    With `apart` the halves of a block's rows are ``2^i b / 2`` rows apart at stage i, as in a butterfly.
    """
    found = np.zeros(base.shape, np.float32)
    for i, stage in enumerate(turns.astype(np.float32)):
        b, order = stage.shape[-1], np.arange(len(base))
        if apart:
            order = order.reshape(-1, 2, b // 2 << i).swapaxes(1, 2).reshape(-1)
        rows = (base + found)[order].reshape(-1, b, base.shape[1])
        found[order] += (stage @ rows).reshape(base.shape)
    return found


def _rescaled(found: Single, base: Single, gains: Factor | None) -> Single:
    """Return the change with all rows multiplied at the end."""
    if gains is None:
        return found
    column = materialise(gains).reshape(-1, 1)
    return np.asarray(column * found + (column - np.float32(1)) * base)


# PEFT's rotations of columns ----------------------------------------------------------------------------------


def _peft_boft(tensors: Tensors, weight: WeightInfo) -> WeightChange:
    tensors.need("boft_R", "boft_s")
    shape, (n, m) = tensors.shape("boft_R"), weight.size
    if len(shape) == 4 and shape[0] != 1:
        raise _refused(tensors, f"is PEFT's BOFT of {shape[0]} stages, which PEFT itself reads only on CUDA")
    tensors.expect("boft_R", len(shape) == 4, "(1, blocks, b, b) was expected")
    _check_blocks(tensors, "boft_R", m)
    blocks, gains = tensors.matrix("boft_R"), _vector(tensors, "boft_s", n)

    def make(base: Single) -> Single:
        return _rescaled(_turned(base.T, _cayley(_skew(_stacked(blocks, shape)) / -2)).T, base, gains)

    return make


def _peft_oft(tensors: Tensors, weight: WeightInfo, settings: Mapping[str, Any] | None) -> WeightChange:
    terms = _terms(tensors, settings)
    shape, m = tensors.shape("oft_R"), weight.size[1]
    b = (1 + isqrt(1 + 8 * shape[-1])) // 2 if shape else 0
    shared = settings is not None and bool(settings.get("block_share"))
    whole = len(shape) == 2 and b * (b - 1) // 2 == shape[1] and m == b * (m // b if shared else shape[0])
    _expect(tensors, "oft_R", whole, f"packed triangles for {m} numbers")
    packed = tensors.matrix("oft_R")

    def make(base: Single) -> Single:
        q = _unpacked(materialise(packed), b)
        turns = _cayley(-q) if terms is None else _series(q, terms)
        return np.asarray(_turned(base.T, np.broadcast_to(turns, (1, m // b, b, b))).T)

    return make


def _terms(tensors: Tensors, settings: Mapping[str, Any] | None) -> int | None:
    """Return how many terms of the series PEFT uses; None if it rotates exactly.

    Versions of PEFT differ in the series.
    """
    if settings is None or "oft_block_size" not in settings:
        raise _refused(
            tensors, "is PEFT's OFT, and there is no adapter_config.json in its folder that defines the rotation"
        )
    if settings.get("coft"):
        raise _refused(tensors, "is PEFT's OFT with coft, whose limit is not supported")
    if not settings.get("use_cayley_neumann"):
        return None
    terms, version = settings.get("num_cayley_neumann_terms"), str(settings.get("peft_version", "0.0")).split(".")
    if not isinstance(terms, int) or terms < 1 or not _is_new(version):
        raise _refused(tensors, "is PEFT's OFT with the series of PEFT before 0.18, which newer versions do not read")
    return terms


def _is_new(version: list[str]) -> bool:
    found = [int(word) for word in version[:2] if word.isdigit()]
    return found >= [0, 18]


def _unpacked(packed: Single, b: int) -> Double:
    """Return skew-symmetric blocks from their upper triangles, (blocks, b (b - 1) / 2)."""
    q = np.zeros((len(packed), b, b))
    rows, columns = np.triu_indices(b, 1)
    q[:, rows, columns] = packed
    return _skew(q)


def _series(q: Double, terms: int) -> Double:
    """Return R - I as ``2 Q + 2 Q^2 + ...

    + Q^last``: that many terms, with I as the first, as PEFT 0.18 and later sum it.
    """
    if terms < 3:
        return np.asarray(2.0 * (terms - 1) * q)
    power, found, last = q, 2 * q, max(terms - 1, 3)
    for exponent in range(2, last + 1):
        power = power @ q
        found = found + (1 if exponent == last else 2) * power
    return found


_READERS: Mapping[str, Callable[[Tensors, WeightInfo], WeightChange]] = {
    "on_input": _ia3,
    "ia3_l": _peft_ia3,
    "oft_blocks": _oft,
    "oft_diag": _old_oft,
    "boft_R": _peft_boft,
}
