"""Find the prefix that a checkpoint has before the names of its denoiser's layers, from the structure of its keys.

A denoiser numbers its blocks at the top level: ``double_blocks.0.…``. Where a file numbers them one or more levels
below, as in ``net.blocks.0.…``, the part before them is a prefix of this file and no part of a layer's name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

_OTHERS = frozenset(
    {"text_model", "text_encoder", "text_encoders", "encoder", "decoder", "vision_model", "visual", "language_model"}
    | {"llm", "bert", "t5", "t5xxl", "clip_l", "clip_g", "clip_h", "first_stage_model", "vae"}
)
"""Modules with numbered layers that are not denoisers."""
_CONTAINERS = ("blocks", "block", "layers", "refiner")


def own_prefix(keys: Iterable[str]) -> str:
    """Return the prefix of the denoiser, with its last dot; "" where there is none.

    `keys` are the keys of the weights without a known prefix.
    """
    listed = list(keys)
    found = Counter(found_prefix for key in listed if (found_prefix := _container_prefix(key)) is not None)
    if not found or "" in found:  # blocks at the top level, so deeper numbers do not count
        return ""
    most = max(found.values())
    # A file may hold a model twice, as for two guidance models.
    equal = [prefix for prefix, count in found.items() if count == most]
    held = sum(key.startswith(tuple(equal)) for key in listed)
    return equal[0] if 2 * held > len(listed) else ""


def holds_blocks(key: str, prefix: str) -> bool:
    """Return whether a key is that of a weight in a numbered block directly below a prefix."""
    container, _, rest = key[len(prefix) :].partition(".")
    return key.startswith(prefix) and container.endswith(_CONTAINERS) and rest.partition(".")[0].isdecimal()


def _container_prefix(key: str) -> str | None:
    """Return the part of a key before its first container of numbered modules, with its last dot.

    None where nothing is numbered, or where the container does not belong to a denoiser.
    """
    parts = key.split(".")
    number = next((i for i, part in enumerate(parts) if i and part.isdecimal()), None)
    if number is None or not _OTHERS.isdisjoint(parts[:number]):
        return None
    return "".join(f"{part}." for part in parts[: number - 1])
