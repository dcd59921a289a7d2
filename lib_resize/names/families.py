"""The families of base models whose layers are known by name, as tables.

Each family gives every trainable matrix one canonical id: its flat name in the key format that hosts read for that
family. SDXL uses the words of single-file checkpoints, SD1.5 and SD2 those of diffusers. Transformers use the words of
single-file checkpoints for whole weights, and those of diffusers for a piece of a weight that diffusers cuts
(``lora_transformer_…``, as OneTrainer writes it). `lib_resize.names.identify` finds the layers in all other key
formats.

A family is one entry of `FAMILIES` for each of its sizes. A new one is a table in `lib_resize.names.transformers` (or,
for a UNet, a function in `lib_resize.names.layer_rows`) and one line in `FAMILIES`.
"""

from __future__ import annotations

from . import transformers
from .family import Family, flatten, layers
from .layer_rows import (
    UNET_ROOTS,
    IdPrefixes,
    kolors_rows,
    refiner_rows,
    sd2_rows,
    sd15_rows,
    sdxl_rows,
    transformer_family,
)


def component(canonical_id: str) -> str:
    """Return the part of the model that owns a layer: ``unet``, ``te1``, ``te2``, ``te3`` or ``te``.

    It needs no table, so it also works for names such as ``lora_unet_…`` of an unknown family. The component of any
    other name is ``other``.
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
    """Return a short label of the layer's block: ``IN04``, ``MID``, ``OUT02``, ``TIME``, ``LABEL``, ``D07``, ``TE1``, …

    Blocks are counted as in single-file checkpoints, for all families. Transformers have ``B`` blocks, or double
    (``D``) and single (``S``) ones, refiners (``R``, ``NR``, ``CR``), and an ``EDGE``. The block of an unknown layer is
    ``OTHER``.
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
    """Return whether an id begins like the family's ids; checked first, so that few tables are made."""
    body = next((canonical_id[len(start) :] for start in _COMPONENTS if canonical_id.startswith(start)), "")
    return any(body == root or body.startswith(f"{root}_") for words in family.roots for root in words)


def attention_group(canonical_id: str, family: Family) -> str | None:
    """Return the group of four that the layer belongs to, or None: q, k, v and out of one OpenCLIP attention.

    A1111 applies these four only if all are present, because the base holds q, k and v in one tensor.
    """
    row = layers(family).get(canonical_id)
    return None if row is None else row.group


SDXL = Family(
    "SDXL",
    "sdxl_base_v1-0",
    "stable-diffusion-xl-v1-base/lora",
    ("unet", "te1", "te2"),
    sdxl_rows,
    roots=UNET_ROOTS,
    hints=("sdxl", "sdxl1", "sdxl0", "stable-diffusion-xl", "stable-diffusion-xl-1", "illustrious", "noobai"),
    input_layer="lora_unet_input_blocks_0_0",
)
REFINER = Family(
    "SDXL refiner",
    None,
    None,
    ("unet", "te"),
    refiner_rows,
    roots=UNET_ROOTS,
    hints=("sdxl_refiner", "stable-diffusion-xl-v1-refiner", "stable-diffusion-xl-refiner"),
    input_layer="lora_unet_input_blocks_0_0",
)
KOLORS = Family(
    "Kolors",
    None,
    None,
    ("unet",),
    kolors_rows,
    roots=(UNET_ROOTS[0] | {"encoder_hid_proj"}, UNET_ROOTS[1] | {"encoder_hid_proj"}),
    hints=("kolors",),
    input_layer="lora_unet_input_blocks_0_0",
)
SD15 = Family(
    "SD1.5",
    "sd_v1",
    "stable-diffusion-v1/lora",
    ("unet", "te"),
    sd15_rows,
    roots=UNET_ROOTS,
    hints=("sd_v1", "sd1", "stable-diffusion-v1", "stable-diffusion-1"),
    input_layer="lora_unet_conv_in",
)
SD2 = Family(
    "SD2",
    "sd_v2",
    "stable-diffusion-v2-512/lora",
    ("unet", "te"),
    sd2_rows,
    roots=UNET_ROOTS,
    hints=("sd_v2", "sd2", "stable-diffusion-v2", "stable-diffusion-2"),
    input_layer="lora_unet_conv_in",
)

_READ_BY_COMFYUI = IdPrefixes(portable=True)

FLUX = transformer_family(
    "Flux.1",
    transformers.FLUX,
    transformers.FLUX_SIZES,
    version="flux1",
    architecture="flux-1-dev/lora",
    hints=("flux", "flux1"),
    texts=("te1", "te3"),
    input_layer="img_in",
    prefixes=_READ_BY_COMFYUI,
)
CHROMA = transformer_family(
    "Chroma",
    transformers.CHROMA,
    transformers.CHROMA_SIZES,
    version="chroma",
    architecture="chroma/lora",
    hints=("chroma", "chroma1"),
    texts=("te3",),
    input_layer="img_in",
    prefixes=_READ_BY_COMFYUI,
)
FLUX2 = tuple(
    family
    for size, numbers in transformers.FLUX2_SIZES.items()
    for family in transformer_family(
        "Flux.2",
        transformers.FLUX2,
        {size: numbers},
        version=f"flux_2_{flatten(size).replace(' ', '_').lower()}",
        architecture=f"Flux.2-{size.replace(' ', '-').lower()}/lora",
        hints=("flux2",),
        input_layer="img_in",
    )
)
SD3 = transformer_family(
    "SD3",
    transformers.SD3,
    transformers.SD3_SIZES,
    hints=("sd3", "sd_v3", "stable-diffusion-3", "stable-diffusion-v3"),
    texts=("te1", "te2", "te3"),
    input_layer="x_embedder_proj",
    prefixes=_READ_BY_COMFYUI,
)
HUNYUAN_VIDEO = transformer_family(
    "HunyuanVideo",
    transformers.HUNYUAN_VIDEO,
    transformers.HUNYUAN_VIDEO_SIZES,
    version="hunyuan_video",
    architecture="hunyuan-video/lora",
    hints=("hunyuan_video", "framepack"),
    input_layer="img_in_proj",
)
WAN = transformer_family(
    "Wan",
    transformers.WAN,
    transformers.WAN_SIZES,
    version="wan",
    architecture="wan2.1/lora",
    hints=("wan", "wan2", "wan_video_2"),
    input_layer="patch_embedding",
)
QWEN_IMAGE = transformer_family(
    "Qwen-Image",
    transformers.QWEN_IMAGE,
    transformers.QWEN_IMAGE_SIZES,
    version="qwen_image",
    architecture="Qwen-Image/lora",
    hints=("qwen_image", "qwen"),
    input_layer="img_in",
)
Z_IMAGE = transformer_family(
    "Z-Image",
    transformers.Z_IMAGE,
    transformers.Z_IMAGE_SIZES,
    version="z_image",
    architecture="Z-Image/lora",
    hints=("z_image",),
    input_layer="x_embedder",
    prefixes=IdPrefixes(piece="lora_unet_"),
)
LUMINA2 = transformer_family(
    "Lumina 2",
    transformers.LUMINA2,
    transformers.LUMINA2_SIZES,
    version="lumina2",
    architecture="lumina-2/lora",
    hints=("lumina2", "lumina_image_2"),
    input_layer="x_embedder",
)
AURAFLOW = transformer_family(
    "AuraFlow",
    transformers.AURAFLOW,
    transformers.AURAFLOW_SIZES,
    hints=("auraflow", "auraflow0", "aura"),
    input_layer="init_x_linear",
)
PIXART = transformer_family(
    "PixArt",
    transformers.PIXART,
    transformers.PIXART_SIZES,
    hints=("pixart",),
    input_layer="x_embedder_proj",
    distinguishing_name="cross_attn",
)
CASCADE = transformer_family(
    "Stable Cascade",
    transformers.CASCADE,
    transformers.CASCADE_SIZES,
    hints=("stable_cascade",),
    texts=("te",),
    input_layer="embedding_1",
    prefixes=IdPrefixes("lora_prior_unet_", "lora_prior_unet_", portable=True),
)
LTX = transformer_family(
    "LTX-Video",
    transformers.LTX,
    transformers.LTX_SIZES,
    hints=("ltx",),
    input_layer="patchify_proj",
    distinguishing_name="attn2",
)
HIDREAM = transformer_family(
    "HiDream",
    transformers.HIDREAM,
    transformers.HIDREAM_SIZES,
    hints=("hidream_i1", "hidream_e1", "hidream_full", "hidream_dev", "hidream_fast"),
    input_layer="x_embedder_proj",
)
KREA2 = transformer_family(
    "Krea 2",
    transformers.KREA2,
    transformers.KREA2_SIZES,
    version="krea2",
    architecture="Krea-2/lora",
    hints=("krea2",),
    input_layer="first",
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
"""Every family, one entry a size. If nothing else decides, the first is used."""
