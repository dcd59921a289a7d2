"""What the names of a file's layers mean in a family: found once for all files that say the same of their tensors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ...names.families import attention_group
from ...names.family import Family, layers
from ...names.identify import identify_layers
from ..layer import NamedLayer
from .fused import duplicate_layers, row_cuts


class LayerNaming(NamedTuple):
    """The meaning of the name of one layer."""

    stem: str
    canonical: str | None = None
    """Its canonical id; None where the family or the layer is unknown."""
    kernel: tuple[int, ...] = ()
    """(height, width) of its kernel in the family; empty for Linear."""
    cuts: tuple[int, ...] = ()
    """Rows at which the pieces of a fused layer begin, without the first."""


class FileNaming(NamedTuple):
    """The meaning of the names of the layers of one file."""

    family: Family | None
    layers: tuple[LayerNaming, ...]
    """One for each layer, in the order of the file."""
    together: tuple[tuple[int, ...], ...]
    """Groups of layers, by index, that a host applies only if all are present."""
    notes: tuple[str, ...]


def naming_of(sizes: Mapping[str, tuple[int, int]], hints: tuple[str, str]) -> FileNaming:
    """Return the meaning of names. `sizes` maps each stem to (n, m) of its delta; `hints` as in `identify_layers`."""
    family, names = identify_layers(sizes, hints)
    if family is None:
        return FileNaming(None, tuple(map(LayerNaming, sizes)), (), ())
    found = tuple(_naming(stem, names.get(stem), size[0], family) for stem, size in sizes.items())
    return FileNaming(family, found, groups_together(found, family), tuple(_held_twice(found, family)))


def _naming(stem: str, canonical: str | None, rows: int, family: Family) -> LayerNaming:
    if canonical is None:
        return LayerNaming(stem)
    kernel = layers(family)[canonical].shape[2:]
    return LayerNaming(stem, canonical, kernel, row_cuts(canonical, rows, family))


def _held_twice(named: Iterable[NamedLayer], family: Family) -> Iterator[str]:
    twice = duplicate_layers(named, family)
    if twice:
        yield (
            f"{len(twice)} layers are in the file twice (first {twice[0]}), in two key formats or in pieces and whole; "
            f"hosts use one of them, and all are resized"
        )


def groups_together(named: Iterable[NamedLayer], family: Family | None) -> tuple[tuple[int, ...], ...]:
    """Return groups of indices of layers that a host applies only if all are present, without incomplete groups."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, layer in enumerate(named):
        group = attention_group(layer.canonical, family) if family and layer.canonical else None
        if group is not None:
            groups[group].append(index)
    return tuple(tuple(group) for group in groups.values() if len(group) == 4)
