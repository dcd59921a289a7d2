"""Which tensors of a base model, and which of their rows, a LoRA layer changes.

The map is made forward from the keys that the checkpoint really has: single-file and diffusers layouts
become the same dotted names, and each tensor is filed under the canonical id of its layer. A layer that
the checkpoint holds as a part of a larger tensor is cut out of it, one that it holds in pieces is put
together from them. Only the header is needed; nothing is read from the tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from math import prod

from ..names.architecture import open_clip_weights
from ..names.families import FAMILIES
from ..names.family import Family, LayerName, flatten, layers
from ..names.identify import canonical_id, identify
from ..names.key_formats import Prefix, split
from ..names.table_reader import Share
from .prefix import holds_blocks, own_prefix


@dataclass(frozen=True)
class BaseWeight:
    """One stored tensor, or rows of one.

    `shape` is that of the part as it is stored, ``(out, in)``, ``(out, in, height, width)``, or
    ``(in, out)`` where `transposed`. `rows` is the half-open range of the stored tensor's first
    dimension, or None for all of it. `scale` is the key of the tensor by which quantised numbers are
    multiplied: one number, or one for each row of the whole tensor.
    """

    key: str
    shape: tuple[int, ...]
    rows: tuple[int, int] | None = None
    transposed: bool = False
    scale: str | None = None

    @property
    def matrix(self) -> tuple[int, int]:
        """``(out, in)`` of the weight as a matrix, convolutions flattened and the transpose undone."""
        first, rest = self.shape[0], prod(self.shape[1:])
        return (rest, first) if self.transposed else (first, rest)


@dataclass(frozen=True)
class Partner:
    """The weight that a LoRA layer changes: stored parts, one below the other.

    `swapped` tells that the layer has the two halves of these rows in the other order. `width` is the number
    of the layer's columns where that is not the weight's own: columns beyond it are left out, as those
    that an inpainting model adds; missing ones count as zeros.
    """

    parts: tuple[BaseWeight, ...]
    swapped: bool = False
    width: int | None = None

    @property
    def key(self) -> str:
        """Key of the first tensor, for messages."""
        return self.parts[0].key

    @property
    def transposed(self) -> bool:
        return self.parts[0].transposed

    @property
    def matrix(self) -> tuple[int, int]:
        """``(out, in)`` as the layer sees it."""
        return sum(part.matrix[0] for part in self.parts), self.width or self.parts[0].matrix[1]


@dataclass(frozen=True)
class _Piece:
    """A stored tensor as a share of the whole weight that it belongs to."""

    share: Share
    swapped: bool
    weight: BaseWeight


@dataclass(frozen=True)
class BaseModel:
    """All weights of a base model that a LoRA layer could change.

    `weights` maps canonical ids of `family` to weights. `generic` maps the names that kohya's rule gives
    to the checkpoint's own words (``lora_unet_…``, ``lora_te1_…``, ``lora_te2_…``, dots made
    underscores) to the same weights, so that layers outside our tables still find their partner.
    `pieces` maps the id of a weight that some layouts cut to what this checkpoint holds of it. `prefix` is what this
    file alone has before the names of its denoiser, "" in files with a usual prefix or none.
    """

    family: Family | None
    weights: Mapping[str, BaseWeight]
    generic: Mapping[str, BaseWeight]
    pieces: Mapping[str, tuple[_Piece, ...]] = field(default_factory=dict)
    prefix: str = ""


@dataclass(frozen=True)
class _Home:
    """Where a checkpoint keeps one component: `slot` 0 is the denoiser, 1 and up the text encoders."""

    prefix: str
    slot: int
    open_clip: bool = False


_HOMES = (
    _Home("model.diffusion_model.", 0),
    _Home("diffusion_model.", 0),
    _Home("unet.", 0),
    _Home("transformer.", 0),
    _Home("prior.", 0),
    _Home("conditioner.embedders.0.transformer.", 1),
    _Home("conditioner.embedders.0.model.", 1, open_clip=True),
    _Home("conditioner.embedders.1.model.", 2, open_clip=True),
    _Home("cond_stage_model.transformer.", 1),
    _Home("cond_stage_model.model.", 1, open_clip=True),
    _Home("text_encoder.", 1),
    _Home("text_encoder_2.", 2),
    _Home("text_encoder_3.", 3),
    _Home("text_encoders.clip_l.transformer.", 1),
    _Home("text_encoders.clip_h.transformer.", 1),
    _Home("text_encoders.clip_g.transformer.", 2),
    _Home("text_encoders.t5xxl.transformer.", 3),
    _Home("", 0),
)

_EMA = "model_ema."
_NEVER_TRAINED = (
    "first_stage_model.",
    "vae.",
    _EMA,
    "cond_stage_model.",
    "conditioner.",
    "text_encoders.",
    "safety_checker.",
    "control_model.",
)

_SLOT_PREFIXES = ("lora_unet_", "lora_te1_", "lora_te2_", "lora_te3_")
_DOTTED_PREFIXES = ("diffusion_model.", "text_encoder.", "text_encoder_2.", "text_encoder_3.")

_DENOISER_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "unet.")
_ADAPTER_MARKS = ("lora", "hada_", "lokr_", "oft_", "lycoris_", "ia3_", "dora_scale", "ip_adapter")
_ADAPTER_ENDS = (
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
_SCALES = (".scale_weight", ".weight_scale")
_OTHERWISE_PACKED = ".weight_scale_inv"


def looks_like_checkpoint(keys: Iterable[str]) -> bool:
    """Whether a file's keys are those of a base model with a denoiser, not of an adapter for one.

    True if at least one weight of a denoiser is there under its own name, or numbered blocks behind a prefix, and no
    key bears the mark of an adapter. A base of a layout that we have never seen gives False: the user can name it
    outright.
    """
    weights = []
    for key in keys:
        if _is_adapter_key(key):
            return False
        if key.endswith(".weight"):
            weights.append(key)
    if any(key.startswith(_denoiser_starts()) for key in weights):
        return True
    prefix = _own_prefix(weights)
    return bool(prefix) and any(holds_blocks(key, prefix) for key in weights)


def looks_like_adapter(keys: Iterable[str]) -> bool:
    """Whether any key bears the mark of an adapter, which no base model has."""
    return any(map(_is_adapter_key, keys))


def _is_adapter_key(key: str) -> bool:
    return key.endswith(_ADAPTER_ENDS) or any(mark in key for mark in _ADAPTER_MARKS)


@cache
def _denoiser_starts() -> tuple[str, ...]:
    """Prefixes of denoisers, and the first words of their blocks (which are numbered) where there is no prefix."""
    roots = {root for family in FAMILIES for words in family.roots for root in words}
    blocks = {root for root in roots if root.endswith(("blocks", "block", "layers", "refiner"))}
    return (*_DENOISER_PREFIXES, *sorted(f"{prefix}{root}." for root in blocks for prefix in ("", "transformer.")))


def read_base(shapes: Mapping[str, tuple[int, ...]]) -> BaseModel:
    """Read a base model's header: `shapes` maps every key of the file to its tensor's shape.

    Norms, biases and the VAE are left out, and EMA copies too unless there is no other denoiser. If a layer
    is there twice, the first in the order of `shapes` counts.
    """
    prefix = _own_prefix(key for key, shape in shapes.items() if len(shape) > 1)
    found = [part for key, shape in shapes.items() for part in _parts(key, shape, prefix)]
    if not any(slot == 0 for slot, *_ in found):
        found = [*_ema_parts(shapes), *found]
    found = [(slot, name, _scaled(weight, shapes)) for slot, name, weight in found if _is_plain(weight, shapes)]
    stems = {_DOTTED_PREFIXES[slot] + name: weight for slot, name, weight in reversed(found)}
    denoiser = {stem: weight for stem, weight in stems.items() if stem.startswith(_DOTTED_PREFIXES[0])}
    family = identify({stem: weight.matrix for stem, weight in (denoiser or stems).items()})
    generic = {_SLOT_PREFIXES[slot] + flatten(name): weight for slot, name, weight in reversed(found)}
    weights = {} if family is None else _by_id(stems, family)
    return BaseModel(family, weights, generic, {} if family is None else _by_whole(weights, family), prefix)


def _own_prefix(keys: Iterable[str]) -> str:
    """The prefix of the denoiser among keys without a usual one."""
    return own_prefix(key for key in keys if not _home(key).prefix and not key.startswith(_NEVER_TRAINED))


def _home(key: str, prefix: str = "") -> _Home:
    """Where a key belongs; `prefix` is the file's own."""
    found = next(home for home in _HOMES if key.startswith(home.prefix))
    return found if found.prefix or not key.startswith(prefix) else _Home(prefix, 0)


def name_in_denoiser(key: str, prefix: str = "") -> str | None:
    """A key of a denoiser without what stands before its names; None for other keys. `prefix` is the file's own."""
    home = _home(key, prefix)
    return key[len(home.prefix) :] if home.slot == 0 and _is_trained(key) else None


def vectors(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The biases and norms of denoiser and text encoders: what of a model is no matrix."""
    return {key: shape for key, shape in shapes.items() if len(shape) == 1 and _is_trained(key)}


def _is_trained(key: str) -> bool:
    return bool(_home(key).prefix) or not key.startswith(_NEVER_TRAINED)


def partner(base: BaseModel, canonical_id: str | None, stem: str) -> Partner | None:
    """The weight that a LoRA layer changes, or None if the base has no such layer.

    `canonical_id` is the layer's id in the LoRA's family, None if that is unknown; `stem` is its name as
    the file spells it. A layer of a known family pairs only by its id, so that a LoRA of another family
    cannot find a weight that merely has the same words; all others pair by their own name, with or without a prefix
    that the file of either has before it.
    """
    if base.family is not None and canonical_id is not None:
        found = base.weights.get(canonical_id)
        return _from_pieces(base, canonical_id) if found is None else Partner((found,))
    prefix, body = split(stem)
    for slot in prefix.slots:
        found = base.generic.get(_SLOT_PREFIXES[slot] + flatten(body))
        if found is not None:
            return Partner((found,))
    found = _behind_prefix(base, prefix, body) if 0 in prefix.slots else None
    return None if found is None else Partner((found,))


def _behind_prefix(base: BaseModel, prefix: Prefix, body: str) -> BaseWeight | None:
    """A weight of the denoiser whose name is what is left of a LoRA's without a prefix."""
    denoiser = _SLOT_PREFIXES[0]
    if prefix.flat:
        own = flatten(base.prefix)
        return base.generic.get(denoiser + body.removeprefix(own)) if own else None
    rest = body.partition(".")[2]
    while "." in rest:
        found = base.generic.get(denoiser + flatten(rest))
        if found is not None and _is_numbered(rest):
            return found
        rest = rest.partition(".")[2]
    return None


def _is_numbered(name: str) -> bool:
    """Whether it begins with a numbered block, as what follows a prefix does."""
    return name.split(".")[1].isdecimal()


def fitted(found: Partner, size: tuple[int, int], canonical_id: str | None, family: Family | None) -> Partner | None:
    """The partner of a layer of this size (n, m); None where it is no partner of such a layer.

    The layer that reads the latent may have more or fewer columns: inpainting models and those that are steered by
    a second picture widen it.
    """
    if found.matrix == size:
        return found
    weight = found.parts[0]
    is_entrance = family is not None and canonical_id == family.input_layer and len(found.parts) == 1
    kernel = prod(weight.shape[2:])
    if not is_entrance or weight.transposed or found.matrix[0] != size[0] or size[1] % kernel:
        return None
    return replace(found, width=size[1])


def _from_pieces(base: BaseModel, canonical_id: str) -> Partner | None:
    """A layer that the base holds as a part of a larger tensor, or in several."""
    row = layers(base.family).get(canonical_id) if base.family else None
    if row is None:
        return None
    found = base.pieces.get(row.whole or row.id, ())
    around = next((piece for piece in found if _covers(piece.share, row.share)), None)
    if around is not None:
        return _cut(around, row)
    return _stacked(found, row)


def _covers(outer: Share, inner: Share) -> bool:
    return outer.first * inner.of <= inner.first * outer.of and outer.last * inner.of >= inner.last * outer.of


def _cut(piece: _Piece, row: LayerName) -> Partner | None:
    weight = piece.weight
    if (piece.share.first * row.share.of, piece.share.last * row.share.of) == (
        row.share.first * piece.share.of,
        row.share.last * piece.share.of,
    ):
        return Partner((weight,), swapped=piece.swapped != row.swapped)
    rows = row.share.rows(weight.shape[0]) if piece.share.is_whole and not piece.swapped else None
    if rows is None:
        return None
    return Partner((replace(weight, rows=rows, shape=(rows[1] - rows[0], *weight.shape[1:])),))


def _stacked(found: Iterable[_Piece], row: LayerName) -> Partner | None:
    """The pieces that cover the layer's rows without gap or overlap."""
    of = max((piece.share.of for piece in found), default=1)
    end, parts = row.share.first * of // row.share.of, []
    for piece in sorted(found, key=lambda piece: (piece.share.first, piece.share.last)):
        inside = piece.share.of == of and piece.share.last * row.share.of <= row.share.last * of
        if inside and piece.share.first == end and not piece.swapped:
            parts.append(piece.weight)
            end = piece.share.last
    columns = {part.matrix[1] for part in parts}
    if end * row.share.of != row.share.last * of or len(columns) != 1:
        return None
    return Partner(tuple(parts))


def _by_id(stems: Mapping[str, BaseWeight], family: Family) -> dict[str, BaseWeight]:
    named = ((canonical_id(stem, family), weight) for stem, weight in stems.items())
    return {name: weight for name, weight in named if name is not None}


def _by_whole(weights: Mapping[str, BaseWeight], family: Family) -> dict[str, tuple[_Piece, ...]]:
    table = layers(family)
    cut = {row.whole for row in table.values() if row.whole is not None}
    found: dict[str, list[_Piece]] = {}
    for name, weight in weights.items():
        row = table[name]
        if row.whole is not None or name in cut:
            found.setdefault(row.whole or name, []).append(_Piece(row.share, row.swapped, weight))
    return {name: tuple(pieces) for name, pieces in found.items()}


def _parts(key: str, shape: tuple[int, ...], prefix: str) -> Iterator[tuple[int, str, BaseWeight]]:
    """The layers in one stored tensor: slot, dotted name without prefix, and weight."""
    if len(shape) < 2:
        return
    if not _is_trained(key):
        return
    home = _home(key, prefix)
    body = key[len(home.prefix) :]
    if home.open_clip and body in _open_clip():
        yield from _open_clip_parts(home.slot, key, body, shape)
    elif body.endswith(".weight") or (home.slot == 0 and body.endswith(".in_proj_weight")):
        yield home.slot, body[: -len("_weight")], BaseWeight(key, shape)


def _ema_parts(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[int, str, BaseWeight]]:
    """The denoiser in its EMA copy, whose names have lost their dots."""
    names = _without_dots() if any(key.startswith(_EMA) for key in shapes) else {}
    for key, shape in shapes.items():
        name = names.get(key.removeprefix(_EMA)) if key.startswith(_EMA) else None
        if name is not None:
            yield 0, name, BaseWeight(key, shape)


@cache
def _without_dots() -> Mapping[str, str]:
    """``diffusion_modelinput_blocks00weight`` -> ``input_blocks.0.0``, for all that was ever saved so: UNets."""
    rows = [row for family in FAMILIES if "input_blocks" in family.roots[0] for row in layers(family).values()]
    names = {spelling for row in rows if row.component == "unet" for spelling in row.dotted_names}
    return {f"diffusion_model.{name}.weight".replace(".", ""): name for name in names}


def _scaled(weight: BaseWeight, shapes: Mapping[str, tuple[int, ...]]) -> BaseWeight:
    keys = [weight.key.removesuffix(".weight") + end for end in _SCALES]
    scale = next((key for key in keys if key in shapes and key != weight.key), None)
    return weight if scale is None else replace(weight, scale=scale)


def _is_plain(weight: BaseWeight, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether we know how its numbers are packed; a scale for each block of numbers is not read."""
    return weight.key.removesuffix(".weight") + _OTHERWISE_PACKED not in shapes


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
