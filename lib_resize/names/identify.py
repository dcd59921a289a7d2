"""Find the canonical id of a layer from its name in any key format, and the family of a whole file."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from functools import cache
from typing import NamedTuple

from .evidence import BaseModelHints, flat_shape, has_distinguishing_layer, read_hints, shapes_fit
from .families import FAMILIES
from .family import Family, flatten, layers
from .key_formats import Prefix, is_text_encoder, split, starts_with


def canonical_id(stem: str, family: Family) -> str | None:
    """Return the canonical id of a layer in `family`, or None if the family has no such layer.

    `stem` is a key without its suffix, in any key format; see `PREFIXES`. Two names of one layer give one id, so a
    layer that a file holds twice has two stems with one id.
    """
    return _find(*split(stem), _tables(family))


def identify(stems: Mapping[str, tuple[int, int]], hints: Iterable[str] = ()) -> Family | None:
    """Return the family of `identify_layers`."""
    return identify_layers(stems, hints).family


class Identified(NamedTuple):
    """The family of a file; None if it is unknown."""

    family: Family | None
    names: Mapping[str, str]
    """Stem -> canonical id, for the layers that the family has."""


_UNKNOWN = Identified(None, {})


def identify_layers(stems: Mapping[str, tuple[int, int]], hints: Iterable[str] = ()) -> Identified:
    """Return the family that a LoRA was made for, from the names of its layers and their shapes, and its ids of them.

    `stems` maps each stem to ``(out, in)`` of its delta, convolutions flattened. `hints` are the values in the metadata
    that name the base model.

    1. A family is a candidate if it knows more than half of the layers of the denoiser, or, in a file with text
       encoders only, more than half of those, and if their shapes are its own (see `evidence`). Known text encoders are
       no evidence for a denoiser: SD3 has both of SDXL's encoders.
    2. Of several candidates the one that knows the most layers is chosen; then the one in the metadata (Flux.1 and
       Chroma may differ in nothing else); then the one whose shapes agree most often; then the one whose own ids are
       used most often; then the first in `FAMILIES`. If a family of other shapes knows more layers than all of them,
       none is chosen.
    3. Without a candidate the family is unknown. It is unknown too if the metadata names only other families.
    """
    hint = read_hints(hints)
    if hint.excludes_known_families:
        return _UNKNOWN
    parts = {stem: split(stem) for stem in stems}
    denoiser = {stem: part for stem, part in parts.items() if not is_text_encoder(*part)}
    deciding = (denoiser or parts).keys()
    highest = (len(stems), bool(hint.families), len(stems), sum(prefix.flat for prefix, _ in parts.values()))
    best, best_score, most = _UNKNOWN, (0, False, 0, 0), 0
    for family in _possible_families(denoiser.values()):
        known = _known_names(family, parts)
        score = _score(stems, known, family, hint)
        most = max(most, len(known))
        if score > best_score and _is_candidate(family, deciding, known, stems, hint):
            best, best_score = Identified(family, known), score
        if best_score == highest:
            break
    return best if best_score[0] == most else _UNKNOWN


def _known_names(family: Family, parts: Mapping[str, tuple[Prefix, str]]) -> dict[str, str]:
    """Return stem -> canonical id, for the stems whose layer the family has."""
    tables = _tables(family)
    found = ((stem, _find(prefix, body, tables)) for stem, (prefix, body) in parts.items())
    return {stem: name for stem, name in found if name}


def _is_candidate(
    family: Family,
    deciding: Set[str],
    known: Mapping[str, str],
    stems: Mapping[str, tuple[int, int]],
    hints: BaseModelHints,
) -> bool:
    """Return whether names and shapes of the deciding layers are the family's."""
    table = layers(family)
    rows = {stem: table[name] for stem, name in known.items() if stem in deciding}
    if 2 * len(rows) <= len(deciding) or not shapes_fit(family, rows, stems):
        return False
    return family.name in hints.families or has_distinguishing_layer(family, rows.values())


def _possible_families(denoiser: Collection[tuple[Prefix, str]]) -> Iterator[Family]:
    """Yield the families of which the denoiser may be; all of them for a file of text encoders alone."""
    for family in FAMILIES:
        if not denoiser or _may_know(family, denoiser):
            yield family


def _may_know(family: Family, parts: Iterable[tuple[Prefix, str]]) -> bool:
    """Return whether some layer begins with a word of the family's; checked first, so that few tables are made."""
    roots = _words(family)
    return any(starts_with(body, roots, prefix) for prefix, body in parts)


@cache
def _words(family: Family) -> tuple[str, ...]:
    native, own = family.roots
    return tuple(native | own)


def _find(prefix: Prefix, body: str, tables: Tables) -> str | None:
    for slot in prefix.slots:
        found = tables.get((slot, prefix.flat), {}).get(body)
        if found is not None:
            return found
    return None


def _score(
    stems: Mapping[str, tuple[int, int]], known: Mapping[str, str], family: Family, hints: BaseModelHints
) -> tuple[int, bool, int, int]:
    """Return the numbers of known layers, of equal shapes and of own ids, and whether the metadata agrees."""
    table = layers(family)
    shapes = sum(flat_shape(table[name].shape) == stems[stem] for stem, name in known.items())
    own = sum(stem == name for stem, name in known.items())
    return len(known), family.name in hints.families, shapes, own


Tables = Mapping[tuple[int, bool], Mapping[str, str]]
"""Slot of a component, and whether names are flat -> body -> canonical id, for all names."""


@cache
def _tables(family: Family) -> Tables:
    slots = {owner: slot for slot, owner in enumerate(family.components)}
    found: dict[tuple[int, bool], dict[str, str]] = {
        (slot, flat): {} for slot in slots.values() for flat in (False, True)
    }
    for row in layers(family).values():
        slot = slots[row.component]
        for name in row.dotted_names:
            found[slot, False][name] = row.id
            found[slot, True][flatten(name)] = row.id
    return found
