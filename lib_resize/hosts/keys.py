"""Map the keys of single-file checkpoints to the names of the same tensors in a host.

A1111 has the names of the file. Forge and its relatives have every text encoder in Hugging Face's layout, in which
OpenCLIP's fused q, k, v are three tensors and the text projection is transposed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from ..base.checkpoint_keys import name_in_denoiser
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
    """One tensor of the host. Several of them, stacked by rows, make the tensor of one key of the file."""

    key: str
    """Name below the module of all text encoders, or below that of the denoiser."""
    transposed: bool = False


def host_key(key: str, prefix: str) -> str:
    """Return a key of a file as hosts know it, which is with the usual prefix of denoisers.

    Files with only a transformer have no prefix or another one; `prefix` is one that only this file has.
    """
    name = name_in_denoiser(key, prefix)
    return key if name is None else DENOISER + name


def host_tensors(key: str) -> tuple[HostTensor, ...]:
    """Return the host's tensors of a key of the file, for hosts with text encoders in Hugging Face's layout."""
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
    """Map OpenCLIP's keys to those of Hugging Face, in the order of the rows, and whether each is transposed."""
    found: dict[str, tuple[tuple[str, bool], ...]] = {}
    for weight in open_clip_weights():
        found[weight.stored] = (*found.get(weight.stored, ()), (f"{weight.name}.weight", weight.transposed))
    return found
