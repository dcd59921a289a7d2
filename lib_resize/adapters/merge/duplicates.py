"""Layers that a file of a merge has twice, in two key formats or in pieces and whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ...errors import UnsupportedError
from ...names.family import Family
from ...names.key_formats import flat_name
from ..forms.lora import LowRank
from ..layer import Adapter, Layer
from ..read.fused import duplicate_layers


def without_duplicates(adapter: Adapter) -> Adapter:
    """Return the adapter without layers that it has again in another key format, with equal values.

    Raises UnsupportedError if the values differ, or one is a piece of the other: hosts use one of them, but not all the
    same one.
    """
    found: dict[str, Layer] = {}
    for layer in adapter.layers:
        place = (layer.canonical if adapter.family else None) or flat_name(layer.stem)
        first = found.setdefault(place, layer)
        if first is not layer and not _is_alike(first, layer):
            raise _duplicate_error(adapter, first.stem, layer.stem)
    twice = duplicate_layers(found.values(), adapter.family)
    if twice:
        raise _duplicate_error(adapter, twice[0], "a layer that contains it or is a part of it")
    gone = {layer.stem for layer in adapter.layers} - {layer.stem for layer in found.values()}
    copied = tuple(one for one in adapter.copied if one.stem not in gone)
    return replace(adapter, layers=tuple(found.values()), copied=copied) if gone else adapter


def _is_alike(one: Layer, other: Layer) -> bool:
    first, second = one.form, other.form
    if not isinstance(first, LowRank) or not isinstance(second, LowRank) or first.scale != second.scale:
        return False
    pairs = ((first.pair.up, second.pair.up), (first.pair.down, second.pair.down))
    return all(a.shape == b.shape and a.kind == b.kind and np.array_equal(a.bits, b.bits) for a, b in pairs)


def _duplicate_error(adapter: Adapter, one: str, other: str) -> UnsupportedError:
    return UnsupportedError(
        f"{adapter.paths[0]}: {one} and {other} are one weight in two key formats, with different values. Hosts use "
        f"one of them, but not all the same one, so the result of a merge is ambiguous. Remove one of the two, or "
        f"resize that file alone."
    )


def check_no_duplicates(layers: Sequence[Layer], family: Family | None, name: str, files: int) -> None:
    """Raise UnsupportedError if a merge would have a weight in two key formats."""
    twice = duplicate_layers(layers, family) if files > 1 else []
    if twice:
        raise UnsupportedError(
            f"merge {name}: {twice[0]} would be in the result in two key formats. Merge other files."
        )
