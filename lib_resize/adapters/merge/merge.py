"""Merge several LoRAs exactly: the factors of equal layers are joined, so that their deltas add up.

Key formats, ranks, kinds and sets of layers may differ (see `common_names`). A layer of another kind than LoRA is
converted to its exact factors first. If the ranks add up to more than a matrix has, deltas are summed in full.
Differences of biases and norms are added as well (see `vectors`). Layers that depend on the base model (DoRA, GLoRA,
rotations, multipliers) are refused here; `onto_base` merges them with a known base model. Replaced weights are refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Protocol

import numpy as np

from ...errors import LayerError, UnsupportedError
from ...files.header import DTYPE_BYTES
from ...files.metadata import shared_metadata
from ...linalg.casts import UNIT_ROUNDOFF, Single
from ...linalg.factor import Factor, Joined, LeadingSlice, Pair
from ...linalg.finite import without_float_warnings
from ...linalg.lazy import LazyMatrix, materialise
from ...names.family import Family
from ...names.identify import canonical_id
from ...names.key_formats import flat_name
from ..forms.form import Form, inner_product
from ..forms.full import Full
from ..forms.lora import LowRank
from ..keys.registry import BASE_DEPENDENT, EMBEDDING, LONE_ALPHA
from ..keys.suffixes import parse_key
from ..layer import Adapter, Copied, Layer, LayerNames, NamedLayer
from ..read.fused import row_cuts
from ..read.naming import groups_together
from .common_names import CommonNames, RowRange
from .duplicates import check_no_duplicates, without_duplicates
from .vectors import VectorTerm as Vector
from .vectors import summed_vectors, vector_terms


@dataclass(frozen=True)
class _Term:
    """One file's contribution to a layer."""

    layer: Layer
    weight: float
    rows: RowRange | None = None
    """Its rows, if it is a piece of the layer."""


class LayerStrength(Protocol):
    """A strength that differs between layers. Its text describes it."""

    def __call__(self, layer: NamedLayer) -> float:
        """Return the factor of the layer's delta; 0 leaves the layer out."""
        ...


Strength = float | LayerStrength


def merge(adapters: Sequence[Adapter], weights: Sequence[Strength], name: str) -> Adapter:
    """Return the adapter whose deltas are ``sum_i weights[i] * delta_i``. A weight is one number, or a `LayerStrength`.

    Raises UnsupportedError for parts that cannot be added or if nothing is left, LayerError where sizes differ.
    """
    _check(adapters)
    _check_families(adapters, name)
    family = adapters[0].family
    if len(adapters) > 1:
        adapters = [without_duplicates(adapter) for adapter in adapters]
    names = CommonNames(adapters)
    terms = _terms(adapters, weights, names)
    vectors, cancelled = summed_vectors(list(_vectors(adapters, weights, names)), names)
    if not terms:
        raise UnsupportedError(f"merge {name}: every layer has strength 0, so the result would be empty.")
    layers = tuple(_joined(place, found, names, family) for place, found in terms.items())
    check_no_duplicates(layers, family, name, len(adapters))
    return Adapter(
        name=name,
        files=tuple(file for adapter in adapters for file in adapter.files),
        metadata=shared_metadata([adapter.metadata for adapter in adapters]),
        layers=layers,
        copied=(*_embeddings(adapters), *vectors),
        family=family,
        notes=_all_notes(adapters, [*_notes(names, family, cancelled)]),
        weights=tuple(weight if isinstance(weight, (int, float)) else str(weight) for weight in weights),
        together=groups_together(layers, family),
    )


def _check_families(adapters: Sequence[Adapter], name: str) -> None:
    known = [adapter.family.name if adapter.family else "unknown" for adapter in adapters]
    if len(set(known)) > 1:
        listed = ", ".join(f"{adapter.name}: {family}" for adapter, family in zip(adapters, known, strict=True))
        raise UnsupportedError(f"merge {name}: the LoRAs are made for different model families ({listed}).")


def _all_notes(adapters: Sequence[Adapter], own: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted({*(note for adapter in adapters for note in adapter.notes), *own}))


def _terms(adapters: Sequence[Adapter], weights: Sequence[Strength], names: CommonNames) -> dict[str, list[_Term]]:
    """Return place -> the layers of the files there, without those of strength 0.

    A single file keeps all its key formats.
    """
    terms: dict[str, list[_Term]] = {}
    for adapter, weight in zip(adapters, weights, strict=True):
        for layer in adapter.layers:
            gain = _strength(weight, layer)
            place = names.place(layer.stem, adapter.family)
            rows = names.row_ranges.get(place)
            if gain:
                terms.setdefault(rows.whole if rows else place, []).append(_Term(layer, gain, rows))
    return terms


def _strength(weight: Strength, layer: NamedLayer) -> float:
    return float(weight) if isinstance(weight, (int, float)) else weight(layer)


def _vectors(adapters: Sequence[Adapter], weights: Sequence[Strength], names: CommonNames) -> Iterator[Vector]:
    for adapter, weight in zip(adapters, weights, strict=True):
        layers: dict[str, NamedLayer] = {layer.stem: layer for layer in adapter.layers}
        stems = dict.fromkeys(one.stem for one in adapter.copied if one.is_vector)
        strengths = {stem: _strength(weight, layers.get(stem) or _name(stem, adapter.family)) for stem in stems}
        places = {stem: names.place(stem, adapter.family) for stem in stems}
        yield from vector_terms(adapter.copied, adapter.files, places, strengths)


def _name(stem: str, family: Family | None) -> LayerNames:
    return LayerNames(stem, (canonical_id(stem, family) if family else None) or flat_name(stem))


def _notes(names: CommonNames, family: Family | None, cancelled: Sequence[str]) -> Iterator[str]:
    if names.is_renamed and family is None:
        yield "the LoRAs have different key formats and an unknown family: layers with the same words were added"
    if names.row_ranges:
        wholes = len({rows.whole for rows in names.row_ranges.values()})
        yield f"{len(names.row_ranges)} pieces of fused weights were merged as rows of {wholes} whole weights"
    if cancelled:
        yield f"{len(cancelled)} vectors cancel each other and are left out (first {cancelled[0]})"


def with_leading_ranks(adapter: Adapter, count: int) -> Adapter:
    """Return the adapter with at most `count` ranks in each LoRA layer, in stored order, at the same scale.

    Layers of other kinds are kept whole, as in A1111.
    """
    return replace(adapter, layers=tuple(_first_ranks(layer, count) for layer in adapter.layers))


def _first_ranks(layer: Layer, count: int) -> Layer:
    form = layer.form
    if not isinstance(form, LowRank) or form.rank <= count:
        return layer
    pair = form.pair
    cut = Pair(LeadingSlice(pair.up, count, axis=1), LeadingSlice(pair.down, count, axis=0), pair.scale)
    up, down = (form.up_shape[0], count, *form.up_shape[2:]), (count, *form.down_shape[1:])
    return replace(layer, form=replace(form, pair=cut, up_shape=up, down_shape=down))


def _check(adapters: Sequence[Adapter]) -> None:
    for adapter in adapters:
        for copied in adapter.copied:
            if copied.why in BASE_DEPENDENT:
                raise UnsupportedError(
                    f"{adapter.paths[copied.source]}: {copied.key} ({copied.why}) acts on the base model's weights, so "
                    f"this file cannot be merged without them. Name the checkpoint that it was trained on."
                )
            if not copied.is_vector and copied.why not in (EMBEDDING.name, LONE_ALPHA.name):
                if parse_key(copied.key).role == "alpha":
                    continue  # of a difference of a vector, which no reader multiplies by it
                way = _RESIZE_ALONE if copied.why != "DoRA magnitude" else _GIVE_CHECKPOINT
                raise UnsupportedError(
                    f"{adapter.paths[0]}: {copied.key} ({copied.why}) cannot be added to other LoRAs, so this "
                    f"file cannot be merged. {way}"
                )


_RESIZE_ALONE = "Resize it alone."
_GIVE_CHECKPOINT = "Name the checkpoint that it was trained on, with this layer, or resize the file alone."


# Layers


def _joined(place: str, terms: list[_Term], names: CommonNames, family: Family | None) -> Layer:
    first = terms[0].layer
    if len(terms) == 1 and terms[0].rows is None:
        return _alone(place, terms[0], names)
    terms = [_in_whole(term, family) for term in terms]
    for term in terms[1:]:
        if term.layer.size != terms[0].layer.size:
            raise LayerError(
                f"layer {place}: sizes {terms[0].layer.size} and {term.layer.size} differ; these LoRAs do not fit."
            )
    stem = names.name(place)
    name = place if terms[0].rows else first.canonical
    parts = names.parts(stem)
    if stem == first.stem and "alpha" in first.parts and parts["up"].suffix == first.suffix("up"):
        parts["alpha"] = first.parts["alpha"]
    cancels = partial(_is_rounding, terms) if len(terms) > 1 else None
    return Layer(stem, _sum(place, terms), parts, canonical=name, cancels=cancels)


def _alone(place: str, term: _Term, names: CommonNames) -> Layer:
    """Return a layer that only one file has; it keeps its kind."""
    layer = replace(term.layer, form=term.layer.form.times(term.weight))
    if len(names.adapters) == 1:
        return layer
    stem = names.name(place)
    parts = names.parts(stem) if isinstance(layer.form, LowRank) else {}
    if stem != layer.stem:
        return replace(layer, stem=stem, parts=parts)
    if parts and parts["up"].suffix != layer.suffix("up"):
        return replace(layer, parts=parts)
    return layer


def _in_whole(term: _Term, family: Family | None) -> _Term:
    """Return the term with its delta as rows of the whole."""
    if term.rows is None:
        return term
    form = _known_form(term.layer.stem, term.layer)
    place = partial(term.rows.placed, stem=term.layer.stem)
    total = term.rows.within(form.size[0], term.layer.stem)[2]
    if isinstance(form, Full):
        matrix = LazyMatrix((total, form.size[1]), lambda: place(materialise(form.matrix)))
        return replace(
            term, layer=replace(term.layer, form=replace(form, matrix=matrix, shape=(total, *form.shape[1:])))
        )
    assert isinstance(form, LowRank)
    up = LazyMatrix((total, form.rank), lambda: place(materialise(form.pair.up)))
    found = replace(form, pair=replace(form.pair, up=up), up_shape=(total, *form.up_shape[1:]))
    cuts = row_cuts(term.rows.whole, total, family) if family else ()
    return replace(term, layer=replace(term.layer, form=found.with_row_cuts(cuts)))


def _is_rounding(terms: Sequence[_Term], norm: float) -> bool:
    """Return whether a sum of that Frobenius norm may be nothing but the rounding errors of terms that cancel."""

    def left(length: Callable[[Form], float]) -> float:
        forms = [(term, term.layer.form) for term in terms]
        with without_float_warnings():
            return math.hypot(*(_roundoff(form) * abs(term.weight) * length(form) for term, form in forms))

    return norm <= left(_at_most) and norm <= left(_length) < math.inf


def _roundoff(form: Form) -> float:
    return max(UNIT_ROUNDOFF[kind] for kind in form.dtypes)


def _at_most(form: Form) -> float:
    """Return an upper bound of the Frobenius norm of the delta that is far cheaper than the norm."""
    if not isinstance(form, LowRank):
        return math.inf
    lengths = (float(np.linalg.norm(materialise(factor))) for factor in (form.pair.up, form.pair.down))
    return abs(form.scale) * math.prod(lengths)


def _length(form: Form) -> float:
    """Return the Frobenius norm of the delta."""
    known = form.converted()
    if isinstance(known, LowRank):
        return math.sqrt(max(inner_product(known.pair, known.pair), 0.0))
    assert isinstance(known, Full)
    return abs(known.scale) * float(np.linalg.norm(materialise(known.matrix)))


def _sum(key: str, terms: list[_Term]) -> Form:
    """Return the sum of the deltas: factors joined, or in full if that is not of low rank."""
    forms = [_known_form(key, term.layer) for term in terms]
    weights = [term.weight for term in terms]
    dtype = max((kind for form in forms for kind in form.dtypes), key=lambda kind: DTYPE_BYTES[kind])
    if _is_low_rank(forms, terms):
        return _side_by_side(forms, weights, dtype)
    n, m = forms[0].size
    kernel = next((form.kernel for form in forms if form.kernel), ())
    return Full(_added(forms, weights), (n, m // prod(kernel), *kernel), dtype)


def _is_low_rank(forms: Sequence[Form], terms: Sequence[_Term]) -> bool:
    """Return whether the sum is written as a pair: its rank is below that of the matrix, or all terms are LoRAs.

    A rank above that of the matrix is then the LoRAs' own, and the sum is no larger than they are.
    """
    pairs = [form.pair for form in forms if isinstance(form, LowRank)]
    if len(pairs) < len(forms):
        return False
    all_lora = all(isinstance(term.layer.form, LowRank) for term in terms)
    return all_lora or sum(pair.rank for pair in pairs) <= min(pairs[0].size)


def _known_form(key: str, layer: Layer) -> Form:
    form = layer.form.converted()
    if form is None:
        raise UnsupportedError(
            f"layer {key} ({layer.form.kind}): its delta depends on the base model, so it cannot be merged. "
            f"{_GIVE_CHECKPOINT}"
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
            found += np.float32(weight * form.scale) * _unscaled(form)
        return found

    return LazyMatrix(forms[0].size, make)


def _unscaled(form: Form) -> Single:
    """Return the delta in full, without its scale."""
    if isinstance(form, Full):
        return materialise(form.matrix)
    assert isinstance(form, LowRank)
    return np.asarray(materialise(form.pair.up) @ materialise(form.pair.down))


def _embeddings(adapters: Sequence[Adapter]) -> list[Copied]:
    """Return the embeddings of all files; of two with one name the first."""
    found: dict[str, Copied] = {}
    start = 0
    for adapter in adapters:
        for copied in adapter.copied:
            if copied.why == EMBEDDING.name:
                found.setdefault(copied.key, Copied(copied.key, copied.why, copied.stem, start + copied.source))
        start += len(adapter.files)
    return list(found.values())
