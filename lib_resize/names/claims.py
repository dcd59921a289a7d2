"""What allows the claim that a file is of a family, beside its layers' names: widths, and the words of its metadata.

Models of one kind share the names of their layers: a LoRA of HunyuanVideo 1.5 has the names of Flux.1, one of CogView4
those of LTX-Video. So a family is claimed only where the shapes of the layers are its own. A model that is smaller
than every model in use, as tests and demos have, keeps the proportions of its family instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from math import prod

from .families import FAMILIES, Family, LayerName

Size = tuple[int, int]
"""``(out, in)`` of a layer, convolutions flattened."""

SMALL = 384
"""A layer of a small model has at most this many rows or this many columns. No model in use is so narrow throughout."""


def fits(family: Family, rows: Mapping[str, LayerName], sizes: Mapping[str, Size]) -> bool:
    """Whether layers can belong to the family: `rows` are those that it knows by name, `sizes` their shapes, by stem.

    All shapes have to be the family's own, but for the layer that reads the latent, which variants widen. In a small
    model they have to be in the family's proportions.
    """
    judged = {stem: row for stem, row in rows.items() if row.id != family.entrance} or rows
    if all(flat_shape(row.shape) == sizes[stem] for stem, row in judged.items()):
        return True
    return all(min(sizes[stem]) <= SMALL for stem in judged) and _in_proportion(judged, sizes)


def has_hallmark(family: Family, rows: Iterable[LayerName]) -> bool:
    """Whether one of the layers is of the kind that tells the family from others of the same names and widths."""
    return not family.hallmark or any(family.hallmark in name for row in rows for name in (*row.spellings, row.id))


def flat_shape(shape: tuple[int, ...]) -> Size:
    """``(out, in)`` of a weight, a convolution flattened."""
    return shape[0], prod(shape[1:])


def _in_proportion(rows: Mapping[str, LayerName], sizes: Mapping[str, Size]) -> bool:
    """Whether layers that are equally wide in the family are so here, side by side, in every block."""
    widths: dict[tuple[str, int, int], int] = {}
    for stem, row in rows.items():
        for side, (own, here) in enumerate(zip(flat_shape(row.shape), sizes[stem], strict=True)):
            if widths.setdefault((row.block, side, own), here) != here:
                return False
    return True


# Metadata -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """What metadata says of the base model."""

    families: frozenset[str] = frozenset()
    """Names of the families that it speaks of."""
    stranger: str = ""
    """A value that speaks of a family which is not in our tables."""

    @property
    def is_foreign(self) -> bool:
        """Whether it speaks of other families only."""
        return bool(self.stranger) and not self.families


def told_of_base(metadata: Mapping[str, str]) -> tuple[str, str]:
    """The values in a LoRA's metadata that speak of its base model."""
    return metadata.get("ss_base_model_version", ""), metadata.get("modelspec.architecture", "")


def read_told(values: Iterable[str]) -> Told:
    """What values of `told_of_base` say; empty ones say nothing."""
    families: set[str] = set()
    stranger = ""
    for value in values:
        word = _plain(value)
        if word in _NO_WORDS:
            continue
        found = {family.name for family in FAMILIES if _speaks_of(family, word)}
        families |= found
        stranger = stranger if found else value
    return Told(frozenset(families), stranger)


_NO_WORDS = frozenset({"", "none", "null", "unknown", "other", "custom", "lora"})


def _plain(value: str) -> str:
    """``Flux.2-klein-4b/lora`` -> ``flux2klein4b``."""
    return re.sub(r"[^a-z0-9]", "", value[:_MOST].lower().partition("/")[0])


_MOST = 200  # letters of a value that are read


def _speaks_of(family: Family, word: str) -> bool:
    """Whether a word begins as one of the family's does. A number right after a name is another version of it:
    ``hunyuanvideo15`` is not ``hunyuanvideo``."""
    for start in _starts(family):
        rest = word[len(start) :]
        if word.startswith(start) and (start[-1].isdigit() or not rest[:1].isdigit()):
            return True
    return False


@cache
def _starts(family: Family) -> tuple[str, ...]:
    return tuple(_plain(word) for word in family.told)
