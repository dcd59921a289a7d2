"""A LoRA file as data: the layers that can be resized, and the keys that go along unchanged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..files.reader import SafeFile
from ..linalg.factor import Pair
from ..names.families import Family
from .suffixes import Part


@dataclass(frozen=True)
class Layer:
    """One low-rank pair and what belongs to it."""

    stem: str
    """The layer's name as the file spells it."""
    pair: Pair
    """Its delta; bits are views of the file."""
    up: Part
    down: Part
    up_shape: tuple[int, ...]
    """As stored, (n, r) or (n, r, 1, 1)."""
    down_shape: tuple[int, ...]
    """As stored, (r, m) or (r, in, height, width)."""
    dtypes: tuple[str, str]
    """safetensors dtypes of up and down in the source; of a merge, the widest."""
    alpha: Part | None = None
    magnitude: Part | None = None
    """DoRA's magnitudes: kept as they are."""
    canonical: str | None = None
    """Its name in the family's own words; None where the family or the layer is unknown."""
    lost: float = 0.0
    """Frobenius norm of what the pair does not hold of the delta that it stands for, as an extraction leaves it."""

    @property
    def size(self) -> tuple[int, int]:
        """(n, m) of the delta."""
        return self.pair.size

    @property
    def parameters(self) -> int:
        """Numbers stored per rank."""
        return sum(self.size)

    @property
    def is_conv(self) -> bool:
        """A convolution larger than 1x1."""
        return math.prod(self.down_shape[2:]) > 1

    @property
    def carries_alpha(self) -> bool:
        """Whether a scale may be moved into an alpha key: readers of kohya's suffixes take it from there, those of
        the other spellings partly ignore it."""
        return self.up.suffix == ".lora_up.weight"


@dataclass(frozen=True)
class Copied:
    """One tensor that goes along byte for byte."""

    key: str
    why: str
    """The kind that the registry gave it."""
    stem: str
    source: int = 0
    """Which of the adapter's files holds it."""
    gain: float | None = None
    """For what acts times its layer's scale, as the bias of an up does: the scale that readers no longer apply, since
    it is folded into the new factors. None for tensors that are copied as they are."""


@dataclass(frozen=True)
class Adapter:
    """One LoRA, or several merged."""

    name: str
    """The file's stem, or the names of a merge."""
    files: Sequence[SafeFile]
    metadata: Mapping[str, str]
    layers: tuple[Layer, ...]
    copied: tuple[Copied, ...]
    family: Family | None
    notes: tuple[str, ...] = ()
    """What the user should know of how it was read."""
    weights: tuple[float | str, ...] = (1.0,)
    """Strength of each file in a merge, in words where it differs between layers."""
    together: tuple[tuple[int, ...], ...] = field(default=())
    """Groups of layers, by index, that a host applies only together."""
    extracted: bool = False
    """It is the difference of its files, which are checkpoints, and no merge of LoRAs."""

    @property
    def paths(self) -> list[Path]:
        return [file.path for file in self.files]

    @property
    def bytes(self) -> int:
        """Size of all its files."""
        return sum(file.header.file_bytes for file in self.files)

    def close(self) -> None:
        """Gives the files back."""
        for file in self.files:
            file.close()
