"""Find the weight of a base model that a LoRA layer changes.

A layer that the checkpoint stores as a part of a larger tensor is cut out of it; one that it stores in pieces is put
together from them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import prod

from ..names.family import Family, LayerName, flatten, layers
from ..names.key_formats import Prefix, split
from ..names.table_reader import Share
from .model_index import SLOT_PREFIXES
from .weights import BaseModel, BaseWeight, Partner, WeightPiece


def partner(base: BaseModel, canonical_id: str | None, stem: str) -> Partner | None:
    """Return the weight that a LoRA layer changes, or None if the base model has no such layer.

    `canonical_id` is the layer's id in the LoRA's family, None if that is unknown; `stem` is its name in the LoRA file.
    A layer of a known family is found only by its id, so that a LoRA of another family cannot find a weight that has
    the same name by chance. All others are found by their own name, with or without a prefix before it in either file.
    """
    if base.family is not None and canonical_id is not None:
        found = base.weights.get(canonical_id)
        return _from_pieces(base, canonical_id) if found is None else Partner((found,))
    prefix, body = split(stem)
    for slot in prefix.slots:
        found = base.generic.get(SLOT_PREFIXES[slot] + flatten(body))
        if found is not None:
            return Partner((found,))
    found = _behind_prefix(base, prefix, body) if 0 in prefix.slots else None
    return None if found is None else Partner((found,))


def _behind_prefix(base: BaseModel, prefix: Prefix, body: str) -> BaseWeight | None:
    """Find a weight of the denoiser by the LoRA's name without a prefix that only one of the two files has."""
    denoiser = SLOT_PREFIXES[0]
    if prefix.flat:
        own = flatten(base.prefix)
        return base.generic.get(denoiser + body.removeprefix(own)) if own else None
    rest = body.partition(".")[2]
    while "." in rest:
        found = base.generic.get(denoiser + flatten(rest))
        if found is not None and _is_numbered(rest):
            return found
        rest = rest.partition(".")[2]
    return None


def _is_numbered(name: str) -> bool:
    """Return whether a name begins with a numbered block, as names behind a prefix do."""
    return name.split(".")[1].isdecimal()


def fitted(found: Partner, size: tuple[int, int], canonical_id: str | None, family: Family | None) -> Partner | None:
    """Return the partner fitted to a layer of this size (n, m); None where a layer of this size cannot change it.

    Only the input layer of the denoiser may have more or fewer columns than the weight: inpainting models, and those
    conditioned on a second image, widen it.
    """
    if found.matrix == size:
        return found
    weight = found.parts[0]
    is_input = family is not None and canonical_id == family.input_layer and len(found.parts) == 1
    kernel = prod(weight.shape[2:])
    if not is_input or weight.transposed or found.matrix[0] != size[0] or size[1] % kernel:
        return None
    return replace(found, width=size[1])


def _from_pieces(base: BaseModel, canonical_id: str) -> Partner | None:
    """Find a layer that the base model stores as a part of a larger tensor, or in several."""
    row = layers(base.family).get(canonical_id) if base.family else None
    if row is None:
        return None
    found = base.pieces.get(row.whole or row.id, ())
    around = next((piece for piece in found if _covers(piece.share, row.share)), None)
    if around is not None:
        return _cut_out(around, row)
    return _stacked(found, row)


def _covers(outer: Share, inner: Share) -> bool:
    return outer.first * inner.of <= inner.first * outer.of and outer.last * inner.of >= inner.last * outer.of


def _cut_out(piece: WeightPiece, row: LayerName) -> Partner | None:
    weight = piece.weight
    if (piece.share.first * row.share.of, piece.share.last * row.share.of) == (
        row.share.first * piece.share.of,
        row.share.last * piece.share.of,
    ):
        return Partner((weight,), swapped=piece.swapped != row.swapped)
    rows = row.share.rows(weight.shape[0]) if piece.share.is_whole and not piece.swapped else None
    if rows is None:
        return None
    return Partner((replace(weight, rows=rows, shape=(rows[1] - rows[0], *weight.shape[1:])),))


def _stacked(found: Iterable[WeightPiece], row: LayerName) -> Partner | None:
    """Join the pieces that cover the layer's rows without gap or overlap; None where they do not."""
    of = max((piece.share.of for piece in found), default=1)
    end, parts = row.share.first * of // row.share.of, []
    for piece in sorted(found, key=lambda piece: (piece.share.first, piece.share.last)):
        inside = piece.share.of == of and piece.share.last * row.share.of <= row.share.last * of
        if inside and piece.share.first == end and not piece.swapped:
            parts.append(piece.weight)
            end = piece.share.last
    columns = {part.matrix[1] for part in parts}
    if end * row.share.of != row.share.last * of or len(columns) != 1:
        return None
    return Partner(tuple(parts))
