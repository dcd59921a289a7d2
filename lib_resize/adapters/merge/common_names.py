"""One name for each weight of a merge, for files in any key formats.

Layers of several files are matched by *place*: a weight's canonical id, or its flat name if the family does not know
it. The result keeps the names of its files if they agree. Else it has one key format: the family's flat names, which
hosts read, or, for an unknown family, the prefixes of one of the files. If one file has a weight whole and another has
pieces of it, or if hosts do not read a piece under a flat name, the pieces become rows of the whole.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from ...errors import LayerError, UnsupportedError
from ...linalg.casts import Single
from ...names.family import Family, LayerName, flatten, layers
from ...names.identify import canonical_id
from ...names.key_formats import UNKNOWN, Prefix, flat_name, key_format_of, slot_of, split
from ..keys.suffixes import ParsedKey, suffix_of
from ..layer import Adapter

_PARAMETERS = frozenset(
    {"modulation", "scale_shift_table", "pos_embed", "cls_token", "query_tokens", "learnable_tokens"}
)
"""Last words of parameters that belong to no module: ComfyUI reads their differences under dotted names only."""


@dataclass(frozen=True)
class RowRange:
    """The rows of a whole weight that a piece is."""

    whole: str
    """Canonical id of the whole."""
    first: Fraction
    last: Fraction
    """First and last row as shares of all rows, from 0 to 1."""
    swapped: bool
    """Whether its two halves are in the opposite order in the whole."""

    def within(self, count: int, stem: str) -> tuple[int, int, int]:
        """Return the first row, the row after the last, and the number of all rows, for a piece of `count` rows.

        Raises LayerError if the rows cannot be divided so.
        """
        total = count / (self.last - self.first)
        found = self.first * total, self.last * total, total
        if any(number.denominator != 1 for number in found):
            raise LayerError(f"layer {stem}: {count} rows cannot be the part of {self.whole} that its name means.")
        return int(found[0]), int(found[1]), int(found[2])

    def placed(self, values: Single, stem: str) -> Single:
        """Return the piece in the whole, (all rows, ...), float32, whose other rows are zero. Raises LayerError."""
        first, last, total = self.within(len(values), stem)
        whole = np.zeros((total, *values.shape[1:]), np.float32)
        whole[first:last] = np.roll(values, len(values) // 2 if self.swapped else 0, axis=0)
        return whole


@dataclass
class CommonNames:
    """The names of a merge."""

    adapters: Sequence[Adapter]
    stems: dict[str, list[str]] = field(init=False)
    """Place -> the stems that files have for it."""
    row_ranges: dict[str, RowRange] = field(init=False)
    """Canonical id of each piece that becomes a part of its whole -> its rows."""
    is_renamed: bool = field(init=False)
    """Whether some names differ from those of the files."""

    def __post_init__(self) -> None:
        """Raise UnsupportedError if the whole of a piece has no name that hosts read."""
        self.families = [adapter.family for adapter in self.adapters if adapter.family]
        self.stems = self._stems_by_place()
        overlapping = set(self._overlapping())
        self.is_renamed = len(self.adapters) > 1 and self._has_several_names(bool(overlapping))
        unreadable = [name for name in self.stems if self._is_unreadable(name)] if self.is_renamed else []
        self.row_ranges = {name: self._rows(name) for name in (*overlapping, *unreadable)}

    def _stems_by_place(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for adapter in self.adapters:
            for stem in _stems(adapter):
                known = found[self.place(stem, adapter.family)]
                if stem not in known:
                    known.append(stem)
        return found

    def _has_several_names(self, has_overlapping: bool) -> bool:
        """Return whether the files use different names for some weight."""
        return any(len(found) > 1 for found in self.stems.values()) or has_overlapping or _differ(self.adapters)

    def _is_unreadable(self, name: str) -> bool:
        """Return whether hosts do not read the layer under its canonical name."""
        row = self._row(name)
        return row is not None and not row.portable

    def place(self, stem: str, family: Family | None) -> str:
        """Return the place of a stem, before pieces become rows."""
        if len(self.adapters) == 1:
            return stem  # a single file keeps its names
        return (canonical_id(stem, family) if family else None) or flat_name(stem)

    def name(self, place: str) -> str:
        """Return the name of a place in the result."""
        found = self.stems.get(place, [])
        if not self.is_renamed:
            return found[0]
        if self._row(place) or not found:
            return place
        if flatten(found[0]).endswith(tuple(_PARAMETERS)):
            return next((stem for stem in found if "." in stem), found[0])
        return flat_name(found[0]) if self.families else self._translated(found[0])

    def suffixes(self) -> Mapping[str, str]:
        """Return the suffixes of up and down: kohya's for flat names, else those of the first file that has both."""
        if not (self.is_renamed and (self.families or any(row.flat for row in self._prefixes().values()))):
            for adapter in self.adapters:
                for layer in adapter.layers:
                    if {"up", "down"} <= layer.parts.keys():
                        return {role: layer.parts[role].suffix for role in ("up", "down")}
        return {role: suffix_of(role) for role in ("up", "down")}

    def parts(self, stem: str) -> dict[str, ParsedKey]:
        """Return the keys of up and down."""
        return {role: ParsedKey(stem + suffix, stem, role, suffix) for role, suffix in self.suffixes().items()}

    def _translated(self, stem: str) -> str:
        """Return the name with a prefix of the result."""
        target, (_, body) = self._prefixes()[slot_of(stem)], split(stem)
        return target.text + (flatten(body) if target.flat else body)

    def _prefixes(self) -> dict[int, Prefix]:
        """Return component -> a flat prefix of some file, else the first: dots cannot be restored from underscores."""
        found: dict[int, Prefix] = {}
        for known in self.stems.values():
            for stem in known:
                slot, (prefix, _) = slot_of(stem), split(stem)
                if slot not in found or (prefix.flat and not found[slot].flat):
                    found[slot] = prefix
        return found

    def _row(self, name: str) -> LayerName | None:
        return next((row for family in self.families if (row := layers(family).get(name))), None)

    def _rows(self, name: str) -> RowRange:
        row = self._row(name)
        assert row is not None
        whole = row.whole or row.id
        above = self._row(whole)
        if above is None or not above.portable:
            raise UnsupportedError(
                f"layer {name}: the LoRAs have different key formats, and no host reads a common name of this layer. "
                f"Convert them to one key format first."
            )
        of = Fraction(1, row.share.of)
        return RowRange(whole, row.share.first * of, row.share.last * of, row.swapped)

    def _overlapping(self) -> Iterable[str]:
        """Yield the canonical ids of weights of which files have different, overlapping parts."""
        by_whole: dict[str, list[LayerName]] = defaultdict(list)
        for name in self.stems:
            row = self._row(name)
            if row is not None:
                by_whole[row.whole or row.id].append(row)
        for rows in by_whole.values():
            if any(_overlap(one, other) for i, one in enumerate(rows) for other in rows[:i]):
                yield from (row.id for row in rows)


def _overlap(one: LayerName, other: LayerName) -> bool:
    """Return whether two parts of one weight share rows."""
    return (
        one.share.first * other.share.of < other.share.last * one.share.of
        and other.share.first * one.share.of < one.share.last * other.share.of
    )


def _stems(adapter: Adapter) -> Iterable[str]:
    from_vectors = (copied.stem for copied in adapter.copied if copied.is_vector)
    return dict.fromkeys((*(layer.stem for layer in adapter.layers), *from_vectors))


def _differ(adapters: Sequence[Adapter]) -> bool:
    """Return whether files that share no layer still have different key formats."""
    prefixes: dict[int, set[frozenset[str]]] = defaultdict(set)
    words: set[frozenset[str]] = set()
    flat: set[bool] = set()
    for adapter in adapters:
        own: dict[int, set[str]] = defaultdict(set)
        stems = list(_stems(adapter))
        for stem in stems:
            own[slot_of(stem)].add(split(stem)[0].text)
        for slot, texts in own.items():
            prefixes[slot].add(frozenset(texts))
        words.add(frozenset(key_format_of(stem) for stem in stems if slot_of(stem) == 0) - {UNKNOWN})
        flat.update(split(stem)[0].flat for stem in stems)
    return any(len(found) > 1 for found in prefixes.values()) or len(words - {frozenset()}) > 1 or len(flat) > 1
