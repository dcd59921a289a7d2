"""The strength of each layer of one LoRA from the tags of a prompt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import UnsupportedError
from ...names.families import block, component
from ...prompts.block_weights import BLOCK_NAMES
from ...prompts.tags import Tag
from ..layer import Adapter, NamedLayer


@dataclass(frozen=True)
class PromptStrength:
    """The sum of the tags of one LoRA: a `merge.LayerStrength`. None of the tags may have errors."""

    tags: tuple[Tag, ...]

    def __call__(self, layer: NamedLayer) -> float:
        """Raise UnsupportedError if it is unknown which part of the model a layer belongs to."""
        return sum(tag.gain(self._place(layer)) for tag in self.tags)

    def __str__(self) -> str:
        return " + ".join(tag.strengths for tag in self.tags)

    def _place(self, layer: NamedLayer) -> str:
        place = block(layer.canonical) if layer.canonical is not None else None
        if place is not None and (_UNET_BLOCK.fullmatch(place) or not self._by_block):
            return place
        owner = component(layer.canonical or layer.stem)
        if self._by_block or (owner == "other" and any(tag.te != tag.unet for tag in self.tags)):
            raise UnsupportedError(
                f"layer {layer.stem}: it is in none of the blocks of a Stable Diffusion UNet, so "
                f"<lora:{self.tags[0].name}:{self}> gives no strength for it. Give one strength for all layers."
            )
        return owner.upper() if owner.startswith("te") else "OTHER"

    @property
    def _by_block(self) -> bool:
        return any(tag.by_block for tag in self.tags)


_UNET_BLOCK = re.compile(r"TE\d?|IN\d\d|MID|OUT(\d\d)?|TIME|LABEL")
_FAMILIES = {"SDXL": (12, 20), "SD1.5": (17, 26), "SD2": (17, 26)}


def block_weight_warnings(adapter: Adapter, tags: Sequence[Tag]) -> list[str]:
    """Return warnings about block weights for another family: blocks that they do not list count as 0."""
    family = adapter.family.name if adapter.family else ""
    found = []
    for tag in tags:
        count = len(tag.blocks.weights) if tag.blocks is not None else 0
        if count and family in _FAMILIES and count not in _FAMILIES[family]:
            lacking = _lacking(adapter, count)
            if lacking:
                found.append(
                    f"<lora:{tag.name}> is {family} and lbw= has {count} weights: {', '.join(lacking)} are not in such "
                    f"a list and are set to 0, as in LoRA Block Weight"
                )
    return found


def _lacking(adapter: Adapter, count: int) -> list[str]:
    there = {block(layer.canonical) for layer in adapter.layers if layer.canonical}
    return sorted(
        name for name in there if name[:2] in ("IN", "OU") and name != "OUT" and name not in BLOCK_NAMES[count]
    )
