"""The draft of a smaller file: its tensors with names, dtypes and shapes, and how each comes about.

Rules that every reader of LoRA files agrees on:

* Layers with kohya's suffixes share one constant alpha c over the whole file, and their factors are scaled so
  that ``c / rank * up @ down`` is the delta: diffusers mis-scales attention layers where alpha differs, and for
  the WebUIs constant alpha is as exact. A file of one uniform rank has c = rank.
* DoRA layers have alpha = rank: some hosts normalise before they scale.
* Layers of other spellings have scale 1: no alpha, or alpha = rank where there was one.
* alpha is a power of two, or a rank, in float32: exact everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import LayerError, UnsupportedError
from ..files.header import TensorSpec, file_order
from ..linalg.arrays import Arrays
from ..linalg.casts import LARGEST, Bits, Single, largest_magnitude, round_to
from ..linalg.factor import Spectrum
from ..linalg.truncate import Kept, truncated
from ..names.spelling import canonical
from .layer import Adapter, Copied, Layer
from .registry import ORPHAN
from .suffixes import part

DTYPES: dict[str, str | None] = {"16": "F16", "32": "F32", "bf16": "BF16", "8": "F8_E4M3", "same": None}
"""What `-t` may be -> the safetensors dtype, or None for that of the source."""

_LARGEST_PRODUCT = 2.0**15  # hosts multiply up and down in float16: half of its largest number
_SMALLEST_ENTRY = 2.0**-11  # typical entry of a layer's first dimension; float16 is fully precise down to 2^-14


@dataclass(frozen=True)
class Style:
    """How the new file is spelled."""

    dtype: str | None = "F16"
    """safetensors dtype of factors; None keeps each layer's own."""
    kohya: bool = False
    """Names in kohya's spelling; else each as it was."""


@dataclass(frozen=True)
class NewLayer:
    """One layer of the new file."""

    index: int
    """Its place among the adapter's layers."""
    layer: Layer
    rank: int
    gain: float
    """Both factors are multiplied by this, so that the scale that readers apply gives the delta."""
    up: TensorSpec
    down: TensorSpec
    alpha: TensorSpec | None
    alpha_value: float


@dataclass(frozen=True)
class Draft:
    """All of a new file but the bytes."""

    layers: tuple[NewLayer, ...]
    copied: dict[str, Copied]
    """New key -> the tensor that is copied there."""
    specs: tuple[TensorSpec, ...]
    """In the order of the file."""

    @property
    def alpha(self) -> float | None:
        """The alpha that all layers share; None where it differs or there is none."""
        values = {new.alpha_value for new in self.layers if new.alpha is not None}
        return values.pop() if len(values) == 1 else None


def draft(adapter: Adapter, strongest: Sequence[float], ranks: Sequence[int], style: Style) -> Draft:
    """Drafts the file in which layer i has `ranks[i]` dimensions, 0 for none, the strongest being `strongest[i]`.

    Raises UnsupportedError where the style cannot be had for this file.
    """
    _check_style(adapter, style)
    every = list(zip(adapter.layers, ranks, strongest, strict=True))
    common = _common_alpha([one for one in every if one[1] and _shares_alpha(one[0], style)], style)
    layers = tuple(_new_layer(i, common, style, *one[:2]) for i, one in enumerate(every) if one[1])
    copied = _copied(adapter, style)
    specs = [spec for new in layers for spec in (new.up, new.down, new.alpha) if spec is not None]
    return Draft(layers, {spec.name: source for spec, source in copied}, _ordered(specs, copied))


Rows = Callable[[NewLayer, Single, int], Single]
"""From a layer, its down (k, m) and a count to so many more rows for it, (count, m)."""


def zeros(_: NewLayer, down: Single, count: int) -> Single:
    """Rows that do nothing."""
    return np.zeros((count, down.shape[1]), np.float32)


def factors(work: Sequence[tuple[NewLayer, Spectrum, Kept]], arrays: Arrays, rows: Rows = zeros) -> dict[str, Bits]:
    """The factors of some new layers by key, as storage arrays, from their spectra and the dimensions they keep.

    Where a layer is to have more dimensions than it keeps, `rows` fill down up, and zeros up.

    Raises LayerError where a number does not fit the dtype.
    """
    exact: dict[TensorSpec, Single] = {}
    for new, spectrum, kept in work:
        up, down = _filled(new, *truncated(new.layer.pair, spectrum, kept, arrays, new.gain), rows)
        for spec, values in ((new.up, up), (new.down, down)):
            _check_fits(new, spec, values)
            exact[spec] = values
    out: dict[str, Bits] = {}
    for dtype in {spec.dtype for spec in exact}:
        out.update(_rounded({spec: values for spec, values in exact.items() if spec.dtype == dtype}, dtype))
    return out


def _filled(new: NewLayer, up: Single, down: Single, rows: Rows) -> tuple[Single, Single]:
    count = new.rank - len(down)
    if not count:
        return up, down
    return np.pad(up, ((0, 0), (0, count))), np.concatenate([down, rows(new, down, count)])


def _check_fits(new: NewLayer, spec: TensorSpec, values: Single) -> None:
    largest = largest_magnitude(values)
    if not largest <= LARGEST[spec.dtype]:
        raise LayerError(
            f"layer {new.layer.stem}: {spec.name} would hold {largest:.3g}, more than {spec.dtype} can. "
            f"Take -t 32 or -t bf16."
        )


def _rounded(exact: dict[TensorSpec, Single], dtype: str) -> Iterator[tuple[str, Bits]]:
    """Rounds all in one go: for small tensors the calls cost more than the numbers."""
    bits = round_to(np.concatenate([values.reshape(-1) for values in exact.values()]), dtype)
    ends = np.cumsum([values.size for values in exact.values()])
    for spec, piece in zip(exact, np.split(bits, ends[:-1]), strict=True):
        yield spec.name, piece


def _shares_alpha(layer: Layer, style: Style) -> bool:
    return (layer.carries_alpha or style.kohya) and (layer.magnitude is None or style.dtype == "F8_E4M3")


def _common_alpha(staying: Sequence[tuple[Layer, int, float]], style: Style) -> float:
    """c of the whole file. Its factors have entries near ``sqrt(s rank / c / n)``; c is lowered by powers of two
    until those of the weakest layer keep their precision in float16, unless products would overflow."""
    ranks = {rank for _, rank, _ in staying}
    if not ranks:
        return 1.0
    strengths = [(s * rank, max(layer.size)) for layer, rank, s in staying if s > 0]
    if not strengths:
        return 1.0
    lowest = 2.0 ** math.ceil(math.log2(max(strength for strength, _ in strengths) / _LARGEST_PRODUCT))
    if style.dtype == "F8_E4M3":
        return lowest
    c = float(ranks.pop()) if len(ranks) == 1 else 2.0 ** math.floor(math.log2(max(ranks)))
    weakest = min(strength / size for strength, size in strengths)
    if weakest / c >= _SMALLEST_ENTRY**2:
        return c
    return max(2.0 ** math.floor(math.log2(weakest / _SMALLEST_ENTRY**2)), min(lowest, c))


def _new_layer(index: int, common: float, style: Style, layer: Layer, rank: int) -> NewLayer:
    shares = _shares_alpha(layer, style)
    alpha = common if shares else float(rank)
    has_alpha = layer.carries_alpha or style.kohya or layer.alpha is not None
    names = _names(layer, style)
    return NewLayer(
        index=index,
        layer=layer,
        rank=rank,
        gain=math.sqrt(rank / alpha),
        up=TensorSpec(names["up"], _dtype(layer.dtypes[0], style), (layer.up_shape[0], rank, *layer.up_shape[2:])),
        down=TensorSpec(names["down"], _dtype(layer.dtypes[1], style), (rank, *layer.down_shape[1:])),
        alpha=TensorSpec(names["alpha"], "F32", ()) if has_alpha else None,
        alpha_value=alpha,
    )


def _dtype(source: str, style: Style) -> str:
    if style.dtype is not None:
        return style.dtype
    return source if source in LARGEST and source != "F64" else {"F64": "F32"}.get(source, "F16")


def _names(layer: Layer, style: Style) -> dict[str, str]:
    if style.kohya:
        assert layer.canonical is not None
        roles = {"up": ".lora_up.weight", "down": ".lora_down.weight", "alpha": ".alpha"}
        return {role: layer.canonical + suffix for role, suffix in roles.items()}
    alpha = layer.alpha.key if layer.alpha else f"{layer.stem}.alpha"
    return {"up": layer.up.key, "down": layer.down.key, "alpha": alpha}


def _check_style(adapter: Adapter, style: Style) -> None:
    if style.kohya:
        _check_kohya(adapter)
    elif style.dtype == "F8_E4M3" and not all(layer.carries_alpha for layer in adapter.layers):
        raise UnsupportedError(
            f"{adapter.name}: -t 8 needs layers that carry alpha, which moves the numbers into the range of fp8; "
            f"this file's spelling has none that all hosts read. Add --naming kohya, or take -t 16."
        )


def _check_kohya(adapter: Adapter) -> None:
    unnamed = [layer.stem for layer in adapter.layers if layer.canonical is None]
    if unnamed:
        raise UnsupportedError(
            f"{adapter.name}: --naming kohya knows no name for {len(unnamed)} of {len(adapter.layers)} layers "
            f"(first {unnamed[0]}; family {adapter.family.name if adapter.family else 'unknown'}). Leave it away."
        )
    names = [layer.canonical for layer in adapter.layers]
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice:
        raise UnsupportedError(f"{adapter.name}: two layers would both be named {twice}. Leave --naming kohya away.")


def _copied(adapter: Adapter, style: Style) -> list[tuple[TensorSpec, Copied]]:
    """What goes along. An alpha without factors makes A1111 and diffusers refuse a whole file, so it stays behind."""
    found = []
    for source in adapter.copied:
        if source.why == ORPHAN.name:
            continue
        entry = adapter.files[source.source].header.entries[source.key]
        spec = TensorSpec(source.key, entry.dtype, entry.shape)
        found.append((_renamed(spec, source, adapter) if style.kohya else spec, source))
    return found


_KOHYA_SUFFIX = {"magnitude": ".dora_scale", "up_bias": ".diff_b"}


def _renamed(spec: TensorSpec, source: Copied, adapter: Adapter) -> TensorSpec:
    name = canonical(source.stem, adapter.family) if adapter.family else None
    if name is None:
        return spec
    parted = part(source.key)
    renamed = replace(spec, name=name + _KOHYA_SUFFIX.get(parted.role, parted.suffix))
    if parted.role == "magnitude" and len(spec.shape) == 1:  # a vector over rows, where kohya's readers want a column
        return replace(renamed, shape=(spec.shape[0], 1))
    return renamed


def _ordered(specs: list[TensorSpec], copied: list[tuple[TensorSpec, Copied]]) -> tuple[TensorSpec, ...]:
    return tuple(file_order([*specs, *(spec for spec, _ in copied)]))
