"""The programs that cannot load a float8 LoRA, by family and key format.

diffusers multiplies alpha into the factors of a transformer's LoRA that has kohya's suffixes, and torch has no such
product of float8 numbers: loading fails with NotImplementedError. LoRAs with PEFT's suffixes and LoRAs of UNets load.
nunchaku loads no float8 LoRA of a transformer.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...names.family import Family
from ..layer import Layer

_UNETS = frozenset({"SDXL", "SD1.5", "SD2", "SDXL refiner", "Kolors"})
_DTYPES = frozenset({"F8_E4M3", "F8_E5M2"})


def programs_without_float8(family: Family | None, *, kohya: bool) -> tuple[str, ...]:
    """Return the programs that cannot load a float8 LoRA of a family. `kohya`: with ``lora_up`` and ``lora_down``.

    For an unknown family: those that cannot load it if it is a transformer.
    """
    if family is not None and family.name in _UNETS:
        return ()
    return ("diffusers", "nunchaku") if kohya else ("nunchaku",)


def float8_source(layers: Iterable[Layer], family: Family | None) -> tuple[str, ...]:
    """Return the programs that cannot load a file, because it has float8 factors."""
    found = [layer for layer in layers if layer.form.dtypes & _DTYPES]
    return programs_without_float8(family, kohya=any(layer.carries_alpha for layer in found)) if found else ()


def float8_result(
    layers: Iterable[tuple[Layer, Iterable[str]]], family: Family | None, *, kohya: bool
) -> tuple[str, ...]:
    """Return the programs that cannot load an output file, from the dtypes of each layer.

    `kohya`: all of it has kohya's names.
    """
    found = [layer for layer, dtypes in layers if _DTYPES & set(dtypes)]
    return programs_without_float8(family, kohya=kohya or any(layer.carries_alpha for layer in found)) if found else ()
