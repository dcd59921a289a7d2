"""Index the weights of a base model by the layers that LoRA files know.

The index is made from the keys that the checkpoint has. Keys of single-file and diffusers layouts become the same
dotted names, and each tensor is filed under the canonical id of its layer. Only the header is needed; no tensor is
read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache

from ..names.architecture import open_clip_weights
from ..names.families import FAMILIES
from ..names.family import Family, flatten, layers
from ..names.identify import canonical_id, identify
from .checkpoint_keys import EMA_PREFIX, component_of, denoiser_prefix, is_trained
from .weights import BaseModel, BaseWeight, WeightPiece

SLOT_PREFIXES = ("lora_unet_", "lora_te1_", "lora_te2_", "lora_te3_")
"""kohya's prefixes of the components, by slot."""
_DOTTED_PREFIXES = ("diffusion_model.", "text_encoder.", "text_encoder_2.", "text_encoder_3.")
_SCALE_SUFFIXES = (".scale_weight", ".weight_scale")
_BLOCK_SCALE_SUFFIX = ".weight_scale_inv"


def read_base(shapes: Mapping[str, tuple[int, ...]]) -> BaseModel:
    """Index a base model. `shapes` maps every key of the file to the shape of its tensor.

    Norms, biases and the VAE are left out, and EMA copies too unless there is no other denoiser. If a layer is there
    twice, the first in the order of `shapes` counts.
    """
    prefix = denoiser_prefix(key for key, shape in shapes.items() if len(shape) > 1)
    found = [part for key, shape in shapes.items() for part in _parts(key, shape, prefix)]
    if not any(slot == 0 for slot, *_ in found):
        found = [*_ema_parts(shapes), *found]
    found = [(slot, name, _with_scale(weight, shapes)) for slot, name, weight in found if _is_plain(weight, shapes)]
    stems = {_DOTTED_PREFIXES[slot] + name: weight for slot, name, weight in reversed(found)}
    denoiser = {stem: weight for stem, weight in stems.items() if stem.startswith(_DOTTED_PREFIXES[0])}
    family = identify({stem: weight.matrix for stem, weight in (denoiser or stems).items()})
    generic = {SLOT_PREFIXES[slot] + flatten(name): weight for slot, name, weight in reversed(found)}
    weights = {} if family is None else _by_id(stems, family)
    return BaseModel(family, weights, generic, {} if family is None else _by_whole(weights, family), prefix)


def _by_id(stems: Mapping[str, BaseWeight], family: Family) -> dict[str, BaseWeight]:
    named = ((canonical_id(stem, family), weight) for stem, weight in stems.items())
    return {name: weight for name, weight in named if name is not None}


def _by_whole(weights: Mapping[str, BaseWeight], family: Family) -> dict[str, tuple[WeightPiece, ...]]:
    table = layers(family)
    cut = {row.whole for row in table.values() if row.whole is not None}
    found: dict[str, list[WeightPiece]] = {}
    for name, weight in weights.items():
        row = table[name]
        if row.whole is not None or name in cut:
            found.setdefault(row.whole or name, []).append(WeightPiece(row.share, row.swapped, weight))
    return {name: tuple(pieces) for name, pieces in found.items()}


def _parts(key: str, shape: tuple[int, ...], prefix: str) -> Iterator[tuple[int, str, BaseWeight]]:
    """Yield the layers in one stored tensor: slot, dotted name without prefix, and weight."""
    if len(shape) < 2:
        return
    if not is_trained(key):
        return
    component = component_of(key, prefix)
    name = key[len(component.prefix) :]
    if component.open_clip and name in _open_clip():
        yield from _open_clip_parts(component.slot, key, name, shape)
    elif name.endswith(".weight") or (component.slot == 0 and name.endswith(".in_proj_weight")):
        yield component.slot, name[: -len("_weight")], BaseWeight(key, shape)


def _ema_parts(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[int, str, BaseWeight]]:
    """Yield the layers of the denoiser in its EMA copy, whose names are stored without dots."""
    names = _without_dots() if any(key.startswith(EMA_PREFIX) for key in shapes) else {}
    for key, shape in shapes.items():
        name = names.get(key.removeprefix(EMA_PREFIX)) if key.startswith(EMA_PREFIX) else None
        if name is not None:
            yield 0, name, BaseWeight(key, shape)


@cache
def _without_dots() -> Mapping[str, str]:
    """Map ``diffusion_modelinput_blocks00weight`` to ``input_blocks.0.0``, for UNets: only these were saved so."""
    rows = [row for family in FAMILIES if "input_blocks" in family.roots[0] for row in layers(family).values()]
    names = {spelling for row in rows if row.component == "unet" for spelling in row.dotted_names}
    return {f"diffusion_model.{name}.weight".replace(".", ""): name for name in names}


def _with_scale(weight: BaseWeight, shapes: Mapping[str, tuple[int, ...]]) -> BaseWeight:
    keys = [weight.key.removesuffix(".weight") + suffix for suffix in _SCALE_SUFFIXES]
    scale = next((key for key in keys if key in shapes and key != weight.key), None)
    return weight if scale is None else replace(weight, scale=scale)


def _is_plain(weight: BaseWeight, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Return whether the weight can be read: numbers with a scale for each block of them cannot."""
    return weight.key.removesuffix(".weight") + _BLOCK_SCALE_SUFFIX not in shapes


def _open_clip_parts(slot: int, key: str, name: str, shape: tuple[int, ...]) -> Iterator[tuple[int, str, BaseWeight]]:
    for layer, part, transposed in _open_clip()[name]:
        if part is None:
            yield slot, layer, BaseWeight(key, shape, None, transposed)
        elif shape[0] % 3 == 0:
            rows = shape[0] // 3
            yield slot, layer, BaseWeight(key, (rows, *shape[1:]), (part * rows, (part + 1) * rows))


@cache
def _open_clip() -> Mapping[str, list[tuple[str, int | None, bool]]]:
    """Map a key of an OpenCLIP encoder, without prefix, to the layers in it: name, third of the rows, transposed."""
    found: dict[str, list[tuple[str, int | None, bool]]] = {}
    for weight in open_clip_weights():
        found.setdefault(weight.stored, []).append((weight.name, weight.part, weight.transposed))
    return found
