"""The kinds of adapters: how each is recognised from key names alone, and what is done with it.

A new kind is one row here and one module that reads and writes it. Rows are tried in order, and the first that matches
the roles of a stem is used. A stem that no row matches is copied unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from .suffixes import ParsedKey

Verdict = Literal["resize", "copy", "refuse"]


@dataclass(frozen=True)
class Kind:
    """One kind of adapter layer."""

    name: str
    """Its usual name, as shown to the user."""
    any_of: frozenset[str]
    """Roles of which one is enough to recognise it.

    Files of its known writers always have one; a foreign tensor with the same suffix would be mistaken for it.
    """
    verdict: Verdict
    reason: str = ""
    """Why it is not resized, and what to do; the end of a sentence."""
    all_of: frozenset[str] = frozenset()
    """Roles that must all be present as well."""

    def matches(self, roles: frozenset[str]) -> bool:
        return bool(self.any_of & roles) and self.all_of <= roles


def _kind(name: str, verdict: Verdict, *any_of: str, reason: str = "", all_of: tuple[str, ...] = ()) -> Kind:
    return Kind(name, frozenset(any_of), verdict, reason, frozenset(all_of))


_NO_RANK = "has no rank that could be reduced; the file is left unchanged"
_ROTATION = f"rotates the base weights and {_NO_RANK}"

_PEFT_ALONE = "is read only by PEFT; merge it into the model with PEFT, then use `extract`"

LONE_ALPHA = _kind("alpha without factors", "copy", "alpha", reason="is left over from another tool")

KINDS: tuple[Kind, ...] = (
    _kind(
        "quantised LoRA",
        "refuse",
        "quantisation",
        reason="holds values that are useless without their scales; save it in float16 or bfloat16 with the program "
        "that quantised it, or resize a version that is not quantised",
    ),
    _kind(
        "T-LoRA",
        "refuse",
        "lambda_layer",
        reason="stores only part of its delta in the file, and only its trainer reads it; merge it into the checkpoint "
        "with LyCORIS, then use `extract`",
    ),
    _kind("LoHa", "resize", *(f"hada_{part}" for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2"))),
    _kind("LoKr", "resize", *(f"lokr_{part}" for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2"))),
    _kind("GLoRA", "resize", "a1", all_of=("b2",)),
    _kind("OFT", "copy", "oft_blocks", "oft_diag", "oft_R", reason=_ROTATION),
    _kind("BOFT", "copy", "boft_R", "boft_s", reason=_ROTATION),
    _kind("IA3", "copy", "on_input", "ia3_l", reason=f"multiplies rows or columns and {_NO_RANK}"),
    _kind("Tucker LoCon", "resize", "mid"),
    _kind("cloneofsimo LoRA", "refuse", "pti_up", "pti_down", reason="has numbers in place of layer names"),
    _kind("Control-LoRA", "resize", "bare_up", "bare_down"),
    _kind(
        "LoRA of an embedding",
        "refuse",
        "embedding_up",
        "embedding_down",
        reason="is read by no host; save the adapter without it",
    ),
    _kind("AdaLoRA", "refuse", "ada", reason=f"multiplies its dimensions by lora_E, and {_PEFT_ALONE}"),
    _kind("LoRA", "resize", "up", "down"),
    _kind("weight difference", "resize", "diff"),
    _kind("weight replacement", "copy", "set_weight", "reshape_weight", reason=f"replaces a weight and {_NO_RANK}"),
    _kind("bias difference", "copy", "diff_b", "up_bias", reason=f"is a vector and {_NO_RANK}"),
    _kind("norm", "copy", "w_norm", "b_norm", reason=f"is a vector and {_NO_RANK}"),
    _kind(
        "sparse bias",
        "copy",
        "bias_indices",
        "bias_values",
        "bias_size",
        reason=f"is a list of single numbers and {_NO_RANK}",
    ),
    _kind("DoRA magnitude without factors", "copy", "magnitude", reason=f"is a vector and {_NO_RANK}"),
    LONE_ALPHA,
    _kind("OFT rescale", "copy", "rescale", reason=f"is a vector and {_NO_RANK}"),
    _kind(
        "PaRa",
        "refuse",
        "para",
        reason="removes directions from the base weights, and no program loads it; merge it into the model with the "
        "program that made it, then use `extract`",
    ),
)
"""In the order in which they are tried."""

EMBEDDING = Kind("embedding", frozenset(), "copy", "is a learned token, not a change of layers")
UNKNOWN = Kind("unknown", frozenset(), "copy", "is of an unknown kind")

BASE_DEPENDENT = frozenset({"OFT", "BOFT", "IA3"})
"""Copied kinds that change a weight in a way that needs the base weight. They can be merged with the base model."""

UNKNOWN_TO_FORGE = frozenset({EMBEDDING.name, UNKNOWN.name, "IA3", "OFT", "BOFT", "OFT rescale", "sparse bias"})
"""Copied kinds whose keys Forge does not know. It ignores a file with more than 12 of them."""
MOST_UNKNOWN_TO_FORGE = 12

CONTROL_MARKER = "lora_controlnet"
"""The key that identifies a Control-LoRA among files with bare up and down."""

_CONTROLS = "steers the model from outside of its layers, so it is no LoRA; the file is left unchanged"
_FOREIGN = {
    "lllite_": "ControlNet-LLLite",
    "image_proj.": "IP-Adapter",
    "ip_adapter": "IP-Adapter",
}
"""Prefixes of names; an IP-Adapter may also be inside of a layer (Flux)."""
_FOREIGN_STARTS = tuple(_FOREIGN)


_PEFT_KINDS = {
    "beft_": "BEFT",
    "bone_": "Bone",
    "c3a_": "C3A",
    "deft_": "DEFT",
    "delora_": "DeLoRA",
    "fourierft_": "FourierFT",
    "glora_": "PEFT's GLoRA",
    "gralora_": "GraLoRA",
    "hira_": "HiRA",
    "hra_": "HRA",
    "lily_": "Lily",
    "ln_tuning_": "LN tuning",
    "miss_": "MiSS",
    "osf_": "OSF",
    "peanut_": "PEANuT",
    "poly_": "Poly",
    "psoft_": "PSOFT",
    "pvera_": "PVeRA",
    "randlora_": "RandLoRA",
    "road_": "RoAd",
    "shira_": "SHiRA",
    "supertuning_": "Supertuning",
    "tinylora_": "TinyLoRA",
    "unilora_": "UniLoRA",
    "vblora_": "VB-LoRA",
    "vera_": "VeRA",
    "waveft_": "WaveFT",
}
"""Prefixes of tensor names, for methods that PEFT 0.21 saves and no host reads."""
_OWN = "is of an unknown kind: its delta may be more than up and down"


_STACKED = Kind(
    "LoRA of stacked experts",
    frozenset(),
    "refuse",
    "belongs to a parameter that holds the weights of many experts (PEFT's target_parameters): its factors are those "
    f"of all experts joined, and their product is no delta; it {_PEFT_ALONE}",
)
_STACKS = (".experts", "_experts", ".base_layer")
"""Ends of the names of such layers.

PEFT wraps a module once for each of its parameters, the inner one as base_layer.
"""


def _foreign(stem: str) -> Kind | None:
    """Return the kind that a word in the middle of a key means, after a dot; None for no such word."""
    for word, name in _PEFT_KINDS.items():
        if f".{word}" in stem:
            return Kind(name, frozenset(), "refuse", _PEFT_ALONE)
    return Kind("LoRA with further tensors", frozenset(), "refuse", _OWN) if ".lora_" in stem else None


def kind_of_role(role: str) -> str:
    """Return the name of the kind that a tensor of this role would be by itself."""
    return next((kind.name for kind in KINDS if role in kind.any_of), UNKNOWN.name)


def kind_of(stem: str, parts: Mapping[str, ParsedKey]) -> Kind:
    """Return the kind of one stem, given its keys by role."""
    roles = frozenset(parts)
    control = _control(stem)
    if control is not None:
        return control
    if roles & {"up", "down"} and stem.endswith(_STACKS):
        return _STACKED
    known = _kind_of_roles(roles)
    if known is not None:
        return known
    return EMBEDDING if _is_embedding(stem) else _foreign(stem) or UNKNOWN


@lru_cache(maxsize=64)  # thousands of layers have the same few roles
def _kind_of_roles(roles: frozenset[str]) -> Kind | None:
    return next((kind for kind in KINDS if kind.matches(roles)), None)


def _control(stem: str) -> Kind | None:
    """Return the kind of a file that steers the model from outside of its layers; None for others."""
    if not stem.startswith(_FOREIGN_STARTS) and ".ip_adapter" not in stem:
        return None
    for word, name in _FOREIGN.items():
        if stem.startswith(word) or (word == "ip_adapter" and f".{word}" in stem):
            return Kind(name, frozenset(), "refuse", _CONTROLS)
    return None


def _is_embedding(stem: str) -> bool:
    return stem.startswith(("bundle_emb.", "string_to_param")) or (stem.startswith("<") and stem.endswith(">"))
