"""The families of base models whose layers we know by name, as tables.

Each family gives every trainable matrix one canonical id: the name that kohya's trainer writes for that
family, because it is the spelling that every host reads. SDXL uses the words of single-file checkpoints,
SD1.5 and SD2 those of diffusers. All other spellings are looked up in `lib_resize.names.spelling`.

A new family is one function that yields `LayerName` rows and one line in `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType

from .architecture import (
    SD2_UNET,
    SD15_UNET,
    SDXL_UNET,
    TextWeight,
    UNetConfig,
    Weight,
    clip_l_weights,
    open_clip_weights,
    unet_weights,
)


@dataclass(frozen=True)
class LayerName:
    """One layer of one family.

    `id` is the canonical id, `component` the part of the model that owns it and `shape` that of the
    weight in a model of normal size. `spellings` are its dotted names inside the component, without any
    prefix. `block` is a short label for plots. `group` is shared by layers that hosts apply only
    together (None: the layer stands alone).
    """

    id: str
    component: str
    shape: tuple[int, ...]
    spellings: tuple[str, ...]
    block: str
    group: str | None = None


@dataclass(frozen=True)
class Family:
    """A family of base models whose layers bear the same names.

    `base_model_version` is the value of ``ss_base_model_version`` and `modelspec_architecture` that of
    ``modelspec.architecture`` in a LoRA's metadata. `components` are the denoiser first, then the text
    encoders in order; a layer's canonical id starts with ``lora_<component>_``. `rows` makes the table.
    """

    name: str
    base_model_version: str
    modelspec_architecture: str
    components: tuple[str, ...]
    rows: Callable[[], Iterable[LayerName]] = field(compare=False, repr=False)


@cache
def layers(family: Family) -> Mapping[str, LayerName]:
    """Canonical id -> `LayerName`, for every layer of the family (made once, then shared; read-only)."""
    return MappingProxyType({row.id: row for row in family.rows()})


def component(canonical_id: str) -> str:
    """The part of the model that owns a layer: ``unet``, ``te1``, ``te2`` or ``te``.

    Needs no table, so it also answers for names such as ``lora_unet_…`` of an unknown family. A name
    that no family would give is in component ``other``.
    """
    for name in ("unet", "te1", "te2", "te"):
        if canonical_id.startswith(f"lora_{name}_"):
            return name
    return "other"


def block(canonical_id: str) -> str:
    """Short label of the layer's block: ``IN04``, ``MID``, ``OUT02``, ``TIME``, ``LABEL``, ``TE1``, …

    Blocks are counted as in single-file checkpoints, for all families. A layer that no family knows is
    in block ``OTHER``.
    """
    owner = component(canonical_id)
    if owner.startswith("te"):
        return owner.upper()
    for family in FAMILIES:
        row = layers(family).get(canonical_id)
        if row is not None:
            return row.block
    return "OTHER"


def attention_group(canonical_id: str, family: Family) -> str | None:
    """The group of four that the layer belongs to: q, k, v and out of one OpenCLIP attention, or None.

    A1111 applies these four only if all are there, because the base holds q, k and v in one tensor.
    """
    row = layers(family).get(canonical_id)
    return None if row is None else row.group


def flatten(dotted: str) -> str:
    """A dotted name as kohya writes it: every dot becomes an underscore."""
    return dotted.replace(".", "_")


def _sdxl() -> Iterator[LayerName]:
    yield from _unet(SDXL_UNET, native="sgm")
    yield from _text("te1", clip_l_weights())
    yield from _text("te2", open_clip_weights())


def _sd15() -> Iterator[LayerName]:
    yield from _unet(SD15_UNET, native="diffusers")
    yield from _text("te", clip_l_weights())


def _sd2() -> Iterator[LayerName]:
    # Checkpoints hold 24 layers; trainers and diffusers build 23, as the last one is never used.
    yield from _unet(SD2_UNET, native="diffusers")
    yield from _text("te", open_clip_weights(layers=24, width=1024, projection=False))


def _unet(config: UNetConfig, native: str) -> Iterator[LayerName]:
    for weight in unet_weights(config):
        name = weight.sgm if native == "sgm" else weight.diffusers
        spellings = _unet_spellings(weight)
        yield LayerName(f"lora_unet_{flatten(name)}", "unet", weight.shape, spellings, _block(weight.sgm))


def _unet_spellings(weight: Weight) -> tuple[str, ...]:
    """Both vocabularies, and for attention the names of diffusers' first, processor-based LoRA files."""
    owner, marker, projection = weight.diffusers.rpartition(".to_")
    if not marker:
        return weight.sgm, weight.diffusers
    old = f"{owner}.processor.to_{projection.removesuffix('.0')}"
    return weight.sgm, weight.diffusers, old


_BLOCKS = {"middle_block": "MID", "time_embed": "TIME", "label_emb": "LABEL", "out": "OUT"}
_NUMBERED_BLOCKS = {"input_blocks": "IN", "output_blocks": "OUT"}


def _block(sgm: str) -> str:
    head, number = sgm.split(".")[:2]
    if head in _NUMBERED_BLOCKS:
        return f"{_NUMBERED_BLOCKS[head]}{int(number):02d}"
    return _BLOCKS[head]


def _text(owner: str, weights: Iterable[TextWeight]) -> Iterator[LayerName]:
    """Rows of a text encoder; those of one fused attention share a group."""
    listed = tuple(weights)
    fused = any(weight.part is not None for weight in listed)
    for weight in listed:
        canonical_id = f"lora_{owner}_{flatten(weight.name)}"
        attention, marker, _ = canonical_id.partition("_self_attn_")
        group = f"{attention}_self_attn" if fused and marker else None
        yield LayerName(canonical_id, owner, weight.shape, _text_spellings(weight.name), owner.upper(), group)


def _text_spellings(name: str) -> tuple[str, ...]:
    short = name.removeprefix("text_model.")
    return (name,) if short == name else (name, short)


SDXL = Family("SDXL", "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora", ("unet", "te1", "te2"), _sdxl)
SD15 = Family("SD1.5", "sd_v1", "stable-diffusion-v1/lora", ("unet", "te"), _sd15)
SD2 = Family("SD2", "sd_v2", "stable-diffusion-v2-512/lora", ("unet", "te"), _sd2)

FAMILIES = (SDXL, SD15, SD2)
