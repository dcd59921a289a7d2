"""The layers of each kind of adapter that can be resized, one module for each kind.

A module is imported when a file has such a layer: most files have one kind.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import cache

from .form import Form, Tensors

_READERS: Mapping[str, tuple[str, str]] = {
    "LoRA": ("lora", "read_lora"),
    "Control-LoRA": ("lora", "read_lora"),
    "Tucker LoCon": ("tucker", "read_tucker"),
    "LoHa": ("loha", "read_loha"),
    "LoKr": ("lokr", "read_lokr"),
    "GLoRA": ("glora", "read_glora"),
    "weight difference": ("full", "read_full"),
}
"""Name of a kind in the registry -> module and function that read such a layer."""


@cache
def reader_of(kind: str) -> Callable[[Tensors], Form]:
    """Return the function that reads a layer of a kind that can be resized.

    The function raises DamagedFileError and LayerError.
    """
    module, name = _READERS[kind]
    reader: Callable[[Tensors], Form] = getattr(importlib.import_module(f".{module}", __name__), name)
    return reader
