"""The layout of an output file: its tensors with names, dtypes and shapes, and the values of each.

Rules that every reader of LoRA files agrees on:

* Layers with kohya's suffixes share one constant alpha c in the whole file, and their factors are scaled so that
  ``c / rank * up @ down`` is the delta. diffusers mis-scales attention layers if alpha differs, and for the WebUIs a
  constant alpha is as exact. A file of one uniform rank has c = rank.
* DoRA layers have alpha = rank: some hosts normalise before they scale.
* Layers in other key formats have scale 1: no alpha, or alpha = rank if the source had one.
* Other kinds than LoRA have scale 1 by the alpha that their own rule requires, if the source had an alpha.
* alpha is a power of two, or a rank, in float32: exact everywhere.
* For layers in fp8, c moves the factors into the range in which fp8 is precise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import LayerError, UnsupportedError
from ...files.header import TensorSpec, file_order
from ...linalg.blocks import pieces_in_order
from ...linalg.casts import LARGEST, Bits, Single, largest_magnitude, round_to
from ...linalg.float8_gauge import float8_pair
from ...names.family import layers
from ...names.identify import canonical_id
from ..forms.form import TensorSlot, WriteSpec
from ..forms.lora import LowRank
from ..keys.registry import LONE_ALPHA
from ..keys.suffixes import parse_key, suffix_of
from ..layer import Adapter, Copied, Layer
from .style import FLOAT8, Style

_LARGEST_PRODUCT = 2.0**15  # hosts multiply up and down in float16: half of its largest number
_SMALLEST_ENTRY = 2.0**-11  # typical entry of a layer's first dimension; float16 is fully precise down to 2^-14


@dataclass(frozen=True)
class NewLayer:
    """One layer of the output file."""

    index: int
    """Its index among the adapter's layers."""
    layer: Layer
    rank: int
    gain: float
    """The square root of the factor of the delta that cancels the scale that readers apply."""
    stem: str
    """Its name in the output file."""
    tensors: Mapping[str, TensorSpec]
    """By role, without alpha."""
    alpha: TensorSpec | None
    alpha_value: float

    @property
    def numbers(self) -> int:
        """How many numbers it stores."""
        return sum(math.prod(spec.shape) for spec in self.tensors.values())


@dataclass(frozen=True)
class OutputLayout:
    """An output file without its data."""

    layers: tuple[NewLayer, ...]
    copied: dict[str, Copied]
    """Output key -> the tensor that is copied there."""
    specs: tuple[TensorSpec, ...]
    """All tensors in the order of the file."""

    @property
    def alpha(self) -> float | None:
        """The alpha that all layers share; None if it differs or there is none."""
        values = {new.alpha_value for new in self.layers if new.alpha is not None}
        return values.pop() if len(values) == 1 else None


def output_layout(adapter: Adapter, strongest: Sequence[float], ranks: Sequence[int], style: Style) -> OutputLayout:
    """Return the layout of a file in which layer i has `ranks[i]` dimensions, 0 to leave it out.

    `strongest[i]` is the strength of its strongest dimension. Raises UnsupportedError if the style does not fit the
    file.
    """
    _check_style(adapter, style)
    every = enumerate(zip(adapter.layers, ranks, strongest, strict=True))
    staying = [_kept_layer(i, layer, rank, s, style) for i, (layer, rank, s) in every if rank]
    common = _common_alpha([one for one in staying if one.shares_alpha])
    layers = tuple(_new_layer(one, common, style) for one in staying)
    copied = _copied(adapter, style)
    specs = [spec for new in layers for spec in (*new.tensors.values(), new.alpha) if spec is not None]
    return OutputLayout(layers, {spec.name: source for spec, source in copied}, _ordered(specs, copied))


FillRows = Callable[[NewLayer, Single, int], Single]
"""From a layer, its down (k, m) and a count: that many more rows for down, (count, m), float32."""


def zero_rows(_: NewLayer, down: Single, count: int) -> Single:
    """Return rows of zeros."""
    return np.zeros((count, down.shape[1]), np.float32)


def layer_tensors(work: Sequence[tuple[NewLayer, WriteSpec]], rows: FillRows = zero_rows) -> dict[str, Bits]:
    """Return the tensors of some output layers by key, as storage arrays.

    If a LoRA layer gets more dimensions than it keeps, `rows` extend down, and columns of zeros extend up.

    Raises LayerError where a number does not fit the dtype.
    """
    exact: dict[TensorSpec, Single] = {}
    for new, one in work:
        values = _filled(new, _in_gauge(new, one), rows)
        for role, spec in new.tensors.items():
            _check_fits(new, spec, values[role])
            exact[spec] = values[role]
    out: dict[str, Bits] = {}
    for dtype in {spec.dtype for spec in exact}:
        out.update(_rounded({spec: values for spec, values in exact.items() if spec.dtype == dtype}, dtype))
    return out


def _in_gauge(new: NewLayer, one: WriteSpec) -> dict[str, Single]:
    """Return the values of a layer; up and down in the gauge in which rounding to float8 costs least, if wanted.

    Pieces of a fused layer stay separate.
    """
    form, values = new.layer.form, new.layer.form.values(one)
    if not one.regauged or not isinstance(form, LowRank):
        return values
    up, down = (values[role].copy() for role in form.roles)
    for piece in pieces_in_order(one.solved, one.kept):
        up[:, piece], down[piece] = float8_pair(up[:, piece], down[piece])
    return dict(zip(form.roles, (up, down), strict=True))


def _filled(new: NewLayer, values: dict[str, Single], rows: FillRows) -> dict[str, Single]:
    form = new.layer.form
    if not isinstance(form, LowRank):
        return values
    up, down = (values[role] for role in form.roles)
    count = new.rank - len(down)
    if not count:
        return values
    filled = np.pad(up, ((0, 0), (0, count))), np.concatenate([down, rows(new, down, count)])
    return dict(zip(form.roles, filled, strict=True))


def _check_fits(new: NewLayer, spec: TensorSpec, values: Single) -> None:
    largest = largest_magnitude(values)
    if not largest <= LARGEST[spec.dtype]:
        raise LayerError(
            f"layer {new.layer.stem}: {spec.name} would hold {largest:.3g}, more than {spec.dtype} can. "
            f"Use -t 32 or -t bf16."
        )


def _rounded(exact: dict[TensorSpec, Single], dtype: str) -> Iterator[tuple[str, Bits]]:
    """Round all values at once: for small tensors the calls cost more than the numbers."""
    bits = round_to(np.concatenate([values.reshape(-1) for values in exact.values()]), dtype)
    ends = np.cumsum([values.size for values in exact.values()])
    for spec, piece in zip(exact, np.split(bits, ends[:-1]), strict=True):
        yield spec.name, piece


@dataclass(frozen=True)
class _KeptLayer:
    """A layer that the output file has."""

    index: int
    layer: Layer
    rank: int
    strongest: float
    slots: tuple[TensorSlot, ...]
    is_pair: bool
    """Whether it is written as up and down."""
    is_float8: bool
    """Whether some of its tensors are written in fp8."""
    reads_alpha: bool
    """Whether all readers of its key format use an alpha. A difference in full has none."""

    @property
    def shares_alpha(self) -> bool:
        """Whether its alpha is that of the file."""
        return self.reads_alpha and (self.layer.magnitude is None or self.is_float8)


def _kept_layer(index: int, layer: Layer, rank: int, strongest: float, style: Style) -> _KeptLayer:
    slots = layer.form.slots(rank)
    is_pair = len(slots) == 2 and slots[0].role == "up"
    reads_alpha = is_pair and (style.kohya or layer.carries_alpha)
    return _KeptLayer(index, layer, rank, strongest, slots, is_pair, _has_float8(slots, style), reads_alpha)


def _has_float8(slots: Sequence[TensorSlot], style: Style) -> bool:
    if style.dtype is not None:
        return style.dtype == FLOAT8
    return any(_dtype(slot, style) == FLOAT8 for slot in slots)


def _common_alpha(staying: Sequence[_KeptLayer]) -> float:
    """Return c of the whole file. Its factors have entries near ``sqrt(s rank / c / n)``.

    c is lowered by powers of two until those of the weakest layer keep their precision in float16, unless products
    would overflow.
    """
    ranks = {one.rank for one in staying}
    if not ranks:
        return 1.0
    strengths = [(one.strongest * one.rank, max(one.layer.size)) for one in staying if one.strongest > 0]
    if not strengths:
        return 1.0
    lowest = 2.0 ** math.ceil(math.log2(max(strength for strength, _ in strengths) / _LARGEST_PRODUCT))
    if any(one.is_float8 for one in staying):
        return lowest
    c = float(ranks.pop()) if len(ranks) == 1 else 2.0 ** math.floor(math.log2(max(ranks)))
    weakest = min(strength / size for strength, size in strengths)
    if weakest / c >= _SMALLEST_ENTRY**2:
        return c
    return max(2.0 ** math.floor(math.log2(weakest / _SMALLEST_ENTRY**2)), min(lowest, c))


def _new_layer(one: _KeptLayer, common: float, style: Style) -> NewLayer:
    layer = one.layer
    alpha = common if one.shares_alpha else layer.form.alpha(one.rank)
    has_alpha = one.reads_alpha or "alpha" in layer.parts
    return NewLayer(
        index=one.index,
        layer=layer,
        rank=one.rank,
        gain=math.sqrt(one.rank / alpha) if one.is_pair else 1.0,
        stem=_stem(layer, style),
        tensors={slot.role: _spec(layer, slot, style) for slot in one.slots},
        alpha=TensorSpec(_key(layer, "alpha", style), "F32", ()) if has_alpha else None,
        alpha_value=alpha,
    )


def _spec(layer: Layer, slot: TensorSlot, style: Style) -> TensorSpec:
    return TensorSpec(_key(layer, slot.role, style), _dtype(slot, style), slot.shape)


def _dtype(slot: TensorSlot, style: Style) -> str:
    if style.dtype is not None:
        return style.dtype
    source = slot.dtype
    return source if source in LARGEST and source != "F64" else {"F64": "F32"}.get(source, "F16")


def _stem(layer: Layer, style: Style) -> str:
    if style.kohya:
        assert layer.canonical is not None
        return layer.canonical
    return layer.stem


def _key(layer: Layer, role: str, style: Style) -> str:
    if style.kohya:
        return _stem(layer, style) + suffix_of(role)
    return layer.parts[role].key if role in layer.parts else layer.stem + layer.suffix(role)


def _check_style(adapter: Adapter, style: Style) -> None:
    if style.kohya:
        _check_kohya(adapter)
    found = [layer for layer in adapter.layers if becomes_float8(layer, style)]
    if found:
        _check_float8(adapter, found, style)


def becomes_float8(layer: Layer, style: Style) -> bool:
    """Return whether a layer is written in fp8: as requested, or because `same` keeps it."""
    return style.dtype == FLOAT8 if style.dtype is not None else _has_float8(layer.form.slots(1), style)


def _check_float8(adapter: Adapter, layers: Sequence[Layer], style: Style) -> None:
    asked = "-t 8" if style.dtype is not None else "-t same writes fp8, because the source is fp8, and that"
    other = next((layer.form.kind for layer in layers if layer.form.has_own_alpha), None)
    if other is not None:
        raise UnsupportedError(
            f"{adapter.name}: {asked} needs LoRA layers, whose alpha scales the values into the range of fp8. This "
            f"file has {other} layers. Use -t 16, or add --convert lora."
        )
    if not style.kohya and not all(layer.carries_alpha for layer in layers):
        raise UnsupportedError(
            f"{adapter.name}: {asked} needs an alpha in every layer, to scale the values into the range of fp8. "
            f"The key format of this file has no alpha that all hosts read. Add --naming kohya, or use -t 16."
        )


def _check_kohya(adapter: Adapter) -> None:
    if any("bare_up" in layer.parts for layer in adapter.layers):
        raise UnsupportedError(f"{adapter.name}: a Control-LoRA has its own key format. Remove --naming kohya.")
    unnamed = [layer.stem for layer in adapter.layers if layer.canonical is None]
    if unnamed:
        raise UnsupportedError(
            f"{adapter.name}: --naming kohya has no name for {len(unnamed)} of {len(adapter.layers)} layers "
            f"(first {unnamed[0]}; family {adapter.family.name if adapter.family else 'unknown'}). Remove that option."
        )
    _check_portable(adapter)
    names = [layer.canonical for layer in adapter.layers]
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice:
        raise UnsupportedError(f"{adapter.name}: two layers would both be named {twice}. Remove --naming kohya.")


def _check_portable(adapter: Adapter) -> None:
    table = layers(adapter.family) if adapter.family else {}
    rows = [(layer.stem, table.get(layer.canonical or "")) for layer in adapter.layers]
    pieces = [stem for stem, row in rows if row is not None and not row.portable]
    if pieces and adapter.family:
        raise UnsupportedError(
            f"{adapter.name}: --naming kohya: {len(pieces)} layers (first {pieces[0]}) are pieces of weights that "
            f"{adapter.family.name} holds whole, and no host reads such pieces with kohya's names. Remove that option."
        )


def _copied(adapter: Adapter, style: Style) -> list[tuple[TensorSpec, Copied]]:
    """Return the copied tensors. A lone alpha is dropped: A1111 and diffusers refuse a whole file because of it."""
    found = []
    for source in adapter.copied:
        if source.why == LONE_ALPHA.name:
            continue
        spec = _made_spec(source, source.made, style) if source.made is not None else _spec_of(source, adapter)
        found.append((_renamed(spec, source, adapter) if style.kohya else spec, source))
    return found


def _spec_of(source: Copied, adapter: Adapter) -> TensorSpec:
    entry = adapter.files[source.source].header.entries[source.key]
    return TensorSpec(source.key, entry.dtype, entry.shape)


def _made_spec(source: Copied, values: Single, style: Style) -> TensorSpec:
    """Return the spec of a new tensor. float8 is for factors only, whose range alpha corrects."""
    dtype = source.dtype or {None: "F32", "F8_E4M3": "F16"}.get(style.dtype, style.dtype)
    assert dtype is not None
    return TensorSpec(source.key, dtype, values.shape)


_KOHYA_SUFFIX = {"magnitude": ".dora_scale", "up_bias": ".diff_b"}


def _renamed(spec: TensorSpec, source: Copied, adapter: Adapter) -> TensorSpec:
    name = canonical_id(source.stem, adapter.family) if adapter.family else None
    if name is None:
        return spec
    parted = parse_key(source.key)
    renamed = spec._replace(name=name + _KOHYA_SUFFIX.get(parted.role, parted.suffix))
    if parted.role == "magnitude" and len(spec.shape) == 1:  # a vector over rows, where kohya's readers want a column
        return renamed._replace(shape=(spec.shape[0], 1))
    return renamed


def _ordered(specs: list[TensorSpec], copied: list[tuple[TensorSpec, Copied]]) -> tuple[TensorSpec, ...]:
    return tuple(file_order([*specs, *(spec for spec, _ in copied)]))
