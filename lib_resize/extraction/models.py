"""The two models of a difference, and which of their layers are compared."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..base.weights import BaseWeight
from ..errors import UnsupportedError
from ..linalg.factor import Stored
from ..names.families import block
from ..names.family import Family
from .tally import Tally

DEFAULT_RANK = 128
"""Dimensions that are searched in each layer unless the options give a number."""

STABLE_DIFFUSION = frozenset({"SDXL", "SD1.5", "SD2"})
"""Families that are compared across key formats."""
OTHER_LAYOUT = "kept in another layout; only Stable Diffusion is compared across layouts"
EDGES = frozenset({"TIME", "LABEL", "OUT", "IN00", "EDGE"})
_NO_MATRIX = re.compile(r"embedding|pos_embed|embed_tokens|shared_weight|_shared$")


class Weights(Protocol):
    """A model whose weights can be read one at a time: a checkpoint file, or one in a host's memory."""

    @property
    def path(self) -> Path: ...

    @property
    def family(self) -> Family | None: ...

    @property
    def weights(self) -> Mapping[str, BaseWeight]:
        """Layer name, canonical or by kohya's rule -> its weight."""
        ...

    @property
    def vectors(self) -> Mapping[str, tuple[int, ...]]:
        """Keys of biases and norms -> their shapes."""
        ...

    def matrix(self, weight: BaseWeight) -> Stored: ...

    def vector(self, key: str) -> Stored:
        """Return a bias or norm, (1, n)."""
        ...


@dataclass(frozen=True)
class ExtractOptions:
    """Which layers are compared, and how many dimensions each may have."""

    rank: int = DEFAULT_RANK
    conv_rank: int | None = None
    """For convolutions larger than 1x1: None is `rank`, 0 leaves them out."""
    text_encoders: bool = True
    edges: bool = False
    """Also first and last convolution, time and label embedding, which trainers leave unchanged and older diffusers
    does not read, and the text projection, which A1111 ignores."""
    vectors: bool = False
    """Also biases, and norms of UNets, as full differences."""


def check_families(tuned: Weights, base: Weights) -> None:
    if tuned.family != base.family:
        raise UnsupportedError(
            f"{tuned.path.name} is {_family(tuned)} and {base.path.name} is {_family(base)}: a difference is taken "
            "between models of one kind."
        )


def _family(weights: Weights) -> str:
    return weights.family.name if weights.family else "of no known family"


def pairs_of(
    tuned: Weights, base: Weights, wish: ExtractOptions, tally: Tally
) -> list[tuple[str, BaseWeight, BaseWeight]]:
    """Return the layers of both models to compare, in the order of the first; the others are counted in `tally`."""
    ours, theirs = tuned.weights, base.weights
    tally.only_one = len(ours.keys() ^ theirs.keys())
    found = []
    for name, weight in ours.items():
        other = theirs.get(name)
        reason = None if other is None else _left_out(name, weight, wish, tuned.family)
        if other is not None and not _comparable(weight, other, tuned.family):
            reason = OTHER_LAYOUT
        if reason is not None:
            tally.left_out[reason] = tally.left_out.get(reason, 0) + 1
        elif other is not None and other.matrix != weight.matrix:
            tally.sizes.append(name)
        elif other is not None:
            found.append((name, weight, other))
    return found


def _comparable(ours: BaseWeight, theirs: BaseWeight, family: Family | None) -> bool:
    """Return whether two weights hold the same rows in the same order: some layouts swap halves or fuse rows."""
    return _same_words(ours.key, theirs.key) or (family is not None and family.name in STABLE_DIFFUSION)


def _same_words(one: str, other: str) -> bool:
    """Return whether two keys of one layer differ only in the prefix of their file."""
    ours, theirs = one.split("."), other.split(".")
    shared = 0
    while shared < min(len(ours), len(theirs)) and ours[-1 - shared] == theirs[-1 - shared]:
        shared += 1
    before = ours[: len(ours) - shared] + theirs[: len(theirs) - shared]
    return not before or (shared > 1 and not any(part.isdecimal() for part in before))


def _left_out(name: str, weight: BaseWeight, wish: ExtractOptions, family: Family | None) -> str | None:
    """Return why a layer is left out; None where it is compared."""
    known = family is not None
    if name.startswith("lora_te") and not wish.text_encoders:
        return "text encoders"
    if name.endswith("text_projection") and not wish.edges:
        return "text projection, which A1111 does not read (see --all-layers)"
    if known and not wish.edges and block(name) in EDGES:
        return "first, last and embedding layers of the UNet (see --all-layers)"
    if not known and _NO_MATRIX.search(name):
        return "embeddings"
    if is_conv(weight) and wish.conv_rank == 0:
        return "convolutions"
    return None


def is_conv(weight: BaseWeight) -> bool:
    return math.prod(weight.shape[2:]) > 1
