"""A family of base models: the canonical ids of its layers, their shapes, and what identifies the family."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

from .table_reader import WHOLE, Share


class LayerName(NamedTuple):
    """One layer of one family.

    `id` is the canonical id, `component` the part of the model that owns it and `shape` that of the weight in a model
    of normal size. `dotted_names` are its names inside the component, without any prefix. `block` is a short label for
    plots. `group` is shared by layers that hosts apply only together; None for other layers.

    A piece of a larger weight has that weight's id in `whole`, its rows in `share`, and `swapped` if its two halves are
    in the opposite order. `portable` means that hosts read the layer under its id.
    """

    id: str
    component: str
    shape: tuple[int, ...]
    dotted_names: tuple[str, ...]
    block: str
    group: str | None = None
    whole: str | None = None
    share: Share = WHOLE
    swapped: bool = False
    portable: bool = True


@dataclass(frozen=True)
class Family:
    """A family of base models whose layers have the same names, in one of its sizes.

    `base_model_version` is the value of ``ss_base_model_version`` and `modelspec_architecture` that of
    ``modelspec.architecture`` in a LoRA's metadata, as trainers write them; None where no value is known. `hints` are
    the beginnings of such values that name this family (see `evidence`). `components` are the denoiser first, then the
    text encoders in order. `roots` are the first words of the denoiser's names: native ones, then diffusers'.
    `input_layer` is the layer that reads the latent: variants of a model widen it. `distinguishing_name` is a part of
    the names of some layers; without it, a file could be of another family with the same names and widths. `rows` makes
    the table.
    """

    name: str
    base_model_version: str | None
    modelspec_architecture: str | None
    components: tuple[str, ...]
    rows: Callable[[], Iterable[LayerName]] = field(compare=False, repr=False)
    size: str = ""
    roots: tuple[frozenset[str], frozenset[str]] = field(default=(frozenset(), frozenset()), compare=False, repr=False)
    hints: tuple[str, ...] = field(default=(), compare=False, repr=False)
    input_layer: str = field(default="", compare=False, repr=False)
    distinguishing_name: str = field(default="", compare=False, repr=False)


@cache
def layers(family: Family) -> Mapping[str, LayerName]:
    """Return canonical id -> `LayerName`, for every layer of the family. Made once, then shared; read-only."""
    return MappingProxyType({row.id: row for row in family.rows()})


def flatten(dotted: str) -> str:
    """Return a dotted name as kohya's scripts write it: every dot becomes an underscore."""
    return dotted.replace(".", "_")
