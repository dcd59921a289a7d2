"""Where a host keeps what a single-file checkpoint calls by its key. Names only.

A1111 keeps the modules under the file's own names; Forge and its kin keep every text encoder in Hugging Face's
layout, where OpenCLIP's fused q, k, v are three tensors and the text projection is the other way round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from ..base.pairing import name_in_denoiser
from ..names.architecture import open_clip_weights

DENOISER = "model.diffusion_model."
_HF_ENCODERS = {
    "conditioner.embedders.0.transformer.": "clip_l.transformer.",
    "cond_stage_model.transformer.": "clip_l.transformer.",
}
_OPEN_CLIP_ENCODERS = {
    "conditioner.embedders.1.model.": "clip_g.transformer.",
    "cond_stage_model.model.": "clip_h.transformer.",
}


@dataclass(frozen=True)
class HostTensor:
    """One tensor of the host, a part of what the file keeps under one key; parts follow one another by rows."""

    key: str
    """Below the module that holds all text encoders, or below the one that holds the denoiser."""
    transposed: bool = False


def host_key(key: str, prefix: str) -> str:
    """A key of a file as hosts know it: files of a transformer alone name its weights without a prefix or with another
    one, which is `prefix` where only this file has it."""
    name = name_in_denoiser(key, prefix)
    return key if name is None else DENOISER + name


def host_tensors(key: str) -> tuple[HostTensor, ...]:
    """The host's tensors that make up a key of the file, for hosts with text encoders in Hugging Face's layout."""
    if key.startswith(DENOISER):
        return (HostTensor(key.removeprefix("model.")),)
    for prefix, home in _HF_ENCODERS.items():
        if key.startswith(prefix):
            return (HostTensor(home + key.removeprefix(prefix)),)
    for prefix, home in _OPEN_CLIP_ENCODERS.items():
        if key.startswith(prefix):
            return tuple(
                HostTensor(home + name, transposed)
                for name, transposed in _open_clip().get(key.removeprefix(prefix), ())
            )
    return ()


@cache
def _open_clip() -> Mapping[str, tuple[tuple[str, bool], ...]]:
    """OpenCLIP's key -> Hugging Face's, in the order of the rows, and whether it is transposed."""
    found: dict[str, tuple[tuple[str, bool], ...]] = {}
    for weight in open_clip_weights():
        found[weight.stored] = (*found.get(weight.stored, ()), (f"{weight.name}.weight", weight.transposed))
    return found
