"""What a difference found: counts of layers, biases and norms, for the notes."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..adapters.layer import Copied


@dataclass
class Tally:
    """The layers of a difference, by result."""

    held: list[float] = field(default_factory=list)
    equal: int = 0
    only_one: int = 0
    sizes: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    vectors: Vectors | None = None


@dataclass
class Vectors:
    """Biases and norms that differ."""

    taken: list[Copied] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    """Keys of those that the options leave out."""
    lone: list[str] = field(default_factory=list)
    """Keys of those that a LoRA cannot have: they have no name in it, or their layer is not in it."""
