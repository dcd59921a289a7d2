"""Biases and norms of a base model under the names that LoRA files have for them.

A bias is known by its layer: ``<layer>.diff_b``. A norm is no layer of ours; it is named after the one that it stands
before, as kohya's rule would name it: ``<norm>.w_norm`` and ``<norm>.b_norm``. Norms of text encoders have no name:
ComfyUI and Forge look for none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .pairing import BaseWeight

BIAS, NORM_WEIGHT, NORM_BIAS = ".diff_b", ".w_norm", ".b_norm"

_NORMS = (
    ("in_layers.2", "in_layers.0"),
    ("out_layers.3", "out_layers.0"),
    ("conv1", "norm1"),
    ("conv2", "norm2"),
    ("attn1.to_q", "norm1"),
    ("attn2.to_q", "norm2"),
    ("ff.net.2", "norm3"),
    ("proj_in", "norm"),
    ("out.2", "out.0"),
    ("conv_out", "conv_norm_out"),
)
"""A layer of a UNet and the norm that is named after it, in Stability's words and in diffusers'."""


@dataclass(frozen=True)
class BaseVector:
    """A bias or norm, or rows of a bias."""

    key: str
    stem: str
    """What a LoRA file calls the layer or norm."""
    role: str
    """`BIAS`, `NORM_WEIGHT` or `NORM_BIAS`."""
    layer: str
    """Name of the layer that it belongs to."""
    rows: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """Its key in a LoRA file."""
        return self.stem + self.role


def named_vectors(
    weights: Mapping[str, BaseWeight], vectors: Mapping[str, tuple[int, ...]], *, norms: bool
) -> dict[str, BaseVector]:
    """Key in a LoRA file -> the vector of a checkpoint, whose layers and vectors are given; norms on request, of
    UNets alone."""
    found = [_bias(name, weight) for name, weight in weights.items()]
    if norms:
        found += [one for name, weight in weights.items() for one in _norm(name, weight)]
    return {one.name: one for one in found if one.key in vectors}


def _bias(name: str, weight: BaseWeight) -> BaseVector:
    return BaseVector(weight.key.removesuffix("weight") + "bias", name, BIAS, name, weight.rows)


def _norm(name: str, weight: BaseWeight) -> Iterator[BaseVector]:
    dotted = weight.key.removesuffix(".weight")
    theirs = next((pair for pair in _NORMS if dotted.endswith(f".{pair[0]}") or dotted == pair[0]), None)
    ours = next((pair for pair in _NORMS if name.endswith("_" + pair[0].replace(".", "_"))), None)
    if theirs is None or ours is None or not name.startswith("lora_unet_"):
        return
    key = dotted.removesuffix(theirs[0]) + theirs[1]
    stem = name.removesuffix(ours[0].replace(".", "_")) + ours[1].replace(".", "_")
    yield BaseVector(f"{key}.weight", stem, NORM_WEIGHT, name)
    yield BaseVector(f"{key}.bias", stem, NORM_BIAS, name)
