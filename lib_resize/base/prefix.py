"""The prefix that a checkpoint has before the names of its denoiser's layers, found from the structure of its keys.

A denoiser numbers its blocks at the top: ``double_blocks.0.…``. In a file where they are numbered one or more levels
below, as ``net.blocks.0.…``, what stands before them is the file's own prefix and no part of a layer's name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

_OTHERS = frozenset(
    {"text_model", "text_encoder", "text_encoders", "encoder", "decoder", "vision_model", "visual", "language_model"}
    | {"llm", "bert", "t5", "t5xxl", "clip_l", "clip_g", "clip_h", "first_stage_model", "vae"}
)
"""Modules that number their layers, too, and are no denoiser."""
_CONTAINERS = ("blocks", "block", "layers", "refiner")


def own_prefix(keys: Iterable[str]) -> str:
    """The prefix of a denoiser, with its last dot; "" where there is none. `keys` are those of weights that stand
    behind no known prefix."""
    listed = list(keys)
    found = Counter(place for key in listed if (place := _place(key)) is not None)
    if not found or "" in found:  # numbered at the top, so what is numbered below does not count
        return ""
    most = max(found.values())
    equal = [place for place, count in found.items() if count == most]  # a model may be there twice, as two guides
    held = sum(key.startswith(tuple(equal)) for key in listed)
    return equal[0] if 2 * held > len(listed) else ""


def holds_blocks(key: str, prefix: str) -> bool:
    """Whether a key is that of a weight in a numbered block, right below a prefix."""
    container, _, rest = key[len(prefix) :].partition(".")
    return key.startswith(prefix) and container.endswith(_CONTAINERS) and rest.partition(".")[0].isdecimal()


def _place(key: str) -> str | None:
    """What stands before the first container of numbered modules, with its last dot; None where nothing is numbered,
    or where it is part of no denoiser."""
    parts = key.split(".")
    number = next((i for i, part in enumerate(parts) if i and part.isdecimal()), None)
    if number is None or not _OTHERS.isdisjoint(parts[:number]):
        return None
    return "".join(f"{part}." for part in parts[: number - 1])
