"""How the WebUIs turn a file in kohya's names into what they add to a weight: their rules, restated as small functions.

Each host's rule differs where it matters: the number type that it computes in, what a missing alpha means, which
layers it drops, the axis along which it normalises DoRA, and what makes it refuse a whole file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from lora_material import Matrix, Tensors
from numpy.typing import NDArray

PARTS = frozenset({"lora_up.weight", "lora_down.weight", "alpha", "dora_scale", "diff_b"})


class RefusedError(Exception):
    """The host does not load this file."""


@dataclass(frozen=True)
class Module:
    """What a host gathers under one name."""

    name: str
    up: NDArray[np.float64]
    down: NDArray[np.float64]
    alpha: float | None
    magnitude: NDArray[np.float64] | None

    @property
    def rank(self) -> int:
        return len(self.down)

    @property
    def scale(self) -> float:
        """alpha over rank; 1 where there is no alpha (all WebUIs)."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    @property
    def matrices(self) -> tuple[Matrix, Matrix]:
        return self.up.reshape(len(self.up), -1), self.down.reshape(self.rank, -1)


def modules(tensors: Tensors) -> Iterator[Module]:
    """Keys parted at their first dot, as A1111 does. RefusedError for a group that is no whole LoRA layer."""
    groups: dict[str, dict[str, NDArray[np.float64]]] = {}
    for key, values in tensors.items():
        name, _, part = key.partition(".")
        groups.setdefault(name, {})[part] = values
    for name, parts in groups.items():
        if not {"lora_up.weight", "lora_down.weight"} <= parts.keys() or parts.keys() - PARTS:
            raise RefusedError(f"{name}: {sorted(parts)}")
        down = parts["lora_down.weight"]
        if 0 in down.shape or parts["lora_up.weight"].shape[1] != len(down):
            raise RefusedError(f"{name}: rank {down.shape}")
        alpha = float(parts["alpha"].item()) if "alpha" in parts else None
        yield Module(name, parts["lora_up.weight"], down, alpha, parts.get("dora_scale"))


# ---------------------------------------------------------------- A1111


def a1111(tensors: Tensors) -> dict[str, Matrix]:
    """Name -> delta as A1111 adds it: in float16 all the way, and fused attention only whole."""
    found = {module.name: _a1111_delta(module) for module in modules(tensors)}
    return {name: delta for name, delta in found.items() if _applied_by_a1111(name, found)}


def _a1111_delta(module: Module) -> Matrix:
    with np.errstate(over="ignore", invalid="ignore"):
        up, down = (values.astype(np.float16) for values in module.matrices)
        # Tensor cores and CPUs sum in float32 and round once.
        product = (up.astype(np.float32) @ down.astype(np.float32)).astype(np.float16)
        return (product.astype(np.float32) * np.float32(module.scale)).astype(np.float16).astype(np.float64)


def _applied_by_a1111(name: str, there: Mapping[str, object]) -> bool:
    """The second text encoder holds q, k and v in one weight, which is changed only if all of them and out are
    there."""
    match = re.fullmatch(r"(lora_te2_.+_self_attn)_(q|k|v|out)_proj", name)
    return match is None or all(f"{match[1]}_{part}_proj" in there for part in ("q", "k", "v", "out"))


def a1111_dora(module: Module, weight: Matrix, shape: tuple[int, ...]) -> Matrix:
    """The merged weight: its input channels get the length that the magnitudes say, whichever axis these have."""
    merged = (weight + module.scale * np.matmul(*module.matrices)).reshape(shape)
    others = tuple(axis for axis in range(merged.ndim) if axis != 1)
    length = np.sqrt((merged**2).sum(axis=others, keepdims=True))
    assert module.magnitude is not None
    return np.asarray(merged * (module.magnitude / length)).reshape(weight.shape)


def a1111_version(metadata: Mapping[str, str]) -> str:
    """Which models A1111 shows a LoRA for."""
    if metadata.get("ss_base_model_version", "").startswith("sdxl_"):
        return "SDXL"
    if metadata.get("ss_v2", "") == "True":
        return "SD2"
    return "SD1" if metadata else "Unknown"


# ---------------------------------------------------------------- ComfyUI and Forge


def comfyui(tensors: Tensors) -> dict[str, Matrix]:
    """Name -> delta as ComfyUI and Forge add it, in float32."""
    return {module.name: _comfyui_delta(module) for module in modules(tensors)}


def _comfyui_delta(module: Module) -> Matrix:
    up, down = (values.astype(np.float32) for values in module.matrices)
    return (np.float32(module.scale) * (up @ down)).astype(np.float64)


def comfyui_dora(module: Module, weight: Matrix, shape: tuple[int, ...]) -> Matrix:
    """The merged weight. Magnitudes over outputs are divided by the length of the base weight's rows, those over
    inputs by that of the merged weight's channels."""
    assert module.magnitude is not None
    merged = (weight + module.scale * np.matmul(*module.matrices)).reshape(shape)
    over_outputs = len(module.magnitude) == len(weight)
    measured = weight.reshape(shape) if over_outputs else merged
    kept = 0 if over_outputs else 1
    others = tuple(axis for axis in range(measured.ndim) if axis != kept)
    length = np.sqrt((measured**2).sum(axis=others, keepdims=True))
    return np.asarray(merged * (module.magnitude / length)).reshape(weight.shape)


def old_sdnext_dora(module: Module, weight: Matrix, shape: tuple[int, ...]) -> Matrix:
    """The merged weight of SD.Next of early 2025: normalised first, and then what came of it is scaled."""
    unscaled = Module(module.name, module.up, module.down, None, module.magnitude)
    return weight + module.scale * (a1111_dora(unscaled, weight, shape) - weight)
