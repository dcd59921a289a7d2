"""The layers of each kind of adapter that can be resized, one module for each kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .form import Form, Tensors
from .full import read_full
from .glora import read_glora
from .loha import read_loha
from .lokr import read_lokr
from .lora import read_lora
from .tucker import read_tucker

READERS: Mapping[str, Callable[[Tensors], Form]] = {
    "LoRA": read_lora,
    "Control-LoRA": read_lora,
    "Tucker LoCon": read_tucker,
    "LoHa": read_loha,
    "LoKr": read_lokr,
    "GLoRA": read_glora,
    "weight difference": read_full,
}
"""Name of a kind in the registry -> the function that reads such a layer. Raises DamagedFileError and LayerError."""
