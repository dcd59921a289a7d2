"""The layers of cloneofsimo's files, which are numbered in the order in which that trainer found them.

A file lists classes of modules. Its layers are the Linear (and, with residual blocks, Conv2d) modules inside of the
modules of these classes, in torch's order: a UNet of diffusers registers its down blocks, then its up blocks, then the
middle one, and Hugging Face's CLIP registers k, v, q, out. In late 2022 diffusers had the feed-forward network of a
transformer block between its two attentions; today it follows them. Shapes show which order a file has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from .architecture import SD2_UNET, SD15_UNET, UNetConfig, Weight, clip_l_weights, unet_weights
from .family import flatten

Order = list[tuple[str, tuple[int, int]]]
"""kohya's name and ``(out, in)`` of each layer, by its number."""

UNET, TEXT = "unet", "text_encoder"
_ATTENTION, _GATE, _RESNET = ("CrossAttention", "Attention"), ("GEGLU",), ("ResnetBlock2D",)
CLASSES = {UNET: frozenset((*_ATTENTION, *_GATE, *_RESNET)), TEXT: frozenset({"CLIPAttention"})}
"""Known classes of modules, by component."""

_BLOCKS = ("down_blocks", "up_blocks", "mid_block")
_IN_BLOCK = (("attn1.", "ff.", "attn2."), ("attn1.", "attn2.", "ff."))
_IN_RESNET = ("conv1", "time_emb_proj", "conv2", "conv_shortcut")
_IN_CLIP = ("k_proj", "v_proj", "q_proj", "out_proj")


def layer_orders(component: str, classes: Sequence[str]) -> Iterator[Order]:
    """Yield all orders that a file of these classes can have, SD1.5's first."""
    if component == TEXT:
        yield from (_text(12, 768), _text(23, 1024))
        return
    for config in (SD15_UNET, SD2_UNET):
        for words in _IN_BLOCK:
            yield _unet(config, frozenset(classes), words)


def _text(depth: int, width: int) -> Order:
    rows = [weight for weight in clip_l_weights(depth, width) if ".self_attn." in weight.name]
    rows.sort(key=lambda weight: (_numbers(weight.name), _IN_CLIP.index(weight.name.rpartition(".")[2])))
    return [("lora_te_" + flatten(weight.name), (weight.shape[0], weight.shape[1])) for weight in rows]


def _unet(config: UNetConfig, classes: frozenset[str], words: Sequence[str]) -> Order:
    rows = [weight for weight in unet_weights(config) if _is_inside(weight.diffusers, classes)]
    rows.sort(key=lambda weight: _place(weight.diffusers, words))
    return [("lora_unet_" + flatten(weight.diffusers), _flat(weight)) for weight in rows]


def _is_inside(name: str, classes: frozenset[str]) -> bool:
    if ".attn1." in name or ".attn2." in name:
        return not classes.isdisjoint(_ATTENTION)
    if name.endswith("ff.net.0.proj"):
        return not classes.isdisjoint(_GATE)
    return ".resnets." in name and not classes.isdisjoint(_RESNET)


def _place(name: str, words: Sequence[str]) -> tuple[int, tuple[int, ...], int, int]:
    """Return the block and its number, attentions before residual blocks; rows of one module keep their order."""
    block = next(i for i, start in enumerate(_BLOCKS) if name.startswith(start))
    numbers = _numbers(name)
    is_resnet = ".resnets." in name
    outer = (numbers[0] if block < 2 else 0, int(is_resnet), *numbers[int(block < 2) :][: 1 if is_resnet else 2])
    if is_resnet:
        return block, outer, _IN_RESNET.index(name.rpartition(".")[2]), 0
    return block, outer, next(i for i, word in enumerate(words) if f".{word}" in name), 0


def _numbers(name: str) -> tuple[int, ...]:
    return tuple(int(word) for word in name.split(".") if word.isdigit())


def _flat(weight: Weight) -> tuple[int, int]:
    return weight.shape[0], prod(weight.shape[1:])
