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
    all_of: frozenset[str] = frozenset()
    """Roles that must all be there as well."""

    def matches(self, roles: frozenset[str]) -> bool:
        return bool(self.any_of & roles) and self.all_of <= roles


def _kind(name: str, verdict: Verdict, *any_of: str, all_of: tuple[str, ...] = ()) -> Kind:
    return Kind(name, frozenset(any_of), verdict, frozenset(all_of))


ORPHAN = _kind("alpha without factors", "copy", "alpha", "scale")

KINDS: tuple[Kind, ...] = (
    _kind("T-LoRA", "refuse", "lambda_layer"),
    _kind("LoHa", "refuse", *(f"hada_{part}" for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2"))),
    _kind("LoKr", "refuse", *(f"lokr_{part}" for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t1", "t2"))),
    _kind("GLoRA", "refuse", "a1", all_of=("b2",)),
    _kind("OFT", "refuse", "oft_blocks", "oft_diag", "oft_R"),
    _kind("BOFT", "refuse", "boft_R", "boft_s"),
    _kind("IA3", "refuse", "on_input", "ia3_l"),
    _kind("Tucker LoCon", "refuse", "mid"),
    _kind("cloneofsimo LoRA", "refuse", "pti_up", "pti_down"),
    _kind("Control-LoRA", "refuse", "bare_up", "bare_down"),
    _kind("LoRA of an embedding", "refuse", "embedding_up", "embedding_down"),
    _kind("LoRA", "resize", "up", "down"),
    _kind("weight difference", "copy", "diff", "set_weight", "reshape_weight"),
    _kind("bias difference", "copy", "diff_b", "up_bias"),
    _kind("norm", "copy", "w_norm", "b_norm"),
    _kind("sparse bias", "copy", "bias_indices", "bias_values", "bias_size"),
    _kind("DoRA magnitude without factors", "copy", "magnitude"),
    ORPHAN,
    _kind("OFT rescale", "copy", "rescale"),
)

EMBEDDING = Kind("embedding", frozenset(), "copy")
UNKNOWN = Kind("unknown", frozenset(), "copy")

_CONTROL_MARKER = "lora_controlnet"
_FOREIGN_PREFIXES = {
    "lllite_": "ControlNet-LLLite",
    "image_proj.": "IP-Adapter",
    "ip_adapter.": "IP-Adapter",
}


def kind_of(stem: str, parts: Mapping[str, Part]) -> Kind:
    """The kind of one stem's tensors, given its parts by role."""
    for prefix, name in _FOREIGN_PREFIXES.items():
        if stem.startswith(prefix):
            return Kind(name, frozenset(), "refuse")
    if stem == _CONTROL_MARKER:
        return Kind("Control-LoRA", frozenset(), "refuse")
    roles = frozenset(parts)
    for kind in KINDS:
        if kind.matches(roles):
            return kind
    if stem.startswith(("bundle_emb.", "string_to_param")) or (stem.startswith("<") and stem.endswith(">")):
        return EMBEDDING
    return UNKNOWN
