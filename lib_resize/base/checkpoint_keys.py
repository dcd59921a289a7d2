"""The keys of checkpoints: which component a key belongs to, and whether a file is a checkpoint or an adapter."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from ..names.families import FAMILIES
from .prefix import holds_blocks, own_prefix


@dataclass(frozen=True)
class Component:
    """A component of a model in one layout of checkpoints: `slot` 0 is the denoiser, 1 and up the text encoders."""

    prefix: str
    slot: int
    open_clip: bool = False


_COMPONENTS = (
    Component("model.diffusion_model.", 0),
    Component("diffusion_model.", 0),
    Component("unet.", 0),
    Component("transformer.", 0),
    Component("prior.", 0),
    Component("conditioner.embedders.0.transformer.", 1),
    Component("conditioner.embedders.0.model.", 1, open_clip=True),
    Component("conditioner.embedders.1.model.", 2, open_clip=True),
    Component("cond_stage_model.transformer.", 1),
    Component("cond_stage_model.model.", 1, open_clip=True),
    Component("text_encoder.", 1),
    Component("text_encoder_2.", 2),
    Component("text_encoder_3.", 3),
    Component("text_encoders.clip_l.transformer.", 1),
    Component("text_encoders.clip_h.transformer.", 1),
    Component("text_encoders.clip_g.transformer.", 2),
    Component("text_encoders.t5xxl.transformer.", 3),
    Component("", 0),
)

EMA_PREFIX = "model_ema."
_NEVER_TRAINED = (
    "first_stage_model.",
    "vae.",
    EMA_PREFIX,
    "cond_stage_model.",
    "conditioner.",
    "text_encoders.",
    "safety_checker.",
    "control_model.",
)

_DENOISER_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "unet.")
_ADAPTER_WORDS = ("lora", "hada_", "lokr_", "oft_", "lycoris_", "ia3_", "dora_scale", "ip_adapter")
_ADAPTER_WORD = re.compile("|".join(_ADAPTER_WORDS))
_ADAPTER_SUFFIXES = (
    ".diff",
    ".diff_b",
    ".set_weight",
    ".w_norm",
    ".b_norm",
    ".a1.weight",
    ".b1.weight",
    ".on_input",
    ".lambda_layer",
)


def looks_like_checkpoint(keys: Iterable[str]) -> bool:
    """Return whether a file's keys are those of a base model with a denoiser, and not of an adapter for one.

    True if at least one weight of a denoiser has its usual name, or there are numbered blocks behind a prefix, and no
    key has a mark of an adapter. False for a base model in an unknown layout: the user can pass such a file explicitly.
    """
    weights = []
    for key in keys:
        if _is_adapter_key(key):
            return False
        if key.endswith(".weight"):
            weights.append(key)
    if any(key.startswith(_denoiser_starts()) for key in weights):
        return True
    prefix = denoiser_prefix(weights)
    return bool(prefix) and any(holds_blocks(key, prefix) for key in weights)


def looks_like_adapter(keys: Iterable[str]) -> bool:
    """Return whether any key has a mark of an adapter, which no base model has."""
    return any(map(_is_adapter_key, keys))


def _is_adapter_key(key: str) -> bool:
    return _ADAPTER_WORD.search(key) is not None or key.endswith(_ADAPTER_SUFFIXES)


@cache
def _denoiser_starts() -> tuple[str, ...]:
    """Return prefixes of denoisers, and the first words of numbered blocks in files without a prefix."""
    roots = {root for family in FAMILIES for words in family.roots for root in words}
    blocks = {root for root in roots if root.endswith(("blocks", "block", "layers", "refiner"))}
    return (*_DENOISER_PREFIXES, *sorted(f"{prefix}{root}." for root in blocks for prefix in ("", "transformer.")))


def denoiser_prefix(keys: Iterable[str]) -> str:
    """Return the unusual prefix of the denoiser in a file with these keys; "" where there is none."""
    return own_prefix(key for key in keys if not component_of(key).prefix and not key.startswith(_NEVER_TRAINED))


def component_of(key: str, prefix: str = "") -> Component:
    """Return the component that a key belongs to. `prefix` is the denoiser prefix that only this file has."""
    found = next(component for component in _COMPONENTS if key.startswith(component.prefix))
    return found if found.prefix or not key.startswith(prefix) else Component(prefix, 0)


def name_in_denoiser(key: str, prefix: str = "") -> str | None:
    """Return a key of a denoiser without its prefix; None for other keys.

    `prefix` is the denoiser prefix that only this file has.
    """
    component = component_of(key, prefix)
    return key[len(component.prefix) :] if component.slot == 0 and is_trained(key) else None


def trained_vectors(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the biases and norms of denoiser and text encoders: all tensors of one dimension."""
    return {key: shape for key, shape in shapes.items() if len(shape) == 1 and is_trained(key)}


def is_trained(key: str) -> bool:
    """Return whether a key belongs to a component that LoRAs train."""
    return bool(component_of(key).prefix) or not key.startswith(_NEVER_TRAINED)
