"""The shapes of made-up SDXL checkpoints, under the names of the original release."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..files.header import TensorSpec, file_order
from ..names.architecture import (
    SDXL_UNET,
    TextWeight,
    UNetConfig,
    Weight,
    clip_l_weights,
    open_clip_weights,
    unet_weights,
)

UNET_PREFIX = "model.diffusion_model."
CLIP_L_PREFIX = "conditioner.embedders.0.transformer."
OPEN_CLIP_PREFIX = "conditioner.embedders.1.model."


@dataclass(frozen=True)
class Model:
    """The sizes of one SDXL-shaped model."""

    unet: UNetConfig
    clip_l_layers: int
    clip_l_width: int
    open_clip_layers: int
    open_clip_width: int
    vocabulary: int = 49408
    positions: int = 77

    @property
    def clip_l(self) -> tuple[TextWeight, ...]:
        """Return the matrices of the first text encoder."""
        return clip_l_weights(self.clip_l_layers, self.clip_l_width)

    @property
    def open_clip(self) -> tuple[TextWeight, ...]:
        """Return the matrices of the second text encoder, with its projection."""
        return open_clip_weights(self.open_clip_layers, self.open_clip_width)


FULL = Model(SDXL_UNET, clip_l_layers=12, clip_l_width=768, open_clip_layers=32, open_clip_width=1280)
"""The sizes of SDXL: a float16 checkpoint has 6.8 GB."""

SMALL = Model(
    UNetConfig(channels=32, depths=(0, 2, 1), middle_depth=1, context=48, label_channels=80),
    clip_l_layers=3,
    clip_l_width=16,
    open_clip_layers=3,
    open_clip_width=32,
    vocabulary=1024,
)
"""Every kind of layer under its real name at tiny widths: a float16 checkpoint has 13 MB."""


def checkpoint_specs(model: Model, dtype: str = "F16") -> list[TensorSpec]:
    """Return every tensor of a checkpoint, in the order of the file."""
    shapes = {**_unet_shapes(model.unet), **_clip_l_shapes(model), **_open_clip_shapes(model)}
    specs = [TensorSpec(key, dtype, shape) for key, shape in shapes.items()]
    positions = f"{CLIP_L_PREFIX}text_model.embeddings.position_ids"
    return file_order([*specs, TensorSpec(positions, "I64", (1, model.positions))])


def _unet_shapes(config: UNetConfig) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for weight in unet_weights(config):
        shapes[f"{weight.sgm}.weight"] = weight.shape
        if not weight.sgm.endswith((".to_q", ".to_k", ".to_v")):
            shapes[f"{weight.sgm}.bias"] = weight.shape[:1]
        for norm, width in _norms_of(weight):
            shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (width,)
    return {UNET_PREFIX + key: shape for key, shape in shapes.items()}


def _norms_of(weight: Weight) -> Iterator[tuple[str, int]]:
    """Yield name and width of the normalizations before a weight, or in its block."""
    stem, _, last = weight.sgm.rpartition(".")
    if weight.sgm.endswith(("in_layers.2", "out_layers.3", "out.2")):
        yield f"{stem}.0", weight.shape[1]
    elif last == "proj_in":
        yield f"{stem}.norm", weight.shape[1]
    elif weight.sgm.endswith("attn1.to_q"):
        yield from ((f"{stem.removesuffix('.attn1')}.norm{index}", weight.shape[0]) for index in (1, 2, 3))


def _clip_l_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    width, root = model.clip_l_width, f"{CLIP_L_PREFIX}text_model."
    shapes: dict[str, tuple[int, ...]] = {
        f"{root}embeddings.token_embedding.weight": (model.vocabulary, width),
        f"{root}embeddings.position_embedding.weight": (model.positions, width),
    }
    for weight in model.clip_l:
        shapes[f"{CLIP_L_PREFIX}{weight.name}.weight"] = weight.shape
        shapes[f"{CLIP_L_PREFIX}{weight.name}.bias"] = weight.shape[:1]
    norms = [f"{root}encoder.layers.{i}.layer_norm{j}" for i in range(model.clip_l_layers) for j in (1, 2)]
    return {**shapes, **_norm_shapes([*norms, f"{root}final_layer_norm"], width)}


def _open_clip_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    width, root = model.open_clip_width, OPEN_CLIP_PREFIX
    shapes: dict[str, tuple[int, ...]] = {
        f"{root}token_embedding.weight": (model.vocabulary, width),
        f"{root}positional_embedding": (model.positions, width),
        f"{root}logit_scale": (),
    }
    for weight in model.open_clip:
        rows = weight.shape[0] if weight.part is None else 3 * weight.shape[0]
        shapes[root + weight.stored] = (rows, weight.shape[1])
        if not weight.transposed:
            shapes[root + weight.stored.removesuffix("weight") + "bias"] = (rows,)
    norms = [f"{root}transformer.resblocks.{i}.ln_{j}" for i in range(model.open_clip_layers) for j in (1, 2)]
    return {**shapes, **_norm_shapes([*norms, f"{root}ln_final"], width)}


def _norm_shapes(names: Iterable[str], width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{word}": (width,) for name in names for word in ("weight", "bias")}
