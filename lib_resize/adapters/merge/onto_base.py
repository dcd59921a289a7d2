"""Merge layers that depend on the base model with its weights, so that they no longer do.

With the base weight W known, GLoRA's ``scale (B + W A)`` is exactly a LoRA of rank 2 r, with ``[b_up, W a_up]`` as up
and ``[b_down; a_down]`` as down. DoRA's change of a weight, ``m V / ||V|| - W`` with ``V = W + delta``, is of full
rank: a difference in full. So are the changes by IA3, OFT and BOFT (see `rotations`), whose keys are copied when a file
is resized alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...errors import LayerError, UnsupportedError
from ...files.header import DTYPE_BYTES
from ...files.reader import SafeFile
from ...linalg.casts import STORAGE, Single, singles
from ...linalg.dora import DoraWeight
from ...linalg.factor import Factor
from ...linalg.finite import check_finite, without_float_warnings
from ...linalg.lazy import LazyMatrix, materialise
from ...names.family import Family
from ...names.identify import canonical_id
from ..forms.form import Form, Tensors
from ..forms.full import Full
from ..forms.glora import Glora
from ..forms.lora import LowRank
from ..keys.registry import BASE_DEPENDENT
from ..keys.suffixes import ParsedKey, parse_key
from ..layer import Adapter, Copied, Layer
from ..read.scales import ScaleConfig, find_configs
from .rotations import WeightChange, WeightInfo, weight_change

ReadWeight = Callable[[], Factor]
"""Reads a base weight, (n, m)."""


@dataclass(frozen=True)
class MergeBaseWeight:
    """A weight of the base model."""

    info: WeightInfo
    read: ReadWeight


@dataclass(frozen=True)
class MergeBase:
    """The base model that layers are merged with."""

    title: str
    """Its name in messages."""
    family: Family | None
    weight_for: Callable[[Layer], ReadWeight | None]
    """The weight of a layer of known size; None if there is none."""
    find_weight: Callable[[str | None, str], MergeBaseWeight | None]
    """The weight with a canonical id or a stem, of any size."""


def depends_on_base(adapter: Adapter) -> bool:
    """Return whether some layers change the weight in a way that depends on the base model."""
    return any(layer.form.needs_base for layer in adapter.layers) or requires_base(adapter)


def requires_base(adapter: Adapter) -> bool:
    """Return whether some layers cannot be scaled as they are stored. GLoRA can."""
    return any(layer.magnitude for layer in adapter.layers) or any(one.why in BASE_DEPENDENT for one in adapter.copied)


def magnitudes(file: SafeFile, key: ParsedKey) -> Single:
    """Return DoRA's magnitudes for `linalg.dora`, float32.

    Those of PEFT and ai-toolkit belong to outputs, in any shape.

    Raises LayerError for integers.
    """
    dtype = file.header.entries[key.key].dtype
    if dtype not in STORAGE:
        raise LayerError(f"{key.key} has dtype {dtype}; floating point was expected")
    values = singles(file.bits(key.key), dtype)
    return values if key.suffix == ".dora_scale" else values.reshape(-1)


def merge_onto_base(adapter: Adapter, base: MergeBase) -> Adapter:
    """Return the adapter with its base-dependent layers merged with the base model.

    GLoRA and DoRA layers without a base weight are kept. Values are computed when they are accessed. Raises
    UnsupportedError if a multiplier or rotation has no base weight or an unsupported layout; LayerError and
    DamagedFileError where its tensors do not fit.
    """
    family = adapter.family if adapter.layers else base.family
    layers = [_onto_base(layer, adapter.files[0], base) for layer in adapter.layers]
    made = dict(_merged_copies(adapter, family, base))
    settled = {new.stem for new, old in zip(layers, adapter.layers, strict=True) if new is not old}
    if not settled and not made:
        return adapter
    gone = {"DoRA magnitude": settled, **dict.fromkeys(BASE_DEPENDENT, made.keys())}
    return replace(
        adapter,
        layers=(*layers, *made.values()),
        copied=tuple(one for one in adapter.copied if one.stem not in gone.get(one.why, ())),
        family=family,
        notes=(*adapter.notes, _note(adapter, len(settled) + len(made), base.title)),
        converted=True,
    )


def overlap_warnings(before: Sequence[Adapter], after: Sequence[Adapter]) -> list[str]:
    """Return a warning if layers that were merged with the base model are changed by other LoRAs of a merge as well.

    Hosts add one LoRA after another, and apply such a layer to the weight with all LoRAs before it. A merge applies it
    to the base weight.
    """
    names = [{layer.canonical or layer.stem for layer in adapter.layers} for adapter in after]
    count = 0
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        stored = {id(layer) for layer in old.layers}
        made = {layer.canonical or layer.stem for layer in new.layers if id(layer) not in stored}
        count += len(made & set().union(*names[:index], *names[index + 1 :]))
    if not count:
        return []
    return [
        f"{count} layers (such as IA3, OFT or DoRA) depend on the base weights, which other LoRAs in this merge change "
        "as well. They were merged with the unmodified base model, so images differ slightly from those with the "
        "separate LoRAs"
    ]


def _note(adapter: Adapter, count: int, title: str) -> str:
    kinds = {layer.form.kind for layer in adapter.layers if layer.form.needs_base}
    kinds |= {"DoRA" for layer in adapter.layers if layer.magnitude}
    kinds |= BASE_DEPENDENT.intersection(one.why for one in adapter.copied)
    listed = ", ".join(sorted(kinds))
    return f"{adapter.name}: {count} layers ({listed}) were merged with {title} and fit only that model"


def _onto_base(layer: Layer, file: SafeFile, base: MergeBase) -> Layer:
    if layer.magnitude is None and not layer.form.needs_base:
        return layer
    weight = base.weight_for(layer)
    if weight is None:
        return layer
    form: Form | None = layer.form.converted()
    if isinstance(layer.form, Glora):
        form = layer.form.with_base(LazyMatrix(layer.size, lambda: materialise(weight())))
    assert form is not None
    if layer.magnitude is not None:
        form = _normalised(layer, form, weight, magnitudes(file, layer.magnitude))
    parts = {role: part for role, part in layer.parts.items() if role in ("up", "down", "alpha")}
    return replace(layer, form=form, parts=parts, magnitude=None)


def _normalised(layer: Layer, form: Form, weight: ReadWeight, magnitude: Single) -> Full:
    def added(base: Single) -> Single:
        return np.asarray(DoraWeight(base, magnitude).effective_weight(_delta(form)) - base, np.float32)

    return _difference(layer.stem, WeightInfo(layer.size, layer.form.kernel), weight, added, max(form.dtypes))


def _difference(stem: str, weight: WeightInfo, read: ReadWeight, added: WeightChange, dtype: str) -> Full:
    def make() -> Single:
        try:
            with without_float_warnings():
                found = added(materialise(read()))
            check_finite("the change of its base weight", found)
            return found
        except LayerError as error:
            raise LayerError(f"layer {stem}: {error}") from error

    n, m = weight.size
    return Full(LazyMatrix((n, m), make), (n, m // weight.taps, *weight.kernel), dtype)


def _delta(form: Form) -> Single:
    if isinstance(form, Full):
        return np.asarray(np.float32(form.scale) * materialise(form.matrix))
    assert isinstance(form, LowRank)
    return np.asarray(np.float32(form.scale) * (materialise(form.pair.up) @ materialise(form.pair.down)))


# Multipliers and rotations ------------------------------------------------------------------------------------


def _merged_copies(adapter: Adapter, family: Family | None, base: MergeBase) -> Iterator[tuple[str, Layer]]:
    """Yield the stem in the file, and the layer that its keys become."""
    stems: dict[str, list[Copied]] = defaultdict(list)
    for one in adapter.copied:
        if one.why in BASE_DEPENDENT:
            stems[one.stem].append(one)
    file = adapter.files[0]
    configs = find_configs(file.path, adapter.metadata, list(stems)) if stems else []
    for stem, keys in stems.items():
        name = canonical_id(stem, family) if family else None
        weight = _base_weight(keys[0], file, name, family, base)
        tensors = Tensors(file, stem, {parse_key(one.key).role: parse_key(one.key) for one in keys}, lambda _: 1.0)
        yield stem, _merged_layer(tensors, weight, name, _settings(configs, stem))


def _base_weight(
    key: Copied, file: SafeFile, name: str | None, family: Family | None, base: MergeBase
) -> MergeBaseWeight:
    foreign = family is not None and base.family is not None and family != base.family
    weight = None if foreign else base.find_weight(name, key.stem)
    if weight is None:
        raise UnsupportedError(
            f"{file.path}: {key.key} ({key.why}): {base.title} has no such layer. Name the checkpoint that it was "
            f"trained on."
        )
    return weight


def _merged_layer(
    tensors: Tensors, weight: MergeBaseWeight, name: str | None, settings: Mapping[str, object] | None
) -> Layer:
    added = weight_change(tensors, weight.info, settings)
    dtype = max((tensors.dtype(role) for role in tensors.used), key=lambda kind: DTYPE_BYTES[kind])
    stem = _lora_stem(tensors.stem)
    return Layer(stem, _difference(stem, weight.info, weight.read, added, dtype), {}, canonical=name)


def _settings(configs: list[ScaleConfig], stem: str) -> Mapping[str, object] | None:
    return next((config.fields for config in configs if stem.startswith(config.prefix)), None)


def _lora_stem(stem: str) -> str:
    """Return the name of a LoRA layer: kohya's OFT has its own prefix, which no host reads for a LoRA."""
    return f"lora_unet_{stem[len(_KOHYA_OFT) :]}" if stem.startswith(_KOHYA_OFT) else stem


_KOHYA_OFT = "oft_unet_"
