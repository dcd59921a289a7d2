"""From a layer's name in any spelling to its canonical id, and to the family it belongs to.

A *stem* is the key of a LoRA file without the suffix that names the factor: ``X`` for
``X.lora_down.weight``. A stem is a prefix of `PREFIXES`, which tells the component and the separator,
and a body, which is looked up in the family's table with dots or with underscores as it stands. Nothing
is ever guessed back from underscores.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from functools import cache

from .claims import Told, fits, flat_shape, has_hallmark, read_told
from .families import FAMILIES, SDXL, Family, attention_group, block, component, flatten, layers

__all__ = [
    "PREFIXES",
    "Prefix",
    "attention_group",
    "block",
    "canonical",
    "component",
    "file_spelling",
    "flat_name",
    "identify",
    "slot_of",
    "spelling_of",
    "split",
]

KOHYA_SGM = "kohya (SGM)"
KOHYA_DIFFUSERS = "kohya (diffusers)"
DIFFUSERS = "diffusers"
DIFFUSERS_OLD = "diffusers (old processor)"
PEFT = "PEFT"
LYCORIS = "LyCORIS"
COMFYUI = "ComfyUI"
KOHYA = "kohya"
ONETRAINER = "OneTrainer"
XLABS = "XLabs"
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Prefix:
    """How the stems of one producer start.

    `slots` are the components that may follow: 0 is the denoiser, 1 and up are the text encoders, as in
    `Family.components`; of several the first that knows the body counts. `flat` tells that the body is
    written with underscores. `spelling` is the producer's name, or None where the words of the body decide.
    """

    text: str
    slots: tuple[int, ...]
    flat: bool = False
    spelling: str | None = None


_UNET, _TE1, _TE2, _UNET_OR_TE1 = (0,), (1,), (2,), (0, 1)
_TE3 = (3, 2, 1)  # T5 is the third text encoder of SD3, the second of Flux.1 and the only one of Chroma

_ROWS = (
    Prefix("lora_unet_", _UNET, True),
    Prefix("lora_unet__", _UNET, True, KOHYA),
    Prefix("lora_transformer_", _UNET, True, ONETRAINER),
    Prefix("lora_prior_unet_", _UNET, True, KOHYA),
    Prefix("lora_prior_te_", _TE1, True, KOHYA),
    Prefix("lora_te_", _TE1, True, KOHYA_DIFFUSERS),
    Prefix("lora_te1_", _TE1, True, KOHYA_SGM),
    Prefix("lora_te2_", _TE2, True, KOHYA_SGM),
    Prefix("lora_te3_", _TE3, True, KOHYA),
    Prefix("oft_unet_", _UNET, True),
    Prefix("lycoris_", _UNET_OR_TE1, True, LYCORIS),
    Prefix("lycoris_unet_", _UNET, True, LYCORIS),
    Prefix("lycoris_te_", _TE1, True, LYCORIS),
    Prefix("lycoris_te1_", _TE1, True, LYCORIS),
    Prefix("lycoris_te2_", _TE2, True, LYCORIS),
    Prefix("lycoris_text_encoder_", _TE1, True, LYCORIS),
    Prefix("lycoris_text_encoder_2_", _TE2, True, LYCORIS),
    Prefix("lora_unet.", _UNET),
    Prefix("lora_transformer.", _UNET),
    Prefix("lora_te.", _TE1),
    Prefix("lora_te1.", _TE1),
    Prefix("lora_te2.", _TE2),
    Prefix("lora_te3.", _TE3),
    Prefix("net.", _UNET),
    Prefix("dit.", _UNET),
    Prefix("conditional_transformer.", _UNET),
    Prefix("diffusion_model.", _UNET, spelling=COMFYUI),
    Prefix("model.diffusion_model.", _UNET, spelling=COMFYUI),
    Prefix("text_encoders.clip_l.transformer.", _TE1, spelling=COMFYUI),
    Prefix("text_encoders.clip_h.transformer.", _TE1, spelling=COMFYUI),
    Prefix("text_encoders.clip_g.transformer.", _TE2, spelling=COMFYUI),
    Prefix("text_encoders.t5xxl.transformer.", _TE3, spelling=COMFYUI),
    Prefix("unet.", _UNET, spelling=DIFFUSERS),
    Prefix("transformer.", _UNET, spelling=DIFFUSERS),
    Prefix("text_encoder.", _TE1, spelling=DIFFUSERS),
    Prefix("text_encoder_2.", _TE2, spelling=DIFFUSERS),
    Prefix("text_encoder_3.", _TE3, spelling=DIFFUSERS),
    Prefix("base_model.model.", _UNET_OR_TE1, spelling=PEFT),
    Prefix("base_model.model.unet.", _UNET, spelling=PEFT),
    Prefix("base_model.model.transformer.", _UNET, spelling=PEFT),
    Prefix("base_model.model.diffusion_model.", _UNET, spelling=PEFT),
    Prefix("base_model.model.text_encoder.", _TE1, spelling=PEFT),
    Prefix("base_model.model.text_encoder_2.", _TE2, spelling=PEFT),
    Prefix("unet.base_model.model.", _UNET, spelling=PEFT),
    Prefix("transformer.base_model.model.", _UNET, spelling=PEFT),
    Prefix("text_encoder.base_model.model.", _TE1, spelling=PEFT),
    Prefix("text_encoder_2.base_model.model.", _TE2, spelling=PEFT),
)
_BARE = Prefix("", _UNET_OR_TE1)

PREFIXES = (*sorted(_ROWS, key=lambda row: -len(row.text)), _BARE)
"""Every known prefix, the longest first, so that the first that fits is the right one."""

_BY_FIRST_LETTER = {
    letter: tuple(row for row in PREFIXES if row.text.startswith(letter)) for letter in {row.text[0] for row in _ROWS}
}

_SGM_ROOTS, _DIFFUSERS_ROOTS = (tuple(sorted(words)) for words in SDXL.roots)
_NATIVE_ROOTS, _OWN_ROOTS = (
    tuple(sorted(frozenset().union(*(family.roots[i] for family in FAMILIES)) - SDXL.roots[0] - SDXL.roots[1]))
    for i in (0, 1)
)
_TEXT_ROOTS = ("text_model", "encoder", "text_projection")


def split(stem: str) -> tuple[Prefix, str]:
    """The prefix row and the body of a stem; the bare prefix fits everything."""
    for row in _BY_FIRST_LETTER.get(stem[:1], ()):
        if stem.startswith(row.text):
            return row, stem[len(row.text) :]
    return _BARE, stem


def canonical(stem: str, family: Family) -> str | None:
    """The canonical id of a layer in `family`, or None if the family has no such layer.

    `stem` is a key without its suffix, in any spelling; see `PREFIXES`. Two spellings of one layer give
    one id, so a file that holds a layer twice shows it by two stems with one id.
    """
    return _find(*split(stem), _tables(family))


def identify(stems: Mapping[str, tuple[int, int]], told: Iterable[str] = ()) -> Family | None:
    """The family that a LoRA was made for, from the names of its layers and their shapes.

    `stems` maps each stem to ``(out, in)`` of its delta, convolutions flattened. `told` is what the metadata
    says of the family.

    1. A family is a candidate if it knows more than half of the layers of the denoiser, or, in a file
       that trains text encoders alone, more than half of those, and if their shapes are its own (see `claims`).
       Known text encoders do not make a denoiser of another kind (SD3 has both of SDXL's encoders) a known one.
    2. Of several candidates the one that knows the most layers wins; then the one that the metadata speaks of (Flux.1
       and Chroma may differ in nothing else); then the one whose shapes agree most often; then the one whose own
       spelling is used most often; then the first in `FAMILIES`. Where a family of other shapes knows more layers than
       all of them, none wins.
    3. Without a candidate the family is unknown: None. So it is where the metadata speaks of other families alone.
    """
    spoken = read_told(told)
    if spoken.is_foreign:
        return None
    parts = {stem: split(stem) for stem in stems}
    text = {stem for stem, (prefix, body) in parts.items() if _is_text(prefix, body)}
    deciding = parts.keys() - text or parts.keys()
    highest = (len(stems), bool(spoken.families), len(stems), sum(prefix.flat for prefix, _ in parts.values()))
    best, best_score, most = None, (0, False, 0, 0), 0
    for family in FAMILIES:
        if not text >= deciding and not _may_know(family, (parts[stem] for stem in deciding)):
            continue
        tables = _tables(family)
        known = {stem: name for stem, part in parts.items() if (name := _find(*part, tables))}
        score = _score(stems, known, family, spoken)
        most = max(most, len(known))
        if score > best_score and _is_candidate(family, deciding, known, stems, spoken):
            best, best_score = family, score
        if best_score == highest:
            break
    return best if best_score[0] == most else None


def _is_candidate(
    family: Family, deciding: Set[str], known: Mapping[str, str], stems: Mapping[str, tuple[int, int]], told: Told
) -> bool:
    """Whether names and shapes of the layers that decide are the family's."""
    table = layers(family)
    rows = {stem: table[name] for stem, name in known.items() if stem in deciding}
    if 2 * len(rows) <= len(deciding) or not fits(family, rows, stems):
        return False
    return family.name in told.families or has_hallmark(family, rows.values())


def _may_know(family: Family, parts: Iterable[tuple[Prefix, str]]) -> bool:
    """Whether some layer begins with a word of the family's; asked first, so that few tables are made."""
    roots = _words(family)
    return any(_starts_with(body, roots, prefix) for prefix, body in parts)


@cache
def _words(family: Family) -> tuple[str, ...]:
    native, own = family.roots
    return tuple(native | own)


def slot_of(stem: str) -> int:
    """The component that a stem names, whatever the family: 0 for the denoiser, 1 and up for the text encoders."""
    prefix, body = split(stem)
    return 1 if len(prefix.slots) > 1 and _is_text(prefix, body) and 0 in prefix.slots else prefix.slots[0]


def flat_name(stem: str) -> str:
    """The name that kohya's rule gives a layer, whatever the family: spellings of the same words give one name.

    Other words for the same weight (diffusers' for those of single-file checkpoints) give another name; only a
    family's table knows them, see `canonical`.
    """
    slot = slot_of(stem)
    return f"{'lora_unet_' if slot == 0 else f'lora_te{slot}_'}{flatten(split(stem)[1])}"


def spelling_of(stem: str) -> str:
    """The spelling of one stem, in words for the user.

    One of ``kohya (SGM)``, ``kohya (diffusers)``, ``kohya`` (transformers), ``OneTrainer``, ``diffusers``,
    ``diffusers (old processor)``, ``PEFT``, ``LyCORIS``, ``XLabs``, ``ComfyUI`` (dotted words of single-file
    checkpoints, with or without prefix) and ``unknown``. Both of kohya's spellings write text encoders alike:
    ``lora_te1_`` and ``lora_te2_`` count as SGM, as SDXL's, and ``lora_te_`` as diffusers, as SD1.5's.
    """
    prefix, body = split(stem)
    if prefix.spelling == DIFFUSERS:
        return DIFFUSERS_OLD if ".processor." in body else DIFFUSERS
    if prefix.spelling is not None:
        return prefix.spelling
    if _starts_with(body, _SGM_ROOTS, prefix):
        return KOHYA_SGM if prefix.flat else COMFYUI
    if _starts_with(body, _DIFFUSERS_ROOTS, prefix):
        return KOHYA_DIFFUSERS if prefix.flat else DIFFUSERS_OLD if ".processor." in body else DIFFUSERS
    if _starts_with(body, _OWN_ROOTS, prefix):
        return KOHYA if prefix.flat else DIFFUSERS
    if _starts_with(body, _NATIVE_ROOTS, prefix):
        return KOHYA if prefix.flat else XLABS if ".processor." in body else COMFYUI
    return DIFFUSERS if _is_text(prefix, body) else UNKNOWN


def file_spelling(stems: Iterable[str]) -> str:
    """The spelling of a whole file: the most frequent one of its denoiser, else of its text encoders."""
    listed = list(stems)
    denoiser = [stem for stem in listed if not _is_text(*split(stem))]
    counted = Counter(spelling_of(stem) for stem in denoiser or listed)
    return counted.most_common(1)[0][0] if counted else UNKNOWN


def _starts_with(body: str, roots: tuple[str, ...], prefix: Prefix) -> bool:
    return body in roots or body.startswith(_beginnings(roots, "_" if prefix.flat else "."))


@cache
def _beginnings(roots: tuple[str, ...], separator: str) -> tuple[str, ...]:
    """Made once: every layer of every file is asked for them."""
    return tuple(root + separator for root in roots)


def _is_text(prefix: Prefix, body: str) -> bool:
    return 0 not in prefix.slots or (1 in prefix.slots and _starts_with(body, _TEXT_ROOTS, prefix))


def _find(prefix: Prefix, body: str, tables: Tables) -> str | None:
    for slot in prefix.slots:
        found = tables.get((slot, prefix.flat), {}).get(body)
        if found is not None:
            return found
    return None


def _score(
    stems: Mapping[str, tuple[int, int]], known: Mapping[str, str], family: Family, told: Told
) -> tuple[int, bool, int, int]:
    """Layers known, whether the metadata tells so, layers whose shape agrees, layers in the family's own spelling."""
    table = layers(family)
    shapes = sum(flat_shape(table[name].shape) == stems[stem] for stem, name in known.items())
    own = sum(stem == name for stem, name in known.items())
    return len(known), family.name in told.families, shapes, own


Tables = Mapping[tuple[int, bool], Mapping[str, str]]
"""Slot of a component, and whether names are flat -> body -> canonical id, in every vocabulary."""


@cache
def _tables(family: Family) -> Tables:
    slots = {owner: slot for slot, owner in enumerate(family.components)}
    found: dict[tuple[int, bool], dict[str, str]] = {
        (slot, flat): {} for slot in slots.values() for flat in (False, True)
    }
    for row in layers(family).values():
        slot = slots[row.component]
        for name in row.spellings:
            found[slot, False][name] = row.id
            found[slot, True][flatten(name)] = row.id
    return found
