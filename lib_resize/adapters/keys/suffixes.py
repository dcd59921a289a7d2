"""Split the key of an adapter file into the stem of a layer and a suffix, which gives the role of the tensor.

``lora_unet_mid_block_attn_to_q.lora_down.weight`` has the stem ``lora_unet_mid_block_attn_to_q`` and the role
``down``. Stems keep their key format; `lib_resize.names` interprets them.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class ParsedKey(NamedTuple):
    """One key of a file, split."""

    key: str
    stem: str
    role: str
    """up, down, mid, alpha, scale, magnitude, up_bias, quantisation, or the suffix itself for all other tensors."""
    suffix: str
    """The key without its stem, with the first separator."""


_ROLES: dict[str, str] = {
    ".lora_up.weight": "up",
    ".lora_down.weight": "down",
    ".lora_mid.weight": "mid",
    ".lora_B.weight": "up",
    ".lora_A.weight": "down",
    ".lora_B": "up",
    ".lora_A": "down",
    ".lora.up.weight": "up",
    ".lora.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".alpha": "alpha",
    ".scale": "scale",
    ".dora_scale": "magnitude",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
    ".magnitude": "magnitude",
    ".lora_B.bias": "up_bias",
    ".lora_E": "ada",
    ".lora_embedding_A": "embedding_down",
    ".lora_embedding_B": "embedding_up",
    ".diff": "diff",
    ".diff_b": "diff_b",
    ".set_weight": "set_weight",
    ".reshape_weight": "reshape_weight",
    ".w_norm": "w_norm",
    ".b_norm": "b_norm",
    ".weight": "weight",
    ".B": "para",
    ".on_input": "on_input",
    ".ia3_l": "ia3_l",
    ".oft_blocks": "oft_blocks",
    ".oft_diag": "oft_diag",
    ".oft_R.weight": "oft_R",
    ".oft_R": "oft_R",
    ".oft_R.scaled_oft": "scaled_oft",
    ".boft_R": "boft_R",
    ".boft_s": "boft_s",
    ".rescale": "rescale",
    ".bias_indices": "bias_indices",
    ".bias_values": "bias_values",
    ".bias_size": "bias_size",
    ".lambda_layer": "lambda_layer",
    ".p_layer.weight": "p_layer",
    ".q_layer.weight": "q_layer",
    **{f".hada_{part}": f"hada_{part}" for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{f".lokr_{part}": f"lokr_{part}" for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
    **{f".{part}.weight": part for part in ("a1", "a2", "b1", "b2", "bm")},
}
_USUAL = {role: suffix for suffix, role in reversed(_ROLES.items())}
_LONGEST = max(suffix.count(".") for suffix in _ROLES)

_PATTERNS: tuple[tuple[re.Pattern[str], dict[str, str]], ...] = (
    # diffusers' attention processors (to_q_lora.down.weight)
    (re.compile(r"^(?P<stem>.+?)(?P<suffix>_lora\.(?P<word>up|down)\.weight)$"), {"up": "up", "down": "down"}),
    # XLabs' processors, where the number belongs to the layer (qkv_lora1.down.weight: 1 is the image, 2 the text)
    (re.compile(r"^(?P<stem>.+_lora\d)(?P<suffix>\.(?P<word>up|down)\.weight)$"), {"up": "up", "down": "down"}),
    # cloneofsimo's numbered layers (unet:0:up)
    (re.compile(r"^(?P<stem>[^:]+:\d+)(?P<suffix>:(?P<word>up|down))$"), {"up": "pti_up", "down": "pti_down"}),
    # Control-LoRA's bare factors
    (re.compile(r"^(?P<stem>.+)(?P<suffix>\.(?P<word>up|down))$"), {"up": "bare_up", "down": "bare_down"}),
)


_KOHYA = {"lora_up.weight": "up", "lora_down.weight": "down", "alpha": "alpha"}
_KOHYA_STEMS = ("lora_unet_", "lora_te")
"""Most keys of most files are of these forms, which need no closer look."""


def suffix_of(role: str) -> str:
    """Return the usual suffix of a role, for tensors that the source does not have."""
    return _USUAL[role]


def parse_key(key: str) -> ParsedKey:
    """Split a key. One without a known suffix has the whole key as its stem, and an empty role."""
    stem, dot, word = key.partition(".")
    if word in _KOHYA and stem.startswith(_KOHYA_STEMS):
        return ParsedKey(key, stem, _KOHYA[word], dot + word)
    return _parsed(key)


def _parsed(key: str) -> ParsedKey:
    at = _quantisation(key)
    if at is not None:
        return ParsedKey(key, key[:at], "quantisation", key[at:])
    at = len(key)
    found: ParsedKey | None = None
    for _ in range(_LONGEST):
        at = key.rfind(".", 0, at)
        if at <= 0:
            break
        role = _ROLES.get(key[at:])
        if role is not None:
            found = ParsedKey(key, key[:at], role, key[at:])
    if found is not None and found.role not in _SHADOWED:
        return found
    named = _with_adapter_name(key)
    if named is not None:
        return named
    for pattern, roles in _PATTERNS:
        match = pattern.match(key)
        if match:
            return ParsedKey(key, match["stem"], roles[match["word"]], match["suffix"])
    return found or ParsedKey(key, key, "", "")


_IN_MEMORY = {"lora_A": "down", "lora_B": "up", "lora_magnitude_vector": "magnitude"}


def _with_adapter_name(key: str) -> ParsedKey | None:
    """Split PEFT's keys in memory, which contain an adapter name.

    Lora_A.default.weight, lora_A.default_0.default.weight.

    Without a regular expression, which would try each of many such words in a long key.
    """
    at, word = min(((at, word) for word in _IN_MEMORY if (at := key.find(f".{word}.")) > 0), default=(0, ""))
    if not word:
        return None
    is_bias = word == "lora_B" and key.endswith(".bias")
    return ParsedKey(key, key[:at], "up_bias" if is_bias else _IN_MEMORY[word], key[at:])


_QUANTISATION = re.compile(
    r"(?:weight_scale(?:_2|_inv)?|scale_weight|weight_zero_point|zero_point|input_scale|scale_input|comfy_quant|scaled_fp8"
    r"|absmax|quant_map|nested_absmax|nested_quant_map|quant_state|SCB|qweight|qzeros|scales|g_idx)"
)
"""Words in the names of tensors of quantised weights: by ComfyUI, bitsandbytes, GPTQ and others."""
_FACTORS = (".lora_", ".lora.", "_lora.", ".hada_", ".lokr_")


def _quantisation(key: str) -> int | None:
    """Return where the suffix of a tensor begins that quantised weights need; None for others."""
    words = key.rsplit(".", 2)
    factor = min((at for word in _FACTORS if (at := key.find(word)) > 0), default=None)
    if factor is not None and words[-1] == "scale":
        return factor
    known = [word for word in words[-2:] if _QUANTISATION.fullmatch(word)]
    if not known:
        return None
    return key.rindex(known[0]) - 1 if factor is None else factor


_SHADOWED = frozenset({"diff", "weight"})  # words too short to outweigh a longer pattern
