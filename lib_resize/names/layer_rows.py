"""The layers of a family as `LayerName` rows, from the sizes of a UNet or the table of a transformer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

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
from .family import Family, LayerName, flatten
from .table_reader import Matrix, Numbers, read_table, roots
from .transformers import Sizes


def sdxl_rows() -> Iterator[LayerName]:
    yield from _unet(SDXL_UNET, native="sgm")
    yield from _text("te1", clip_l_weights())
    yield from _text("te2", open_clip_weights())


def sd15_rows() -> Iterator[LayerName]:
    yield from _unet(SD15_UNET, native="diffusers")
    yield from _text("te", clip_l_weights())


def sd2_rows() -> Iterator[LayerName]:
    # Checkpoints hold 24 layers; trainers and diffusers build 23, as the last one is never used.
    yield from _unet(SD2_UNET, native="diffusers")
    yield from _text("te", open_clip_weights(layers=24, width=1024, projection=False))


def _unet(config: UNetConfig, native: str) -> Iterator[LayerName]:
    for weight in unet_weights(config):
        name = weight.sgm if native == "sgm" else weight.diffusers
        names = _unet_names(weight)
        yield LayerName(f"lora_unet_{flatten(name)}", "unet", weight.shape, names, _block(weight.sgm))


def _unet_names(weight: Weight) -> tuple[str, ...]:
    """Return the names in both layouts, and for attention those of diffusers' first, processor-based LoRA files."""
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
    """Yield the rows of a text encoder; those of one fused attention share a group."""
    listed = tuple(weights)
    fused = any(weight.part is not None for weight in listed)
    for weight in listed:
        canonical_id = f"{prefix or f'lora_{owner}_'}{flatten(weight.name)}"
        attention, marker, _ = canonical_id.partition("_self_attn_")
        group = f"{attention}_self_attn" if fused and marker else None
        yield LayerName(canonical_id, owner, weight.shape, _text_names(weight.name), owner.upper(), group)


def _text_names(name: str) -> tuple[str, ...]:
    short = name.removeprefix("text_model.")
    return (name,) if short == name else (name, short)


def refiner_rows() -> Iterator[LayerName]:
    yield from _unet(REFINER_UNET, native="sgm")
    yield from _text("te", open_clip_weights())


def kolors_rows() -> Iterator[LayerName]:
    yield from _unet(KOLORS_UNET, native="sgm")
    # It precedes the UNet proper, and has this name in both layouts.
    name = "encoder_hid_proj"
    yield LayerName(f"lora_unet_{name}", "unet", (KOLORS_UNET.context, 4096), (name,), "EDGE")


UNET_ROOTS = (
    frozenset({"input_blocks", "middle_block", "output_blocks", "time_embed", "label_emb", "out"}),
    frozenset(
        {"down_blocks", "mid_block", "up_blocks", "time_embedding", "add_embedding", "conv_in", "conv_out"}
    ),
)  # fmt: skip


@dataclass(frozen=True)
class IdPrefixes:
    """Prefixes of the ids of a transformer's whole weights and pieces, and whether hosts read the pieces."""

    whole: str = "lora_unet_"
    piece: str = "lora_transformer_"
    portable: bool = False


def _denoiser(table: str, numbers: Numbers, prefixes: IdPrefixes) -> Iterator[LayerName]:
    for matrix in read_table(table, numbers):
        is_own = matrix.whole is not None and not matrix.names[0].startswith(matrix.whole)
        start = prefixes.piece if is_own else prefixes.whole
        yield LayerName(
            id=start + flatten(matrix.names[0]),
            component="unet",
            shape=matrix.shape,
            dotted_names=matrix.names,
            block=matrix.label,
            whole=None if matrix.whole is None else prefixes.whole + flatten(matrix.whole),
            share=matrix.share,
            swapped=matrix.swapped,
            portable=_is_portable(matrix, is_own, prefixes),
        )


def _is_portable(matrix: Matrix, is_own: bool, prefixes: IdPrefixes) -> bool:
    return matrix.whole is None or (is_own and prefixes.portable)


_TEXTS: Mapping[str, Callable[[], Iterable[LayerName]]] = {
    "te1": lambda: _text("te1", clip_l_weights()),
    "te2": lambda: _text("te2", open_clip_weights()),
    "te3": lambda: _text("te3", t5_weights()),
    "te": lambda: _text("te", open_clip_weights(), "lora_prior_te_"),
}
"""Text encoders of transformers; te is that of Stable Cascade."""


def _transformer_rows(
    table: str, numbers: Numbers, texts: tuple[str, ...], prefixes: IdPrefixes
) -> Iterator[LayerName]:
    yield from _denoiser(table, numbers, prefixes)
    for owner in texts:
        yield from _TEXTS[owner]()


def transformer_family(
    name: str,
    table: str,
    sizes: Sizes,
    *,
    version: str | None = None,
    architecture: str | None = None,
    hints: tuple[str, ...] = (),
    texts: tuple[str, ...] = (),
    input_layer: str = "",
    distinguishing_name: str = "",
    prefixes: IdPrefixes = IdPrefixes(),
) -> tuple[Family, ...]:
    """Return a family of transformers, one entry a size."""
    return tuple(
        Family(
            name,
            version,
            architecture,
            ("unet", *texts),
            partial(_transformer_rows, table, numbers, texts, prefixes),
            size=size,
            roots=roots(table),
            hints=hints,
            input_layer=prefixes.whole + input_layer,
            distinguishing_name=distinguishing_name,
        )
        for size, numbers in sizes.items()
    )
