"""Fused layers and their pieces, from the table of the family: where rows are cut, and what a file holds twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Set
from functools import cache

from ...names.family import Family, layers
from ...names.table_reader import WHOLE, Share
from ..layer import NamedLayer


def row_cuts(name: str | None, rows: int, family: Family) -> tuple[int, ...]:
    """Return the rows at which the pieces of a layer begin, without the first.

    Empty for a layer that is never cut, and if its rows cannot be divided. `name` is its canonical id.
    """
    own, pieces = _cut(family).get(name or "", (WHOLE, ()))
    count, rest = divmod(rows, own.last - own.first)
    return () if rest else tuple((piece.first - own.first) * count for piece in pieces[1:])


def duplicate_layers(layers_of_file: Iterable[NamedLayer], family: Family | None) -> list[str]:
    """Return the stems of layers that the file has again, in another key format or as a part of a fused layer."""
    if family is None:
        return []
    named = [(layer.stem, layer.canonical) for layer in layers_of_file if layer.canonical is not None]
    table, count = layers(family), Counter(name for _, name in named)
    wholes = {name: table[name].whole for _, name in named}
    return [stem for stem, name in named if count[name] > 1 or wholes[name] in count]


@cache
def _cut(family: Family) -> dict[str, tuple[Share, tuple[Share, ...]]]:
    """Return the id of each layer that another layout cuts -> its share of the whole, and the shares of its pieces.

    All shares are in units of the pieces.
    """
    found = {}
    for whole, members in _pieces_by_whole(family).items():
        of = members[0][1].of
        for name, own in ((whole, Share(0, of, of)), *members):
            inside = {share for other, share in members if other not in (whole, name) and _is_inside(share, own)}
            smallest = _smallest(inside)
            if len(smallest) > 1:
                found[name] = (own, smallest)
    return found


def _pieces_by_whole(family: Family) -> dict[str, list[tuple[str, Share]]]:
    """Return the id of each fused weight -> the ids and shares of its pieces."""
    found: dict[str, list[tuple[str, Share]]] = {}
    for row in layers(family).values():
        if row.whole is not None and row.share.of > 1:
            found.setdefault(row.whole, []).append((row.id, row.share))
    return found


def _smallest(shares: Set[Share]) -> tuple[Share, ...]:
    """Return the shares that contain no other one, in the order of their rows."""
    smallest = (share for share in shares if not any(_is_inside(other, share) for other in shares - {share}))
    return tuple(sorted(smallest, key=lambda share: share.first))


def _is_inside(inner: Share, outer: Share) -> bool:
    return outer.first <= inner.first and inner.last <= outer.last
