"""Which kinds of adapter there are, how each is recognised from key names alone, and what we do with it.

A new kind is one row here and one module that reads and writes it. Rows are tried in order and the first that
matches a stem's roles wins; a stem that no row knows is copied unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .suffixes import ParsedKey

Verdict = Literal["resize", "copy", "refuse"]


@dataclass(frozen=True)
class Kind:
    """One kind of adapter tensor set."""

    name: str
    """The field's name for it, as shown to the user."""
    any_of: frozenset[str]
    """Roles of which one is enough to recognise it. No false negatives for files that its known writers make;
    a false positive needs a foreign tensor with the same suffix."""
    verdict: Verdict
    reason: str = ""
    """Why it is not resized, and the way out; it ends a sentence."""
    all_of: frozenset[str] = frozenset()
    """Roles that must all be there as well."""

    def matches(self, roles: frozenset[str]) -> bool:
        return bool(self.any_of & roles) and self.all_of <= roles


def _kind(name: str, verdict: Verdict, *any_of: str, reason: str = "", all_of: tuple[str, ...] = ()) -> Kind:
    return Kind(name, frozenset(any_of), verdict, reason, frozenset(all_of))


_NO_RANK = "has no rank that could be cut; the file stays as it is"
_ROTATION = f"rotates the base weights and {_NO_RANK}"

_PEFT_ALONE = "is read by PEFT alone; have PEFT merge it into the model, and extract a LoRA from that"

LONE_ALPHA = _kind("alpha without factors", "copy", "alpha", reason="is left over from another tool")

KINDS: tuple[Kind, ...] = (
    _kind(
        "quantised LoRA",
        "refuse",
        "quantisation",
        reason="holds numbers that mean something only together with their scales; save it in float16 or bfloat16 with "
        "the program that quantised it, or download the version that is not quantised, and resize that",
    ),
    _kind(
        "T-LoRA",
        "refuse",
        "lambda_layer",
        reason="keeps half of what makes its delta outside the file, and no program but its trainer reads it; have "
        "LyCORIS merge it into the model, and extract a LoRA from that",
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
        reason="takes directions out of the base weights; no program loads it, and its form is not settled; have what "
        "made it merge it into the model, and extract a LoRA from that",
    ),
)
"""In the order in which they are tried."""

EMBEDDING = Kind("embedding", frozenset(), "copy", "is a word of its own, not a change of layers")
UNKNOWN = Kind("unknown", frozenset(), "copy", "is of a kind that we do not know")

BASE_DEPENDENT = frozenset({"OFT", "BOFT", "IA3"})
"""Copied kinds whose change of a weight is known together with the base model: a merge beside it takes them."""

UNKNOWN_TO_FORGE = frozenset({EMBEDDING.name, UNKNOWN.name, "IA3", "OFT", "BOFT", "OFT rescale", "sparse bias"})
"""Copied kinds whose keys Forge does not know: with more than 12 of them it does not apply the file at all."""
MOST_UNKNOWN_TO_FORGE = 12

CONTROL_MARKER = "lora_controlnet"
"""The key that tells a Control-LoRA from other files with bare up and down."""

_CONTROLS = "steers the model beside its layers instead of changing them, so it is no LoRA; the file stays as it is"
_FOREIGN = {
    "lllite_": "ControlNet-LLLite",
    "image_proj.": "IP-Adapter",
    "ip_adapter": "IP-Adapter",
}
"""What names begin with; an IP-Adapter may also sit inside of a layer (Flux)."""


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
"""What the names of tensors begin with, for methods that PEFT 0.21 saves and no host reads."""
_OWN = "is of a kind that we do not know: its delta may be more than up and down"


_STACKED = Kind(
    "LoRA of stacked experts",
    frozenset(),
    "refuse",
    "belongs to a parameter that holds the weights of many experts (PEFT's target_parameters): its factors are those "
    f"of all experts side by side, and their product is no delta; it {_PEFT_ALONE}",
)
_STACKS = (".experts", "_experts", ".base_layer")
"""How the names of such layers end: PEFT wraps a module once for each of its parameters, the inner as base_layer."""


def _foreign(stem: str) -> Kind | None:
    """A kind that is told by a word in the middle of a key without a known suffix, after a dot."""
    for word, name in _PEFT_KINDS.items():
        if f".{word}" in stem:
            return Kind(name, frozenset(), "refuse", _PEFT_ALONE)
    return Kind("LoRA with further tensors", frozenset(), "refuse", _OWN) if ".lora_" in stem else None


def kind_of_role(role: str) -> str:
    """Name of the kind that a tensor beside those of another would be by itself."""
    return next((kind.name for kind in KINDS if role in kind.any_of), UNKNOWN.name)


def kind_of(stem: str, parts: Mapping[str, ParsedKey]) -> Kind:
    """The kind of one stem's tensors, given its parts by role."""
    roles = frozenset(parts)
    control = _control(stem)
    if control is not None:
        return control
    if roles & {"up", "down"} and stem.endswith(_STACKS):
        return _STACKED
    known = next((kind for kind in KINDS if kind.matches(roles)), None)
    if known is not None:
        return known
    return EMBEDDING if _is_embedding(stem) else _foreign(stem) or UNKNOWN


def _control(stem: str) -> Kind | None:
    """Return the kind of a file that steers the model from outside of its layers; None for others."""
    for word, name in _FOREIGN.items():
        if stem.startswith(word) or (word == "ip_adapter" and f".{word}" in stem):
            return Kind(name, frozenset(), "refuse", _CONTROLS)
    return None


def _is_embedding(stem: str) -> bool:
    return stem.startswith(("bundle_emb.", "string_to_param")) or (stem.startswith("<") and stem.endswith(">"))
