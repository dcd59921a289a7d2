"""How SD.Next reads the LoRA tags of a prompt, where that is not as in A1111.

It reads ``<lora:name:strength>`` and options by name: ``te=``, ``unet=``, ``in=``, ``mid=``, ``out=`` and ``dyn=``. Any
further value behind the strength, block weights and the word ``lyco`` are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator

from .tags import Tag, unknown_options


def warnings_in_sdnext(tag: Tag) -> tuple[str, ...]:
    """Return what users of SD.Next should know of a tag that can be baked: where the new file acts in another way."""
    return tuple(_warnings(tag))


def _warnings(tag: Tag) -> Iterator[str]:
    yield from unknown_options(tag)
    if tag.kind != "lora":
        yield f"SD.Next ignores <{tag.kind}:…>, but it is baked"
    if tag.values > 1:
        yield "SD.Next reads one strength behind the name; the others are baked as in A1111. Write te=, unet= and dyn="
    if tag.blocks is not None:
        yield f"SD.Next ignores lbw={tag.blocks}, but it is baked. Write in=, mid= and out="
