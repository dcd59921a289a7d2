"""One name for each weight of a merge, in any spelling of its files.

Files meet under places: a weight's canonical name, or the flat name of its words where the family does not know it. The
result has the names of its files where these agree. Else it has one spelling: the family's own flat names, which hosts
read, or, for an unknown family, the prefixes of one of the files. Where one file has a weight whole and another has
pieces of it, or where hosts do not read a piece under a flat name, the pieces become rows of the whole.
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
"""Last words of parameters that are no module's weight: ComfyUI reads their differences under dotted names alone."""


@dataclass(frozen=True)
class RowRange:
    """Where a piece belongs in the whole."""

    whole: str
    """Canonical name."""
    first: Fraction
    last: Fraction
    """The part of all rows that it is, from 0 to 1."""
    swapped: bool
    """Whether its two halves are in the other order there."""

    def within(self, count: int, stem: str) -> tuple[int, int, int]:
        """First row, the row after its last, and all rows, for a piece of `count` rows. Raises LayerError."""
        total = count / (self.last - self.first)
        found = self.first * total, self.last * total, total
        if any(number.denominator != 1 for number in found):
            raise LayerError(f"layer {stem}: {count} rows are not the share of {self.whole} that its name says.")
        return int(found[0]), int(found[1]), int(found[2])

    def placed(self, values: Single, stem: str) -> Single:
        """The rows of a piece in the whole, whose other rows are zero. Raises LayerError."""
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
    """Canonical name of each piece that becomes a part of its whole."""
    is_renamed: bool = field(init=False)
    """Whether some names differ from those of the files."""

    def __post_init__(self) -> None:
        """Raises UnsupportedError where the whole of a piece has no name that hosts read."""
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
        """What all spellings of a weight have in common, before pieces become rows."""
        if len(self.adapters) == 1:
            return stem  # a file by itself keeps all that it has
        return (canonical_id(stem, family) if family else None) or flat_name(stem)

    def name(self, place: str) -> str:
        """What the layer of a place is called in the result."""
        found = self.stems.get(place, [])
        if not self.is_renamed:
            return found[0]
        if self._row(place) or not found:
            return place
        if flatten(found[0]).endswith(tuple(_PARAMETERS)):
            return next((stem for stem in found if "." in stem), found[0])
        return flat_name(found[0]) if self.families else self._translated(found[0])

    def suffixes(self) -> Mapping[str, str]:
        """Role -> suffix of up and down: kohya's for flat names, else those of the first file that has some."""
        if not (self.is_renamed and (self.families or any(row.flat for row in self._prefixes().values()))):
            for adapter in self.adapters:
                for layer in adapter.layers:
                    if {"up", "down"} <= layer.parts.keys():
                        return {role: layer.parts[role].suffix for role in ("up", "down")}
        return {role: suffix_of(role) for role in ("up", "down")}

    def parts(self, stem: str) -> dict[str, ParsedKey]:
        """The keys of up and down."""
        return {role: ParsedKey(stem + suffix, stem, role, suffix) for role, suffix in self.suffixes().items()}

    def _translated(self, stem: str) -> str:
        """In the words of its file, behind a prefix of the result."""
        target, (_, body) = self._prefixes()[slot_of(stem)], split(stem)
        return target.text + (flatten(body) if target.flat else body)

    def _prefixes(self) -> dict[int, Prefix]:
        """Component -> the flat prefix that a file has, else the first: dots cannot be made from underscores."""
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
                f"layer {name}: the LoRAs are spelled differently, and no host reads a common name of this layer. "
                f"Convert them to one spelling first."
            )
        of = Fraction(1, row.share.of)
        return RowRange(whole, row.share.first * of, row.share.last * of, row.swapped)

    def _overlapping(self) -> Iterable[str]:
        """Canonical names of weights of which files have other, overlapping parts."""
        by_whole: dict[str, list[LayerName]] = defaultdict(list)
        for name in self.stems:
            row = self._row(name)
            if row is not None:
                by_whole[row.whole or row.id].append(row)
        for rows in by_whole.values():
            if any(_overlap(one, other) for i, one in enumerate(rows) for other in rows[:i]):
                yield from (row.id for row in rows)


def _overlap(one: LayerName, other: LayerName) -> bool:
    """Whether two parts of one weight share rows."""
    return (
        one.share.first * other.share.of < other.share.last * one.share.of
        and other.share.first * one.share.of < one.share.last * other.share.of
    )


def _stems(adapter: Adapter) -> Iterable[str]:
    from_vectors = (copied.stem for copied in adapter.copied if copied.is_vector)
    return dict.fromkeys((*(layer.stem for layer in adapter.layers), *from_vectors))


def _differ(adapters: Sequence[Adapter]) -> bool:
    """Whether files that share no layer are spelled differently all the same."""
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
