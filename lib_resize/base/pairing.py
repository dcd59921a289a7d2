"""Which tensor of a base model, and which of its rows, a LoRA layer changes.

The map is made forward from the keys that the checkpoint really has: single-file and diffusers layouts
become the same dotted names, fused tensors are cut, and each piece is filed under the canonical id of
its layer. Only the header is needed; nothing is read from the tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from math import prod

from ..names.architecture import open_clip_weights
from ..names.families import Family, flatten
from ..names.spelling import canonical, identify, split


@dataclass(frozen=True)
class BaseWeight:
    """The part of one stored tensor that is one layer's weight.

    `shape` is that of the part as it is stored, ``(out, in)``, ``(out, in, height, width)``, or
    ``(in, out)`` where `transposed`. `rows` is the half-open range of the stored tensor's first
    dimension, or None for all of it.
    """

    key: str
    shape: tuple[int, ...]
    rows: tuple[int, int] | None = None
    transposed: bool = False

    @property
    def matrix(self) -> tuple[int, int]:
        """``(out, in)`` of the weight as a matrix, convolutions flattened and the transpose undone."""
        first, rest = self.shape[0], prod(self.shape[1:])
        return (rest, first) if self.transposed else (first, rest)


@dataclass(frozen=True)
class BaseModel:
    """All weights of a base model that a LoRA layer could change.

    `weights` maps canonical ids of `family` to weights. `generic` maps the names that kohya's rule gives
    to the checkpoint's own words (``lora_unet_…``, ``lora_te1_…``, ``lora_te2_…``, dots made
    underscores) to the same weights, so that layers outside our tables still find their partner.
    """

    family: Family | None
    weights: Mapping[str, BaseWeight]
    generic: Mapping[str, BaseWeight]


@dataclass(frozen=True)
class _Home:
    """Where a checkpoint keeps one component: `slot` 0 is the denoiser, 1 and 2 the text encoders."""

    prefix: str
    slot: int
    open_clip: bool = False


_HOMES = (
    _Home("model.diffusion_model.", 0),
    _Home("diffusion_model.", 0),
    _Home("unet.", 0),
    _Home("conditioner.embedders.0.transformer.", 1),
    _Home("conditioner.embedders.0.model.", 1, open_clip=True),
    _Home("conditioner.embedders.1.model.", 2, open_clip=True),
    _Home("cond_stage_model.transformer.", 1),
    _Home("cond_stage_model.model.", 1, open_clip=True),
    _Home("text_encoder.", 1),
    _Home("text_encoder_2.", 2),
    _Home("text_encoders.clip_l.transformer.", 1),
    _Home("text_encoders.clip_h.transformer.", 1),
    _Home("text_encoders.clip_g.transformer.", 2),
    _Home("", 0),
)

_NEVER_TRAINED = (
    "first_stage_model.",
    "vae.",
    "model_ema.",
    "cond_stage_model.",
    "conditioner.",
    "text_encoders.",
    "safety_checker.",
    "control_model.",
)

_SLOT_PREFIXES = ("lora_unet_", "lora_te1_", "lora_te2_")
_DOTTED_PREFIXES = ("diffusion_model.", "text_encoder.", "text_encoder_2.")

_DENOISER_STARTS = (
    "model.diffusion_model.",
    "diffusion_model.",
    "unet.",
    "down_blocks.",
    "mid_block.",
    "up_blocks.",
    "input_blocks.",
    "middle_block.",
    "output_blocks.",
)
_ADAPTER_MARKS = ("lora", "hada_", "lokr_", "oft_", "lycoris_", "ia3_", "dora_scale")
_ADAPTER_ENDS = (".diff", ".diff_b", ".set_weight", ".w_norm", ".b_norm", ".a1.weight", ".b1.weight")


def looks_like_checkpoint(keys: Iterable[str]) -> bool:
    """Whether a file's keys are those of a base model with a denoiser, not of an adapter for one.

    True if at least one weight of a denoiser is there under its own name, and no key bears the mark of
    an adapter. A base of a layout that we have never seen gives False: the user can name it outright.
    """
    found = False
    for key in keys:
        if _is_adapter_key(key):
            return False
        found = found or (key.startswith(_DENOISER_STARTS) and key.endswith(".weight"))
    return found


def looks_like_adapter(keys: Iterable[str]) -> bool:
    """Whether any key bears the mark of an adapter, which no base model has."""
    return any(map(_is_adapter_key, keys))


def _is_adapter_key(key: str) -> bool:
    return key.endswith(_ADAPTER_ENDS) or any(mark in key for mark in _ADAPTER_MARKS)


def read_base(shapes: Mapping[str, tuple[int, ...]]) -> BaseModel:
    """Read a base model's header: `shapes` maps every key of the file to its tensor's shape.

    Norms, biases, the VAE and EMA copies are left out. If a layer is there twice, the first in the
    order of `shapes` counts.
    """
    found = [part for key, shape in shapes.items() for part in _parts(key, shape)]
    stems = {_DOTTED_PREFIXES[slot] + name: weight for slot, name, weight in reversed(found)}
    family = identify({stem: weight.matrix for stem, weight in stems.items()})
    generic = {_SLOT_PREFIXES[slot] + flatten(name): weight for slot, name, weight in reversed(found)}
    return BaseModel(family, {} if family is None else _by_id(stems, family), generic)


def vectors(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The biases and norms of denoiser and text encoders: what of a model is no matrix."""
    return {key: shape for key, shape in shapes.items() if len(shape) == 1 and _is_trained(key)}


def _is_trained(key: str) -> bool:
    home = next(home for home in _HOMES if key.startswith(home.prefix))
    return bool(home.prefix) or not key.startswith(_NEVER_TRAINED)


def partner(base: BaseModel, canonical_id: str | None, stem: str) -> BaseWeight | None:
    """The weight that a LoRA layer changes, or None if the base has no such layer.

    `canonical_id` is the layer's id in the LoRA's family, None if that is unknown; `stem` is its name as
    the file spells it. A layer of a known family pairs only by its id, so that a LoRA of another family
    cannot find a weight that merely has the same words; all others pair by their own name.
    """
    if base.family is not None and canonical_id is not None:
        return base.weights.get(canonical_id)
    prefix, body = split(stem)
    for slot in prefix.slots:
        found = base.generic.get(_SLOT_PREFIXES[slot] + flatten(body))
        if found is not None:
            return found
    return None


def _by_id(stems: Mapping[str, BaseWeight], family: Family) -> dict[str, BaseWeight]:
    named = ((canonical(stem, family), weight) for stem, weight in stems.items())
    return {name: weight for name, weight in named if name is not None}


def _parts(key: str, shape: tuple[int, ...]) -> Iterator[tuple[int, str, BaseWeight]]:
    """The layers in one stored tensor: slot, dotted name without prefix, and weight."""
    if len(shape) < 2:
        return
    if not _is_trained(key):
        return
    home = next(home for home in _HOMES if key.startswith(home.prefix))
    body = key[len(home.prefix) :]
    if home.open_clip and body in _open_clip():
        yield from _open_clip_parts(home.slot, key, body, shape)
    elif body.endswith(".weight"):
        yield home.slot, body.removesuffix(".weight"), BaseWeight(key, shape)


def _open_clip_parts(slot: int, key: str, body: str, shape: tuple[int, ...]) -> Iterator[tuple[int, str, BaseWeight]]:
    for name, part, transposed in _open_clip()[body]:
        if part is None:
            yield slot, name, BaseWeight(key, shape, None, transposed)
        elif shape[0] % 3 == 0:
            rows = shape[0] // 3
            yield slot, name, BaseWeight(key, (rows, *shape[1:]), (part * rows, (part + 1) * rows))


@cache
def _open_clip() -> Mapping[str, list[tuple[str, int | None, bool]]]:
    """Key below an OpenCLIP encoder's prefix -> the layers that it holds: name, third, transposed."""
    homes: dict[str, list[tuple[str, int | None, bool]]] = {}
    for weight in open_clip_weights():
        homes.setdefault(weight.stored, []).append((weight.name, weight.part, weight.transposed))
    return homes
