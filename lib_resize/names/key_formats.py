"""The key formats of LoRA files: prefixes of layer names, and which program writes them.

A *stem* is the key of a LoRA file without the suffix that names the factor: ``X`` for ``X.lora_down.weight``. A stem is
a prefix of `PREFIXES`, which gives the component and the separator, and a body, which `lib_resize.names.identify` looks
up in the family's table, with dots or with underscores as in the file. Underscores are never converted back to dots.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache

from .families import FAMILIES, SDXL
from .family import flatten

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
    """The beginning of the stems of one program.

    `slots` are the components that may follow: 0 is the denoiser, 1 and up are the text encoders, as in
    `Family.components`. Of several, the first that knows the body is used. If `flat`, the body has underscores in place
    of dots. `key_format` is the name of the program's format, or None if the words of the body decide.
    """

    text: str
    slots: tuple[int, ...]
    flat: bool = False
    key_format: str | None = None


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
    Prefix("diffusion_model.", _UNET, key_format=COMFYUI),
    Prefix("model.diffusion_model.", _UNET, key_format=COMFYUI),
    Prefix("text_encoders.clip_l.transformer.", _TE1, key_format=COMFYUI),
    Prefix("text_encoders.clip_h.transformer.", _TE1, key_format=COMFYUI),
    Prefix("text_encoders.clip_g.transformer.", _TE2, key_format=COMFYUI),
    Prefix("text_encoders.t5xxl.transformer.", _TE3, key_format=COMFYUI),
    Prefix("unet.", _UNET, key_format=DIFFUSERS),
    Prefix("transformer.", _UNET, key_format=DIFFUSERS),
    Prefix("text_encoder.", _TE1, key_format=DIFFUSERS),
    Prefix("text_encoder_2.", _TE2, key_format=DIFFUSERS),
    Prefix("text_encoder_3.", _TE3, key_format=DIFFUSERS),
    Prefix("base_model.model.", _UNET_OR_TE1, key_format=PEFT),
    Prefix("base_model.model.unet.", _UNET, key_format=PEFT),
    Prefix("base_model.model.transformer.", _UNET, key_format=PEFT),
    Prefix("base_model.model.diffusion_model.", _UNET, key_format=PEFT),
    Prefix("base_model.model.text_encoder.", _TE1, key_format=PEFT),
    Prefix("base_model.model.text_encoder_2.", _TE2, key_format=PEFT),
    Prefix("unet.base_model.model.", _UNET, key_format=PEFT),
    Prefix("transformer.base_model.model.", _UNET, key_format=PEFT),
    Prefix("text_encoder.base_model.model.", _TE1, key_format=PEFT),
    Prefix("text_encoder_2.base_model.model.", _TE2, key_format=PEFT),
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


@lru_cache(maxsize=1 << 14)  # each name is needed several times, and the files of a library share theirs
def split(stem: str) -> tuple[Prefix, str]:
    """Return the prefix and the body of a stem; the empty prefix fits everything."""
    for row in _BY_FIRST_LETTER.get(stem[:1], ()):
        if stem.startswith(row.text):
            return row, stem[len(row.text) :]
    return _BARE, stem


def slot_of(stem: str) -> int:
    """Return the component of a stem in any family: 0 for the denoiser, 1 and up for the text encoders."""
    prefix, body = split(stem)
    return 1 if len(prefix.slots) > 1 and is_text_encoder(prefix, body) and 0 in prefix.slots else prefix.slots[0]


def flat_name(stem: str) -> str:
    """Return the name that kohya's rule gives a layer of any family. Key formats with the same words give one name.

    Other words for the same weight (diffusers' for those of single-file checkpoints) give another name; only a family's
    table knows them, see `identify.canonical_id`.
    """
    slot = slot_of(stem)
    return f"{'lora_unet_' if slot == 0 else f'lora_te{slot}_'}{flatten(split(stem)[1])}"


def key_format_of(stem: str) -> str:
    """Return the key format of one stem, as shown to the user.

    One of ``kohya (SGM)``, ``kohya (diffusers)``, ``kohya`` (transformers), ``OneTrainer``, ``diffusers``, ``diffusers
    (old processor)``, ``PEFT``, ``LyCORIS``, ``XLabs``, ``ComfyUI`` (dotted words of single-file checkpoints, with or
    without prefix) and ``unknown``. Both of kohya's formats write text encoders alike: ``lora_te1_`` and ``lora_te2_``
    count as SGM, as SDXL's, and ``lora_te_`` as diffusers, as SD1.5's.
    """
    prefix, body = split(stem)
    if prefix.key_format == DIFFUSERS:
        return DIFFUSERS_OLD if ".processor." in body else DIFFUSERS
    if prefix.key_format is not None:
        return prefix.key_format
    for roots, flat, dotted, processor in _FORMATS_OF_WORDS:
        if starts_with(body, roots, prefix):
            return flat if prefix.flat else processor if ".processor." in body else dotted
    return DIFFUSERS if is_text_encoder(prefix, body) else UNKNOWN


_FORMATS_OF_WORDS = (
    (_SGM_ROOTS, KOHYA_SGM, COMFYUI, COMFYUI),
    (_DIFFUSERS_ROOTS, KOHYA_DIFFUSERS, DIFFUSERS, DIFFUSERS_OLD),
    (_OWN_ROOTS, KOHYA, DIFFUSERS, DIFFUSERS),
    (_NATIVE_ROOTS, KOHYA, COMFYUI, XLABS),
)
"""First words of names, and their key formats: with underscores, with dots, and with dots and a processor."""


def file_key_format(stems: Iterable[str]) -> str:
    """Return the key format of a whole file: the most frequent one of its denoiser, else of its text encoders."""
    listed = list(stems)
    denoiser = [stem for stem in listed if not is_text_encoder(*split(stem))]
    counted = Counter(key_format_of(stem) for stem in denoiser or listed)
    return counted.most_common(1)[0][0] if counted else UNKNOWN


def starts_with(body: str, roots: tuple[str, ...], prefix: Prefix) -> bool:
    return body in roots or body.startswith(_beginnings(roots, "_" if prefix.flat else "."))


@cache
def _beginnings(roots: tuple[str, ...], separator: str) -> tuple[str, ...]:
    """Return the roots with the separator. Cached, because every layer of every file needs them."""
    return tuple(root + separator for root in roots)


def is_text_encoder(prefix: Prefix, body: str) -> bool:
    return 0 not in prefix.slots or (1 in prefix.slots and starts_with(body, _TEXT_ROOTS, prefix))
