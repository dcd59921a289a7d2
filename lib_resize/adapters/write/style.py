"""How an output file is written: the dtype of its factors, its key format, and conversions of layers."""

from __future__ import annotations

from dataclasses import dataclass

DTYPES: dict[str, str | None] = {"16": "F16", "32": "F32", "bf16": "BF16", "8": "F8_E4M3", "same": None}
"""Values of `-t` -> the safetensors dtype, or None for that of the source."""

CONVERSIONS: dict[str, str] = {
    "auto": "keep each layer's kind, but write LoHa as LoRA where that makes the better file",
    "lora": "write every layer as LoRA that can be converted, at any size",
    "none": "keep each layer's kind",
}
"""Values of `--convert`."""

FLOAT8 = "F8_E4M3"
"""The fp8 dtype that is written."""


@dataclass(frozen=True)
class Style:
    """How the output file is written."""

    dtype: str | None = "F16"
    """safetensors dtype of factors; None keeps each layer's own."""
    kohya: bool = False
    """Whether keys have kohya's format; else they are kept."""
    convert: str = "auto"
    """One of `CONVERSIONS`."""
    keep_name: bool = False
    """Whether ``ss_output_name`` stays that of the source, as in a file that replaces it; else it is the new name."""
