"""Several LoRAs as one, exactly: the factors of equal layers are put side by side, so deltas add up.

Layers meet under their canonical names, so spellings, ranks, kinds and sets of layers may differ: a layer of another
kind than LoRA enters by its exact factors, and where the ranks add up to more than a matrix has, deltas are summed in
full. Differences of biases and norms are added, each at its layer's strength. What rests on the base model (DoRA,
GLoRA, rotations, multipliers; see `grounded` for those whose base is known), and a sum that we do not make (whole
weights), is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Protocol

import numpy as np

from ..errors import LayerError, UnsupportedError
from ..files.header import DTYPE_BYTES
from ..files.stamp import agreed
from ..linalg.casts import Single
from ..linalg.factor import Factor, Joined, Leading, Pair
from ..linalg.made import Made, numbers
from .forms.form import Form
from .forms.full import Full
from .forms.lora import LowRank
from .layer import Adapter, Copied, Layer
from .read import groups_together
from .registry import EMBEDDING, ORPHAN, RESTING
from .suffixes import Part, part


@dataclass(frozen=True)
class _Term:
    """One file's contribution to a layer."""

    layer: Layer
    weight: float


class Gain(Protocol):
    """A strength that differs between layers. Its text says it in words."""

    def __call__(self, layer: Layer) -> float:
        """What the layer's delta is multiplied by; 0 leaves the layer out."""
        ...


Weight = float | Gain


def merge(adapters: Sequence[Adapter], weights: Sequence[Weight], name: str) -> Adapter:
    """The adapter whose deltas are ``sum_i weights[i] * delta_i``; a weight is one number, or one for each layer.

    Raises UnsupportedError for parts that cannot be added or where nothing is left, LayerError where sizes differ.
    """
    _check(adapters)
    vectors = _vectors(adapters, weights)
    family = adapters[0].family
    if len({adapter.family.name if adapter.family else None for adapter in adapters}) > 1:
        families = ", ".join(f"{a.name}: {a.family.name if a.family else 'unknown'}" for a in adapters)
        raise UnsupportedError(f"merge {name}: the LoRAs are made for different model families ({families}).")
    terms: dict[str, list[_Term]] = {}
    for adapter, weight in zip(adapters, weights, strict=True):
        for layer in adapter.layers:
            gain = weight if isinstance(weight, (int, float)) else weight(layer)
            if gain:
                terms.setdefault(layer.canonical or layer.stem, []).append(_Term(layer, gain))
    if not terms:
        raise UnsupportedError(f"merge {name}: every layer has strength 0, so nothing would be left.")
    respell = _spellings_differ(terms)
    if respell and vectors:
        raise _cannot_add(adapters, vectors[0], "its layers are spelled differently in the other files")
    layers = tuple(_joined(key, found, respell) for key, found in terms.items())
    return Adapter(
        name=name,
        files=tuple(file for adapter in adapters for file in adapter.files),
        metadata=agreed([adapter.metadata for adapter in adapters]),
        layers=layers,
        copied=(*_embeddings(adapters), *vectors),
        family=family,
        notes=tuple(sorted({note for adapter in adapters for note in adapter.notes})),
        weights=tuple(weight if isinstance(weight, (int, float)) else str(weight) for weight in weights),
        together=groups_together(layers, family),
    )


def first_ranks(adapter: Adapter, count: int) -> Adapter:
    """The adapter with at most `count` ranks in each LoRA layer, the first as they are stored, at the scale it has.

    Layers of other kinds stay whole, as in A1111.
    """
    return replace(adapter, layers=tuple(_first_ranks(layer, count) for layer in adapter.layers))


def _first_ranks(layer: Layer, count: int) -> Layer:
    form = layer.form
    if not isinstance(form, LowRank) or form.rank <= count:
        return layer
    pair = form.pair
    cut = Pair(Leading(pair.up, count, axis=1), Leading(pair.down, count, axis=0), pair.scale)
    up, down = (form.up_shape[0], count, *form.up_shape[2:]), (count, *form.down_shape[1:])
    return replace(layer, form=replace(form, pair=cut, up_shape=up, down_shape=down))


def _check(adapters: Sequence[Adapter]) -> None:
    for adapter in adapters:
        for copied in adapter.copied:
            if copied.why in RESTING:
                raise UnsupportedError(
                    f"{adapter.paths[copied.source]}: {copied.key} ({copied.why}) acts on the base model's weights, so "
                    f"that this file cannot be merged without them. Name the checkpoint that it was trained on."
                )
            if copied.why not in (EMBEDDING.name, ORPHAN.name, *_VECTORS):
                way = _ALONE if copied.why != "DoRA magnitude" else _BESIDE
                raise UnsupportedError(
                    f"{adapter.paths[0]}: {copied.key} ({copied.why}) cannot be added to other LoRAs by joining "
                    f"factors, so this file cannot be merged. {way}"
                )


_ALONE = "Resize it alone."
_BESIDE = "Name the checkpoint that it was trained on, one that has this layer, or resize it alone."


_VECTORS = ("bias difference", "bias of up", "norm")


def _vectors(adapters: Sequence[Adapter], weights: Sequence[Weight]) -> list[Copied]:
    """Differences of biases and norms, each times the strength of its layer; those of one key are added.

    Raises UnsupportedError where two files have one under different keys or of different shapes, and where strengths
    differ between layers for a vector whose layer has no other tensors.
    """
    found: dict[tuple[str, str], Copied] = {}
    start = 0
    for adapter, weight in zip(adapters, weights, strict=True):
        layers = {layer.stem: layer for layer in adapter.layers}
        for copied in adapter.copied:
            if copied.why in _VECTORS:
                here = replace(copied, source=start + copied.source)
                layer = layers.get(copied.stem)
                gain = _strength(adapters, here, layer, weight) * (1.0 if copied.gain is None else copied.gain)
                name = layer.canonical or layer.stem if layer else copied.stem
                place = name, "bias" if copied.why != "norm" else part(copied.key).role
                if gain:
                    found[place] = _with(adapters, found.get(place), replace(here, gain=gain))
        start += len(adapter.files)
    return list(found.values())


def _strength(adapters: Sequence[Adapter], copied: Copied, layer: Layer | None, weight: Weight) -> float:
    if isinstance(weight, (int, float)):
        return float(weight)
    if layer is None:
        raise _cannot_add(adapters, copied, "its layer has no other tensors, so that its strength is unknown")
    return float(weight(layer))


def _with(adapters: Sequence[Adapter], first: Copied | None, other: Copied) -> Copied:
    if first is None:
        return other
    files = [file for adapter in adapters for file in adapter.files]
    shapes = {files[one.source].header.entries[one.key].shape for one in (first, other)}
    if first.key != other.key or len(shapes) > 1:
        raise _cannot_add(adapters, other, f"another file has it as {first.key}, or in another shape")
    return replace(first, added=(*first.added, other))


def _cannot_add(adapters: Sequence[Adapter], copied: Copied, why: str) -> UnsupportedError:
    paths = [path for adapter in adapters for path in adapter.paths]
    return UnsupportedError(
        f"{paths[copied.source]}: {copied.key} ({copied.why}) cannot be added: {why}. Resize that file alone."
    )


def _spellings_differ(terms: dict[str, list[_Term]]) -> bool:
    names = [{(term.layer.stem, term.layer.suffix("up")) for term in found} for found in terms.values()]
    return any(len(found) > 1 for found in names) or len({suffix for found in names for _, suffix in found}) > 1


def _joined(key: str, terms: list[_Term], respell: bool) -> Layer:
    first = terms[0].layer
    for term in terms[1:]:
        if term.layer.size != first.size:
            raise LayerError(f"layer {key}: sizes {first.size} and {term.layer.size} differ; these LoRAs do not fit.")
    if len(terms) == 1:
        return _alone(key, terms[0], respell)
    parts = {role: part for role, part in first.parts.items() if role in ("up", "down", "alpha")}
    stem, parts = (key, _kohya_parts(key)) if respell else (first.stem, parts)
    return Layer(stem, _sum(key, terms), parts, canonical=first.canonical)


def _alone(key: str, term: _Term, respell: bool) -> Layer:
    """A layer that one file alone has keeps its kind."""
    layer = replace(term.layer, form=term.layer.form.times(term.weight))
    if not respell:
        return layer
    parts = _kohya_parts(key) if isinstance(layer.form, LowRank) else {}
    return replace(layer, stem=key, parts=parts)


def _kohya_parts(stem: str) -> dict[str, Part]:
    roles = {"up": ".lora_up.weight", "down": ".lora_down.weight"}
    return {role: Part(stem + suffix, stem, role, suffix) for role, suffix in roles.items()}


def _sum(key: str, terms: list[_Term]) -> Form:
    """The sum of the deltas: factors side by side, or in full where that would not be low rank."""
    forms = [_known_form(key, term.layer) for term in terms]
    dtype = max((kind for form in forms for kind in form.dtypes), key=lambda kind: DTYPE_BYTES[kind])
    kernel = next((form.kernel for form in forms if form.kernel), ())
    pairs = [form.pair for form in forms if isinstance(form, LowRank)]
    if len(pairs) == len(forms) and (sum(pair.rank for pair in pairs) <= min(pairs[0].size) or _all_lora(terms)):
        return _side_by_side(forms, [term.weight for term in terms], dtype)
    n, m = forms[0].size
    shape = (n, m // prod(kernel), *kernel)
    return Full(_added(forms, [term.weight for term in terms]), shape, dtype)


def _all_lora(terms: list[_Term]) -> bool:
    """Ranks above those of the matrix are the LoRAs' own, then, and cost nothing to bear."""
    return all(isinstance(term.layer.form, LowRank) for term in terms)


def _known_form(key: str, layer: Layer) -> Form:
    form = layer.form.converted()
    if form is None:
        raise UnsupportedError(
            f"layer {key} ({layer.form.kind}): its delta is known only together with the base model, so it cannot be "
            f"merged. {_BESIDE}"
        )
    return form


def _side_by_side(forms: list[Form], weights: list[float], dtype: str) -> LowRank:
    pairs = [form.pair for form in forms if isinstance(form, LowRank)]
    gains = tuple(weight * pair.scale for weight, pair in zip(weights, pairs, strict=True))
    pair = Pair(
        up=Joined(tuple(one.up for one in pairs), gains, axis=1),
        down=Joined(tuple(one.down for one in pairs), (1.0,) * len(pairs), axis=0),
    )
    first = forms[0]
    assert isinstance(first, LowRank)
    return LowRank(
        pair,
        (first.up_shape[0], pair.rank, *first.up_shape[2:]),
        (pair.rank, *first.down_shape[1:]),
        (_widest(forms, 0, dtype), _widest(forms, 1, dtype)),
        cuts=first.cuts,
    )


def _widest(forms: list[Form], side: int, dtype: str) -> str:
    kinds = [form.stored[side] if isinstance(form, LowRank) else dtype for form in forms]
    return max(kinds, key=lambda kind: DTYPE_BYTES[kind])


def _added(forms: list[Form], weights: list[float]) -> Factor:
    def make() -> Single:
        found = np.zeros(forms[0].size, np.float32)
        for form, weight in zip(forms, weights, strict=True):
            found += np.float32(weight * form.scale) * _dense(form)
        return found

    return Made(forms[0].size, make)


def _dense(form: Form) -> Single:
    """The delta in full, its scale left away."""
    if isinstance(form, Full):
        return numbers(form.matrix)
    assert isinstance(form, LowRank)
    return np.asarray(numbers(form.pair.up) @ numbers(form.pair.down))


def _embeddings(adapters: Sequence[Adapter]) -> list[Copied]:
    """Embeddings of all files; of two with one name the first stays."""
    found: dict[str, Copied] = {}
    start = 0
    for adapter in adapters:
        for copied in adapter.copied:
            if copied.why == EMBEDDING.name:
                found.setdefault(copied.key, Copied(copied.key, copied.why, copied.stem, start + copied.source))
        start += len(adapter.files)
    return list(found.values())
