"""Read files of cloneofsimo's trainer with kohya's names: ``unet:4:up`` becomes the layer with number 4.

Only the names change. Alpha equals the rank, because that trainer folds its scale into up. Learned tokens (``<s1>``)
keep their keys.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import prod

from ...errors import DamagedFileError, UnsupportedError
from ...files.reader import SafeFile
from ...names.cloneofsimo import CLASSES, Order, layer_orders

NOTE = (
    "layers have numbers in place of names (cloneofsimo); they are written with kohya's names, so that hosts load them"
)

_KEY = re.compile(r"(?P<component>unet|text_encoder):(?P<number>\d+):(?P<word>up|down)")
_COMPONENTS = ("unet:", "text_encoder:")
_STALE = re.compile(r"(unet|text_encoder)(:\d+:rank)?")
_SUFFIX = {"up": ".lora_up.weight", "down": ".lora_down.weight"}

Sizes = dict[int, dict[str, tuple[int, ...]]]
"""Number of a layer -> up and down -> shape."""


def with_kohya_names(file: SafeFile) -> SafeFile:
    """Return the file with kohya's names, or the file itself if it is not one of cloneofsimo's.

    Raises UnsupportedError for classes or shapes in an unknown order, DamagedFileError for missing factors.
    """
    found: dict[str, Sizes] = {}
    for key, entry in file.header.entries.items():
        match = _KEY.fullmatch(key) if key.startswith(_COMPONENTS) else None
        if match:
            sizes = found.setdefault(match["component"], {})
            sizes.setdefault(int(match["number"]), {})[match["word"]] = entry.shape
    if not found:
        return file
    names = {component: _names(file, component, sizes) for component, sizes in found.items()}
    metadata = {key: text for key, text in file.header.metadata.items() if not _STALE.fullmatch(key)}
    return file.renamed({key: _renamed(key, names) for key in file.header.entries}, metadata)


def _renamed(key: str, names: Mapping[str, list[str]]) -> str:
    match = _KEY.fullmatch(key)
    return key if match is None else names[match["component"]][int(match["number"])] + _SUFFIX[match["word"]]


def _names(file: SafeFile, component: str, sizes: Sizes) -> list[str]:
    lone = next((number for number, pair in sizes.items() if len(pair) < 2), None)
    if lone is not None:
        raise DamagedFileError(
            f"{file.path}: layer {component}:{lone} has no {'up' if 'down' in sizes[lone] else 'down'}; "
            f"the file is incomplete. Download or save it again."
        )
    for order in layer_orders(component, _classes(file, component)):
        if _fits(sizes, order):
            return [name for name, _ in order]
    raise UnsupportedError(
        f"{file.path}: {component} has {len(sizes)} layers with numbers in place of names (cloneofsimo), which fit "
        f"SD1.5 or SD2 in no known order. Convert it with the program that made it."
    )


def _fits(sizes: Sizes, order: Order) -> bool:
    if sizes.keys() != set(range(len(order))):
        return False
    found = [(sizes[i]["up"], sizes[i]["down"]) for i in range(len(order))]
    return all((*up[:1], prod(down[1:])) == size for (up, down), (_, size) in zip(found, order, strict=True))


def _classes(file: SafeFile, component: str) -> list[str]:
    """Return the classes in the metadata, or the trainer's defaults if it has none."""
    try:
        listed = json.loads(file.header.metadata.get(component, "null"))
    except ValueError:
        listed = None
    if listed is None:
        return ["CLIPAttention"] if component == "text_encoder" else ["CrossAttention", "Attention", "GEGLU"]
    if not isinstance(listed, list) or not all(isinstance(word, str) for word in listed):
        raise UnsupportedError(
            f"{file.path}: its metadata field {component} is {listed!r}; a list of classes was expected."
        )
    strange = sorted(set(listed) - CLASSES[component])
    if strange:
        raise UnsupportedError(
            f"{file.path}: its layers were found inside of {strange[0]} (cloneofsimo), whose order is unknown."
        )
    return listed
