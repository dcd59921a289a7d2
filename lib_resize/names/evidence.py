"""Evidence besides layer names that a file belongs to a family: the shapes of its layers, and its metadata.

Different models use the same layer names: a LoRA of HunyuanVideo 1.5 has the names of Flux.1, one of CogView4 those of
LTX-Video. So a family is identified only if the shapes of the layers are its own. In a model that is smaller than every
model in use, such as those of tests and demos, the proportions must be those of the family instead.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from math import prod

from .families import FAMILIES
from .family import Family, LayerName

Size = tuple[int, int]
"""``(out, in)`` of a layer, convolutions flattened."""

SMALL = 384
"""A layer of a small model has at most this many rows or this many columns. No model in use has only such layers."""


def shapes_fit(family: Family, rows: Mapping[str, LayerName], sizes: Mapping[str, Size]) -> bool:
    """Return whether layers can belong to the family.

    `rows` are the layers that it knows by name, `sizes` their shapes, both by stem. For every kind of layer, such as
    the `to_q` of one width, most shapes must be the family's own. The layer that reads the latent is not checked,
    because variants of a model widen it. In a small model the proportions must be the family's.

    Another model differs in a kind as a whole. A single layer of another shape, such as one with swapped factors, does
    not make it another model: it is refused or compared as a layer of this family.
    """
    judged = {stem: row for stem, row in rows.items() if row.id != family.input_layer} or rows
    if _agree(judged, {stem: flat_shape(row.shape) == sizes[stem] for stem, row in judged.items()}):
        return True
    return all(min(sizes[stem]) <= SMALL for stem in judged) and _agree(judged, _in_proportion(judged, sizes))


def _agree(rows: Mapping[str, LayerName], agreeing: Mapping[str, bool]) -> bool:
    """Return whether most layers of each kind agree."""
    if all(agreeing.values()):
        return True
    kinds: dict[Hashable, list[bool]] = defaultdict(list)
    for stem, row in rows.items():
        kinds[_BELOW_BLOCKS.sub("", row.id), flat_shape(row.shape)].append(agreeing[stem])
    return all(2 * sum(votes) > len(votes) for votes in kinds.values())


_BELOW_BLOCKS = re.compile(r"^.*_\d+_")
"""The part of a name before the layer's own words: its block, with all numbers."""


def has_distinguishing_layer(family: Family, rows: Iterable[LayerName]) -> bool:
    """Return whether a layer has the name that distinguishes the family from others with the same names and widths."""
    return not family.distinguishing_name or any(
        family.distinguishing_name in name for row in rows for name in (*row.dotted_names, row.id)
    )


def flat_shape(shape: tuple[int, ...]) -> Size:
    """Return ``(out, in)`` of a weight, a convolution flattened."""
    return shape[0], prod(shape[1:])


def _in_proportion(rows: Mapping[str, LayerName], sizes: Mapping[str, Size]) -> dict[str, bool]:
    """Return whether each layer is as wide as most layers of its block that have the same width in the family."""
    places: dict[str, list[tuple[Hashable, int]]] = {}
    widths: dict[Hashable, Counter[int]] = defaultdict(Counter)
    for stem, row in rows.items():
        sides = enumerate(zip(flat_shape(row.shape), sizes[stem], strict=True))
        places[stem] = [((row.block, side, own), here) for side, (own, here) in sides]
        for place, here in places[stem]:
            widths[place][here] += 1
    usual = {place: counts.most_common(1)[0][0] for place, counts in widths.items()}
    return {stem: all(usual[place] == here for place, here in sides) for stem, sides in places.items()}


# Metadata


@dataclass(frozen=True)
class BaseModelHints:
    """The base model according to a file's metadata."""

    families: frozenset[str] = frozenset()
    """Names of the families that it mentions."""
    unknown_value: str = ""
    """A value that names a family without a table."""

    @property
    def excludes_known_families(self) -> bool:
        """Whether it names only other families."""
        return bool(self.unknown_value) and not self.families


def base_model_hints(metadata: Mapping[str, str]) -> tuple[str, str]:
    """Return the values in a LoRA's metadata that name its base model."""
    return metadata.get("ss_base_model_version", ""), metadata.get("modelspec.architecture", "")


def read_hints(values: Iterable[str]) -> BaseModelHints:
    """Return the meaning of values from `base_model_hints`. Empty values mean nothing."""
    families: set[str] = set()
    unknown_value = ""
    for value in values:
        word = _plain(value)
        if word in _NO_WORDS:
            continue
        found = {family.name for family in FAMILIES if _speaks_of(family, word)}
        families |= found
        unknown_value = unknown_value if found else value
    return BaseModelHints(frozenset(families), unknown_value)


_NO_WORDS = frozenset({"", "none", "null", "unknown", "other", "custom", "lora"})


def _plain(value: str) -> str:
    """Return the letters and digits: ``flux2klein4b`` for ``Flux.2-klein-4b/lora``."""
    return re.sub(r"[^a-z0-9]", "", value[:_MOST].lower().partition("/")[0])


_MOST = 200  # letters of a value that are used


def _speaks_of(family: Family, word: str) -> bool:
    """Return whether a word begins with one of the family's hints.

    A number directly after a name is another version: ``hunyuanvideo15`` is not ``hunyuanvideo``.
    """
    for start in _starts(family):
        rest = word[len(start) :]
        if word.startswith(start) and (start[-1].isdigit() or not rest[:1].isdigit()):
            return True
    return False


@cache
def _starts(family: Family) -> tuple[str, ...]:
    return tuple(_plain(word) for word in family.hints)
