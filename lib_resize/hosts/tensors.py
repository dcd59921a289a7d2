"""What a tensor of a host's model is, asked without computing: dtypes, and copies that never touch the original.

torch is imported inside of functions; weights are any objects that behave as torch tensors do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

PLAIN = {"float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64"}
"""torch's dtypes that hold the file's own numbers, at most rounded, and what safetensors calls them."""
_EIGHT_BITS = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}
_PACKED = {"bnb_quantized": "bitsandbytes", "quant_state": "bitsandbytes", "gguf_cls": "GGUF", "_layout_cls": "mixed"}


def torch_name(tensor: Any) -> str:
    """``float16`` for torch.float16."""
    return str(tensor.dtype).rpartition(".")[2]


def dtype_name(tensor: Any) -> str:
    """The dtype in words of safetensors; torch's own word where that has none."""
    name = torch_name(tensor)
    return PLAIN.get(name) or _EIGHT_BITS.get(name) or name


def packing(tensor: Any, module: Any = None) -> str | None:
    """In which way the numbers of a weight are not simply the file's, in words; None where they are."""
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
    """Whether it holds data: a model that was thrown away lies on torch's device ``meta``."""
    return tensor is not None and not getattr(tensor, "is_meta", False)


def copied(tensor: Any, device: str) -> Any:
    """A float32 copy on a device, contiguous, that shares nothing with the original."""
    import torch

    return tensor.detach().to(device=torch.device(device), dtype=torch.float32, copy=True).contiguous()


def attribute(root: Any, dotted: str) -> Any:
    """The module or tensor under a dotted name; None where there is none."""
    for name in dotted.split("."):
        root = getattr(root, name, None)
        if root is None:
            return None
    return root


def shapes_below(parameters: Iterable[tuple[str, Any]], prefix: str) -> Mapping[str, tuple[int, ...]]:
    """Names and shapes of matrices, with a prefix put before each name."""
    return {prefix + name: tuple(tensor.shape) for name, tensor in parameters if len(tensor.shape) >= 2}
