"""How an output file is written: the dtype of its factors, its key format, and conversions of layers."""

from __future__ import annotations

from dataclasses import dataclass

DTYPES: dict[str, str | None] = {"16": "F16", "32": "F32", "bf16": "BF16", "8": "F8_E4M3", "same": None}
"""What `-t` may be -> the safetensors dtype, or None for that of the source."""

CONVERSIONS: dict[str, str] = {
    "auto": "keep each layer's kind, but write LoHa as LoRA where that makes the better file",
    "lora": "write every layer as LoRA that can be, whatever that costs",
    "none": "keep each layer's kind",
}
"""What `--convert` may be."""

FLOAT8 = "F8_E4M3"
"""The fp8 dtype that is written."""


@dataclass(frozen=True)
class Style:
    """How the new file is spelled."""

    dtype: str | None = "F16"
    """safetensors dtype of factors; None keeps each layer's own."""
    kohya: bool = False
    """Names in kohya's spelling; else each as it was."""
    convert: str = "auto"
    """One of `CONVERSIONS`."""
