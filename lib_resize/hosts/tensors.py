"""Inspect and copy the tensors of a host's model, without computing on them or changing them.

torch is imported inside of functions. Weights can be any objects that behave like torch tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

PLAIN = {"float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64"}
"""torch's dtypes that hold the numbers of the file, at most rounded -> safetensors' names for them."""
_EIGHT_BITS = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}
_PACKED = {"bnb_quantized": "bitsandbytes", "quant_state": "bitsandbytes", "gguf_cls": "GGUF", "_layout_cls": "mixed"}


def torch_name(tensor: Any) -> str:
    """Return torch's name of a tensor's dtype, such as ``float16``."""
    return str(tensor.dtype).rpartition(".")[2]


def dtype_name(tensor: Any) -> str:
    """Return safetensors' name of a tensor's dtype; torch's name where it has none."""
    name = torch_name(tensor)
    return PLAIN.get(name) or _EIGHT_BITS.get(name) or name


def packing(tensor: Any, module: Any = None) -> str | None:
    """Return how a weight is quantised, as words for a message; None where its numbers are those of the file."""
    for attribute, word in _PACKED.items():
        if getattr(tensor, attribute, None) is not None:
            return f"{word} quantisation"
    if getattr(module, "scale_weight", None) is not None:
        return "scaled fp8 storage"
    name = torch_name(tensor)
    if name.startswith("float8"):
        return f"fp8 storage ({name})"
    return None if name in PLAIN else f"{name} storage"


def readable(tensor: Any) -> bool:
    """Return whether a tensor has data: an unloaded model is on torch's device ``meta``."""
    return tensor is not None and not getattr(tensor, "is_meta", False)


def copied(tensor: Any, device: str) -> Any:
    """Return a contiguous float32 copy on a device, which shares no memory with the original."""
    import torch

    return tensor.detach().to(device=torch.device(device), dtype=torch.float32, copy=True).contiguous()


def attribute(root: Any, dotted: str) -> Any:
    """Return the module or tensor of a dotted name; None where there is none."""
    for name in dotted.split("."):
        root = getattr(root, name, None)
        if root is None:
            return None
    return root


def shapes_below(parameters: Iterable[tuple[str, Any]], prefix: str) -> Mapping[str, tuple[int, ...]]:
    """Return the shapes of all tensors of two or more dimensions, by name with a prefix before it."""
    return {prefix + name: tuple(tensor.shape) for name, tensor in parameters if len(tensor.shape) >= 2}
