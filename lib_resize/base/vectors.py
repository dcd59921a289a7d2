"""Biases and norms of a base model, by the names that LoRA files have for them.

A bias is named after its layer: ``<layer>.diff_b``. A norm gets the name that kohya's rule makes of its module:
``<norm>.w_norm`` and ``<norm>.b_norm``; it is found from the layer that follows it. Norms of text encoders have no
name, because ComfyUI and Forge look for none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .weights import BaseWeight

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
"""A layer of a UNet and the norm before it, in the names of Stability's models and of diffusers."""


@dataclass(frozen=True)
class BaseVector:
    """A bias or norm, or rows of a bias, in a checkpoint."""

    key: str
    stem: str
    """Name of the layer or norm in a LoRA file."""
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
    """Map keys in a LoRA file to the vectors of a checkpoint.

    `weights` are its layers by name, `vectors` the shapes of its biases and norms by key. With `norms`, norms are
    included; only those of UNets have names.
    """
    found = [_bias(name, weight) for name, weight in weights.items()]
    if norms:
        found += [one for name, weight in weights.items() for one in _norm(name, weight)]
    return {one.name: one for one in found if one.key in vectors}


def _bias(name: str, weight: BaseWeight) -> BaseVector:
    return BaseVector(weight.key.removesuffix("weight") + "bias", name, BIAS, name, weight.rows)


def _norm(name: str, weight: BaseWeight) -> Iterator[BaseVector]:
    dotted = weight.key.removesuffix(".weight")
    in_model = next((pair for pair in _NORMS if dotted.endswith(f".{pair[0]}") or dotted == pair[0]), None)
    in_lora = next((pair for pair in _NORMS if name.endswith("_" + pair[0].replace(".", "_"))), None)
    if in_model is None or in_lora is None or not name.startswith("lora_unet_"):
        return
    key = dotted.removesuffix(in_model[0]) + in_model[1]
    stem = name.removesuffix(in_lora[0].replace(".", "_")) + in_lora[1].replace(".", "_")
    yield BaseVector(f"{key}.weight", stem, NORM_WEIGHT, name)
    yield BaseVector(f"{key}.bias", stem, NORM_BIAS, name)
