"""Which kinds of adapter there are, how each is recognised from key names alone, and what we do with it.

A new kind is one row here and one module that reads and writes it. Rows are tried in order and the first that
matches a stem's roles wins; a stem that no row knows is copied unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .suffixes import Part

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

ORPHAN = _kind("alpha without factors", "copy", "alpha", reason="is left over from another tool")

KINDS: tuple[Kind, ...] = (
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
    ORPHAN,
    _kind("OFT rescale", "copy", "rescale", reason=f"is a vector and {_NO_RANK}"),
    _kind(
        "PaRa",
        "refuse",
        "para",
        reason="takes directions out of the base weights; no program loads it, and its form is not settled",
    ),
)
"""In the order in which they are tried."""

EMBEDDING = Kind("embedding", frozenset(), "copy", "is a word of its own, not a change of layers")
UNKNOWN = Kind("unknown", frozenset(), "copy", "is of a kind that we do not know")

UNREAD_BY_FORGE = frozenset({EMBEDDING.name, UNKNOWN.name, "IA3", "sparse bias"})
"""Copied kinds whose keys Forge does not know: with more than 12 of them it does not apply the file at all."""
MOST_UNREAD_BY_FORGE = 12

CONTROL_MARKER = "lora_controlnet"
"""The key that tells a Control-LoRA from other files with bare up and down."""

_CONTROLS = "steers the model beside its layers instead of changing them, so it is no LoRA; the file stays as it is"
_FOREIGN_PREFIXES = {
    "lllite_": "ControlNet-LLLite",
    "image_proj.": "IP-Adapter",
    "ip_adapter.": "IP-Adapter",
}


def kind_of(stem: str, parts: Mapping[str, Part]) -> Kind:
    """The kind of one stem's tensors, given its parts by role."""
    for prefix, name in _FOREIGN_PREFIXES.items():
        if stem.startswith(prefix):
            return Kind(name, frozenset(), "refuse", _CONTROLS)
    roles = frozenset(parts)
    for kind in KINDS:
        if kind.matches(roles):
            return kind
    if stem.startswith(("bundle_emb.", "string_to_param")) or (stem.startswith("<") and stem.endswith(">")):
        return EMBEDDING
    return UNKNOWN
