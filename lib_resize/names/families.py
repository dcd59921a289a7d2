"""The families of base models whose layers we know by name, as tables.

Each family gives every trainable matrix one canonical id: the name in flat spelling that the hosts read for
that family. SDXL uses the words of single-file checkpoints, SD1.5 and SD2 those of diffusers, and so do
transformers for a piece of a weight that diffusers cuts (``lora_transformer_…``, as OneTrainer writes it); their
whole weights use the words of single-file checkpoints. All other spellings are looked up in
`lib_resize.names.spelling`.

A family is one entry of `FAMILIES` for each of its sizes. A new one is a table in `lib_resize.names.transformers`
(or, for a UNet, a function here that yields `LayerName` rows) and one line in `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from types import MappingProxyType

from . import transformers
from .architecture import (
    KOLORS_UNET,
    REFINER_UNET,
    SD2_UNET,
    SD15_UNET,
    SDXL_UNET,
    TextWeight,
    UNetConfig,
    Weight,
    clip_l_weights,
    open_clip_weights,
    t5_weights,
    unet_weights,
)
from .notation import WHOLE, Matrix, Numbers, Share, read_table, roots
from .transformers import Sizes


@dataclass(frozen=True)
class LayerName:
    """One layer of one family.

    `id` is the canonical id, `component` the part of the model that owns it and `shape` that of the
    weight in a model of normal size. `spellings` are its dotted names inside the component, without any
    prefix. `block` is a short label for plots. `group` is shared by layers that hosts apply only
    together (None: the layer stands alone).

    A piece of a larger weight has that weight's id in `whole`, its rows in `share`, and `swapped` where its
    two halves stand in the other order. `portable` tells that hosts read the layer under its id.
    """

    id: str
    component: str
    shape: tuple[int, ...]
    spellings: tuple[str, ...]
    block: str
    group: str | None = None
    whole: str | None = None
    share: Share = WHOLE
    swapped: bool = False
    portable: bool = True


@dataclass(frozen=True)
class Family:
    """A family of base models whose layers bear the same names, in one of its sizes.

    `base_model_version` is the value of ``ss_base_model_version`` and `modelspec_architecture` that of
    ``modelspec.architecture`` in a LoRA's metadata, as trainers write them; None where none is known to. `told` are
    beginnings of either that speak of this family (see `claims`). `components` are the denoiser first, then the text
    encoders in order. `roots` are the first words of the denoiser's names: native ones, then diffusers'. `entrance` is
    the layer that reads the latent: variants of a model widen it. `hallmark` is a part of the names of some layers
    without which a file could be of another family with the same names and widths. `rows` makes the table.
    """

    name: str
    base_model_version: str | None
    modelspec_architecture: str | None
    components: tuple[str, ...]
    rows: Callable[[], Iterable[LayerName]] = field(compare=False, repr=False)
    size: str = ""
    roots: tuple[frozenset[str], frozenset[str]] = field(default=(frozenset(), frozenset()), compare=False, repr=False)
    told: tuple[str, ...] = field(default=(), compare=False, repr=False)
    entrance: str = field(default="", compare=False, repr=False)
    hallmark: str = field(default="", compare=False, repr=False)


@cache
def layers(family: Family) -> Mapping[str, LayerName]:
    """Canonical id -> `LayerName`, for every layer of the family (made once, then shared; read-only)."""
    return MappingProxyType({row.id: row for row in family.rows()})


def component(canonical_id: str) -> str:
    """The part of the model that owns a layer: ``unet``, ``te1``, ``te2``, ``te3`` or ``te``.

    Needs no table, so it also answers for names such as ``lora_unet_…`` of an unknown family. A name
    that no family would give is in component ``other``.
    """
    for start, name in _COMPONENTS.items():
        if canonical_id.startswith(start):
            return name
    return "other"


_COMPONENTS = {
    "lora_unet_": "unet",
    "lora_transformer_": "unet",
    "lora_prior_unet_": "unet",
    "lora_te1_": "te1",
    "lora_te2_": "te2",
    "lora_te3_": "te3",
    "lora_te_": "te",
    "lora_prior_te_": "te",
}


def block(canonical_id: str) -> str:
    """Short label of the layer's block: ``IN04``, ``MID``, ``OUT02``, ``TIME``, ``LABEL``, ``D07``, ``TE1``, …

    Blocks are counted as in single-file checkpoints, for all families. Transformers have ``B`` blocks, or double
    (``D``) and single (``S``) ones, refiners (``R``, ``NR``, ``CR``), and an ``EDGE``. A layer that no family knows is
    in block ``OTHER``.
    """
    owner = component(canonical_id)
    if owner.startswith("te"):
        return owner.upper()
    for family in FAMILIES:
        row = layers(family).get(canonical_id) if _may_own(family, canonical_id) else None
        if row is not None:
            return row.block
    return "OTHER"


def _may_own(family: Family, canonical_id: str) -> bool:
    """Whether an id begins as the family's do; asked before its table is made."""
    body = next((canonical_id[len(start) :] for start in _COMPONENTS if canonical_id.startswith(start)), "")
    return any(body == root or body.startswith(f"{root}_") for words in family.roots for root in words)


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


def _text(owner: str, weights: Iterable[TextWeight], prefix: str | None = None) -> Iterator[LayerName]:
    """Rows of a text encoder; those of one fused attention share a group."""
    listed = tuple(weights)
    fused = any(weight.part is not None for weight in listed)
    for weight in listed:
        canonical_id = f"{prefix or f'lora_{owner}_'}{flatten(weight.name)}"
        attention, marker, _ = canonical_id.partition("_self_attn_")
        group = f"{attention}_self_attn" if fused and marker else None
        yield LayerName(canonical_id, owner, weight.shape, _text_spellings(weight.name), owner.upper(), group)


def _text_spellings(name: str) -> tuple[str, ...]:
    short = name.removeprefix("text_model.")
    return (name,) if short == name else (name, short)


def _refiner() -> Iterator[LayerName]:
    yield from _unet(REFINER_UNET, native="sgm")
    yield from _text("te", open_clip_weights())


def _kolors() -> Iterator[LayerName]:
    yield from _unet(KOLORS_UNET, native="sgm")
    # It stands before the UNet proper, and both layouts call it so.
    name = "encoder_hid_proj"
    yield LayerName(f"lora_unet_{name}", "unet", (KOLORS_UNET.context, 4096), (name,), "EDGE")


_UNET_ROOTS = (
    frozenset({"input_blocks", "middle_block", "output_blocks", "time_embed", "label_emb", "out"}),
    frozenset(
        {"down_blocks", "mid_block", "up_blocks", "time_embedding", "add_embedding", "conv_in", "conv_out"}
    ),
)  # fmt: skip


@dataclass(frozen=True)
class _Spelled:
    """How the ids of a transformer's denoiser begin: whole weights, and pieces, which hosts may not read so."""

    whole: str = "lora_unet_"
    piece: str = "lora_transformer_"
    portable: bool = False


def _denoiser(table: str, numbers: Numbers, spelled: _Spelled) -> Iterator[LayerName]:
    for matrix in read_table(table, numbers):
        is_own = matrix.whole is not None and not matrix.names[0].startswith(matrix.whole)
        start = spelled.piece if is_own else spelled.whole
        yield LayerName(
            id=start + flatten(matrix.names[0]),
            component="unet",
            shape=matrix.shape,
            spellings=matrix.names,
            block=matrix.label,
            whole=None if matrix.whole is None else spelled.whole + flatten(matrix.whole),
            share=matrix.share,
            swapped=matrix.swapped,
            portable=_is_portable(matrix, is_own, spelled),
        )


def _is_portable(matrix: Matrix, is_own: bool, spelled: _Spelled) -> bool:
    return matrix.whole is None or (is_own and spelled.portable)


_TEXTS: Mapping[str, Callable[[], Iterable[LayerName]]] = {
    "te1": lambda: _text("te1", clip_l_weights()),
    "te2": lambda: _text("te2", open_clip_weights()),
    "te3": lambda: _text("te3", t5_weights()),
    "te": lambda: _text("te", open_clip_weights(), "lora_prior_te_"),
}
"""Text encoders of transformers; te is that of Stable Cascade."""


def _transformer_rows(table: str, numbers: Numbers, texts: tuple[str, ...], spelled: _Spelled) -> Iterator[LayerName]:
    yield from _denoiser(table, numbers, spelled)
    for owner in texts:
        yield from _TEXTS[owner]()


def _transformer(
    name: str,
    table: str,
    sizes: Sizes,
    *,
    version: str | None = None,
    architecture: str | None = None,
    told: tuple[str, ...] = (),
    texts: tuple[str, ...] = (),
    entrance: str = "",
    hallmark: str = "",
    spelled: _Spelled = _Spelled(),
) -> tuple[Family, ...]:
    """A family of transformers, one entry a size."""
    return tuple(
        Family(
            name,
            version,
            architecture,
            ("unet", *texts),
            partial(_transformer_rows, table, numbers, texts, spelled),
            size=size,
            roots=roots(table),
            told=told,
            entrance=spelled.whole + entrance,
            hallmark=hallmark,
        )
        for size, numbers in sizes.items()
    )


SDXL = Family(
    "SDXL",
    "sdxl_base_v1-0",
    "stable-diffusion-xl-v1-base/lora",
    ("unet", "te1", "te2"),
    _sdxl,
    roots=_UNET_ROOTS,
    told=("sdxl", "sdxl1", "sdxl0", "stable-diffusion-xl", "stable-diffusion-xl-1", "illustrious", "noobai"),
    entrance="lora_unet_input_blocks_0_0",
)
REFINER = Family(
    "SDXL refiner",
    None,
    None,
    ("unet", "te"),
    _refiner,
    roots=_UNET_ROOTS,
    told=("sdxl_refiner", "stable-diffusion-xl-v1-refiner", "stable-diffusion-xl-refiner"),
    entrance="lora_unet_input_blocks_0_0",
)
KOLORS = Family(
    "Kolors",
    None,
    None,
    ("unet",),
    _kolors,
    roots=(_UNET_ROOTS[0] | {"encoder_hid_proj"}, _UNET_ROOTS[1] | {"encoder_hid_proj"}),
    told=("kolors",),
    entrance="lora_unet_input_blocks_0_0",
)
SD15 = Family(
    "SD1.5",
    "sd_v1",
    "stable-diffusion-v1/lora",
    ("unet", "te"),
    _sd15,
    roots=_UNET_ROOTS,
    told=("sd_v1", "sd1", "stable-diffusion-v1", "stable-diffusion-1"),
    entrance="lora_unet_conv_in",
)
SD2 = Family(
    "SD2",
    "sd_v2",
    "stable-diffusion-v2-512/lora",
    ("unet", "te"),
    _sd2,
    roots=_UNET_ROOTS,
    told=("sd_v2", "sd2", "stable-diffusion-v2", "stable-diffusion-2"),
    entrance="lora_unet_conv_in",
)

_READ_BY_COMFYUI = _Spelled(portable=True)

FLUX = _transformer(
    "Flux.1",
    transformers.FLUX,
    transformers.FLUX_SIZES,
    version="flux1",
    architecture="flux-1-dev/lora",
    told=("flux", "flux1"),
    texts=("te1", "te3"),
    entrance="img_in",
    spelled=_READ_BY_COMFYUI,
)
CHROMA = _transformer(
    "Chroma",
    transformers.CHROMA,
    transformers.CHROMA_SIZES,
    version="chroma",
    architecture="chroma/lora",
    told=("chroma", "chroma1"),
    texts=("te3",),
    entrance="img_in",
    spelled=_READ_BY_COMFYUI,
)
FLUX2 = tuple(
    family
    for size, numbers in transformers.FLUX2_SIZES.items()
    for family in _transformer(
        "Flux.2",
        transformers.FLUX2,
        {size: numbers},
        version=f"flux_2_{flatten(size).replace(' ', '_').lower()}",
        architecture=f"Flux.2-{size.replace(' ', '-').lower()}/lora",
        told=("flux2",),
        entrance="img_in",
    )
)
SD3 = _transformer(
    "SD3",
    transformers.SD3,
    transformers.SD3_SIZES,
    told=("sd3", "sd_v3", "stable-diffusion-3", "stable-diffusion-v3"),
    texts=("te1", "te2", "te3"),
    entrance="x_embedder_proj",
    spelled=_READ_BY_COMFYUI,
)
HUNYUAN_VIDEO = _transformer(
    "HunyuanVideo",
    transformers.HUNYUAN_VIDEO,
    transformers.HUNYUAN_VIDEO_SIZES,
    version="hunyuan_video",
    architecture="hunyuan-video/lora",
    told=("hunyuan_video", "framepack"),
    entrance="img_in_proj",
)
WAN = _transformer(
    "Wan",
    transformers.WAN,
    transformers.WAN_SIZES,
    version="wan",
    architecture="wan2.1/lora",
    told=("wan", "wan2", "wan_video_2"),
    entrance="patch_embedding",
)
QWEN_IMAGE = _transformer(
    "Qwen-Image",
    transformers.QWEN_IMAGE,
    transformers.QWEN_IMAGE_SIZES,
    version="qwen_image",
    architecture="Qwen-Image/lora",
    told=("qwen_image", "qwen"),
    entrance="img_in",
)
Z_IMAGE = _transformer(
    "Z-Image",
    transformers.Z_IMAGE,
    transformers.Z_IMAGE_SIZES,
    version="z_image",
    architecture="Z-Image/lora",
    told=("z_image",),
    entrance="x_embedder",
    spelled=_Spelled(piece="lora_unet_"),
)
LUMINA2 = _transformer(
    "Lumina 2",
    transformers.LUMINA2,
    transformers.LUMINA2_SIZES,
    version="lumina2",
    architecture="lumina-2/lora",
    told=("lumina2", "lumina_image_2"),
    entrance="x_embedder",
)
AURAFLOW = _transformer(
    "AuraFlow",
    transformers.AURAFLOW,
    transformers.AURAFLOW_SIZES,
    told=("auraflow", "auraflow0", "aura"),
    entrance="init_x_linear",
)
PIXART = _transformer(
    "PixArt",
    transformers.PIXART,
    transformers.PIXART_SIZES,
    told=("pixart",),
    entrance="x_embedder_proj",
    hallmark="cross_attn",
)
CASCADE = _transformer(
    "Stable Cascade",
    transformers.CASCADE,
    transformers.CASCADE_SIZES,
    told=("stable_cascade",),
    texts=("te",),
    entrance="embedding_1",
    spelled=_Spelled("lora_prior_unet_", "lora_prior_unet_", portable=True),
)
LTX = _transformer(
    "LTX-Video",
    transformers.LTX,
    transformers.LTX_SIZES,
    told=("ltx",),
    entrance="patchify_proj",
    hallmark="attn2",
)
HIDREAM = _transformer(
    "HiDream",
    transformers.HIDREAM,
    transformers.HIDREAM_SIZES,
    told=("hidream_i1", "hidream_e1", "hidream_full", "hidream_dev", "hidream_fast"),
    entrance="x_embedder_proj",
)
KREA2 = _transformer(
    "Krea 2",
    transformers.KREA2,
    transformers.KREA2_SIZES,
    version="krea2",
    architecture="Krea-2/lora",
    told=("krea2",),
    entrance="first",
)

FAMILIES = (
    SDXL,
    SD15,
    SD2,
    REFINER,
    KOLORS,
    *FLUX,
    *CHROMA,
    *FLUX2,
    *SD3,
    *HUNYUAN_VIDEO,
    *WAN,
    *QWEN_IMAGE,
    *Z_IMAGE,
    *LUMINA2,
    *AURAFLOW,
    *PIXART,
    *CASCADE,
    *LTX,
    *HIDREAM,
    *KREA2,
)
"""Every family, one entry a size. Where nothing else decides, the first wins."""
