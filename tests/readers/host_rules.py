"""How the WebUIs turn a file in kohya's names into what they add to a weight: their rules, restated as small functions.

Each host's rule differs where it matters: the number type that it computes in, what a missing alpha means, which
layers it drops, the axis along which it normalises DoRA, and what makes it refuse a whole file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tests.readers.lora_material import Matrix, Tensors

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
        delta: Matrix = (product.astype(np.float32) * np.float32(module.scale)).astype(np.float16).astype(np.float64)
        return delta


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
    delta: Matrix = (np.float32(module.scale) * (up @ down)).astype(np.float64)
    return delta


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
    """The merged weight of SD.Next of early 2025: normalised first, then scaled."""
    unscaled = Module(module.name, module.up, module.down, None, module.magnitude)
    return weight + module.scale * (a1111_dora(unscaled, weight, shape) - weight)


# ---------------------------------------------------------------- all kinds of adapters


class SkippedError(Exception):
    """The host loads the file, but not this layer."""


Group = Mapping[str, NDArray[np.float64]]


def layers_of(tensors: Tensors) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Name -> suffix -> numbers; keys parted at their first dot."""
    found: dict[str, dict[str, NDArray[np.float64]]] = {}
    for key, values in tensors.items():
        name, _, suffix = key.partition(".")
        found.setdefault(name, {})[suffix] = values
    return found


def a1111_layers(
    tensors: Tensors, prefix: str, weights: Mapping[str, Matrix], shapes: Mapping[str, tuple[int, ...]] | None = None
) -> dict[str, Matrix]:
    """Layer -> what A1111 adds to its weight. With `shapes`, DoRA is applied as A1111 does it: over inputs, always."""
    found = {}
    for name, parts in layers_of(tensors).items():
        layer = name.removeprefix(prefix)
        if layer not in weights:
            continue
        found[layer] = a1111_type(parts, weights[layer])
        if "dora_scale" in parts and shapes is not None:
            found[layer] = _over_inputs(found[layer], parts["dora_scale"], weights[layer], shapes[layer])
    return found


def _over_inputs(delta: Matrix, magnitude: Matrix, weight: Matrix, shape: tuple[int, ...]) -> Matrix:
    merged = (weight + delta).reshape(shape)
    others = tuple(axis for axis in range(merged.ndim) if axis != 1)
    length = np.sqrt((merged**2).sum(axis=others, keepdims=True))
    return np.asarray(merged * (magnitude / length)).reshape(weight.shape) - weight


def comfyui_layers(tensors: Tensors, prefix: str, weights: Mapping[str, Matrix]) -> dict[str, Matrix]:
    """Layer -> what ComfyUI and Forge add to its weight, DoRA left out."""
    found = {}
    for name, parts in layers_of(tensors).items():
        layer = name.removeprefix(prefix)
        if layer in weights:
            found[layer] = comfyui_type(parts, weights[layer])
    return found


def _alpha(parts: Group, rank: int) -> float:
    return float(parts["alpha"].reshape(())) / rank if "alpha" in parts else 1.0


def _flat(values: NDArray[np.float64]) -> Matrix:
    return values.reshape(len(values), -1)


def _core(mid: NDArray[np.float64], up: Matrix, down: Matrix) -> Matrix:
    """up (out, a), mid (a, b, ...), down (b, in)."""
    middle = mid.reshape(*mid.shape[:2], -1)
    core: Matrix = np.einsum("abt,oa,bi->oit", middle, up, down).reshape(len(up), -1)
    return core


def _lora(parts: Group) -> Matrix:
    up, down = _flat(parts["lora_up.weight"]), parts["lora_down.weight"]
    if "lora_mid.weight" in parts:
        return _alpha(parts, len(down)) * _core(parts["lora_mid.weight"], up, _flat(down))
    return _alpha(parts, len(down)) * up @ _flat(down)


def _loha(parts: Group) -> Matrix:
    sides = []
    for side in "12":
        a, b = parts[f"hada_w{side}_a"], parts[f"hada_w{side}_b"]
        core = parts.get(f"hada_t{side}")
        sides.append(_flat(a) @ _flat(b) if core is None else _core(core, a.T, b))
    return _alpha(parts, len(parts["hada_w1_b"])) * sides[0] * sides[1]


def _lokr(parts: Group) -> Matrix:
    """dim is the rows of w2_b, else those of w1_b; where both sides are whole, alpha is ignored."""
    w1 = parts["lokr_w1"] if "lokr_w1" in parts else parts["lokr_w1_a"] @ parts["lokr_w1_b"]
    if "lokr_w2" in parts:
        w2 = _flat(parts["lokr_w2"])
    elif "lokr_t2" in parts:
        w2 = _core(parts["lokr_t2"], parts["lokr_w2_a"].T, parts["lokr_w2_b"])
    else:
        w2 = parts["lokr_w2_a"] @ _flat(parts["lokr_w2_b"])
    dim = next((len(parts[key]) for key in ("lokr_w2_b", "lokr_w1_b") if key in parts), None)
    product = np.asarray(np.kron(w1, w2), np.float64)
    return (1.0 if dim is None else _alpha(parts, dim)) * product


def _rotated(parts: Group, weight: Matrix, limit: float) -> Matrix:
    """Diag-OFT: rows of each block times ``(I + Q)(I - Q)^-1``, Q = B - B^T, no longer than the limit."""
    blocks = parts["oft_blocks"]
    q = blocks - np.swapaxes(blocks, 1, 2)
    length = np.linalg.norm(q)
    q = q * min(1.0, limit / length) if limit > 0 and length > 0 else q
    eye = np.eye(blocks.shape[1])
    rotation = (eye + q) @ np.linalg.inv(eye - q)
    turned: Matrix = np.einsum("knm,kn...->km...", rotation, weight.reshape(*blocks.shape[:2], -1)).reshape(
        weight.shape
    )
    if "rescale" in parts:
        turned = turned * parts["rescale"].reshape(-1, 1)
    return turned - weight


def _glora(parts: Group, weight: Matrix, *, old: bool) -> Matrix:
    a1, a2, b1, b2 = (parts[f"{role}.weight"] for role in ("a1", "a2", "b1", "b2"))
    up, down, left, right = (b2, b1, a2, a1) if old else (b1, b2, a1, a2)
    inner = _flat(left) @ _flat(right)
    cube = weight.reshape(len(weight), len(inner), -1)
    moved = np.einsum("oit,ij->ojt", cube, inner).reshape(weight.shape)
    return np.asarray(_flat(up) @ _flat(down) + moved)


def _is_old_glora(parts: Group) -> bool:
    a1, a2, b1, b2 = (parts[f"{role}.weight"].shape for role in ("a1", "a2", "b1", "b2"))
    return bool(b2[1] == b1[0] == a1[0] == a2[1]) and a2[0] >= a2[1]


def a1111_type(parts: Group, weight: Matrix) -> Matrix:
    """One layer by A1111's rules. RefusedError where the whole file fails, SkippedError where the layer does."""
    if {"lora_up.weight", "lora_down.weight"} <= parts.keys():
        scale = float(parts["scale"].reshape(())) if "scale" in parts else None
        delta = _lora(parts)
        return delta if scale is None else delta / _alpha(parts, len(parts["lora_down.weight"])) * scale
    if {"lora_A.weight", "lora_B.weight"} <= parts.keys():  # alpha and magnitudes are dropped
        return np.asarray(_flat(parts["lora_B.weight"]) @ _flat(parts["lora_A.weight"]))
    if "hada_w1_a" in parts:
        return _loha(parts)
    if any(key.startswith("lokr_") for key in parts):
        return _lokr(parts)
    if "a1.weight" in parts:
        if not _is_old_glora(parts):
            raise SkippedError("GLoRA of the new layout")
        return _glora(parts, weight, old=True)
    if "diff" in parts:
        return _flat(parts["diff"])
    if {"weight", "on_input"} <= parts.keys():
        factor = parts["weight"].reshape(-1)
        return np.asarray(weight * (factor[None, :] if parts["on_input"].item() else factor[:, None]))
    if "oft_blocks" in parts and parts["oft_blocks"].ndim == 3:
        return _rotated(parts, weight, _alpha(parts, 1) * len(weight))
    if "oft_blocks" in parts:
        return np.zeros(weight.shape)  # BOFT is loaded; its product of butterflies is not restated here
    if {"w_norm", "b_norm"} <= parts.keys():
        return _flat(parts["w_norm"])
    raise RefusedError(f"no kind of network has {sorted(parts)}")


def comfyui_type(parts: Group, weight: Matrix) -> Matrix:
    """One layer by ComfyUI's rules. SkippedError for what it leaves out."""
    if {"lora_up.weight", "lora_down.weight"} <= parts.keys():
        mid = parts.get("lora_mid.weight")
        if mid is not None and mid.shape[0] != mid.shape[1]:
            raise RefusedError("a core that is not square")
        return _lora(parts)
    if {"lora_A.weight", "lora_B.weight"} <= parts.keys():
        up, down = parts["lora_B.weight"], parts["lora_A.weight"]
        return np.asarray(_alpha(parts, len(down)) * _flat(up) @ _flat(down))
    if "hada_w1_a" in parts:
        return _loha(parts)
    if any(key.startswith("lokr_") for key in parts):
        return _lokr(parts)
    if "a1.weight" in parts:
        old = _is_old_glora(parts)
        rank = len(parts["b1.weight"] if old else parts["b2.weight"])
        return _alpha(parts, rank) * _glora(parts, weight, old=old)
    if "diff" in parts:
        return _flat(parts["diff"])
    if "oft_blocks" in parts and parts["oft_blocks"].ndim == 3:
        kept = {key: values for key, values in parts.items() if key != "rescale"}
        return _rotated(kept, weight, _alpha(parts, 1))
    if "oft_blocks" in parts:
        if "alpha" not in parts:
            raise SkippedError("BOFT without alpha")
        return np.zeros(weight.shape)
    if "w_norm" in parts:
        return _flat(parts["w_norm"])
    raise SkippedError(f"nothing is known of {sorted(parts)}")


def forge_type(parts: Group, weight: Matrix) -> Matrix:
    """The same by Forge's: ComfyUI's rules from before it had rotations. Seen in Forge (dfdcbab6) itself."""
    if "oft_blocks" in parts:
        raise SkippedError("rotations are not read")
    return comfyui_type(parts, weight)


# ---------------------------------------------------------------- other programs


def diffusers_type(parts: Group, weight: Matrix) -> Matrix:
    """One layer of a file in kohya's names by diffusers' rules (0.32 and later): pairs alone; what is left over fails
    the whole file, but magnitudes, which are dropped with a warning."""
    left = parts.keys() - {
        "lora_up.weight",
        "lora_down.weight",
        "lora_A.weight",
        "lora_B.weight",
        "alpha",
        "dora_scale",
    }
    if left:
        raise RefusedError(f"left over: {sorted(left)}")
    if {"lora_A.weight", "lora_B.weight"} <= parts.keys():  # of a UNet: alpha is ignored
        return np.asarray(_flat(parts["lora_B.weight"]) @ _flat(parts["lora_A.weight"]))
    if not {"lora_up.weight", "lora_down.weight"} <= parts.keys():
        raise RefusedError(f"no pair in {sorted(parts)}")
    return _lora(parts)


def sdnext_type(parts: Group, weight: Matrix) -> Matrix:
    """One layer by the rules of SD.Next (early 2025): A1111's, but alpha of lora_A and lora_B is honoured, and OFT has
    neither rescale nor butterflies."""
    if {"lora_A.weight", "lora_B.weight"} <= parts.keys():
        renamed = {"lora_A.weight": "lora_down.weight", "lora_B.weight": "lora_up.weight"}
        return _lora({renamed.get(key, key): values for key, values in parts.items()})
    if "oft_blocks" in parts and (parts["oft_blocks"].ndim != 3 or "alpha" not in parts):
        raise RefusedError("no such OFT")
    return a1111_type({key: values for key, values in parts.items() if key != "rescale"}, weight)


def applies_bias(host: str, parts: Group) -> bool:
    """A1111, and SD.Next after it, look for diff_b only with a difference of weights."""
    return host not in ("A1111", "SD.Next") or "diff" in parts


def over_outputs(delta: Matrix, magnitude: Matrix, weight: Matrix, shape: tuple[int, ...], measured: str) -> Matrix:
    """DoRA with a magnitude for each output, divided by the length of the merged weight's rows or of the base's."""
    merged = weight + delta
    length = np.linalg.norm(merged if measured == "merged" else weight, axis=1, keepdims=True)
    return np.asarray(merged * (magnitude.reshape(-1, 1) / length)) - weight
