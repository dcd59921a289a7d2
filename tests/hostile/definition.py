"""What a LoRA means, in float64, and its bytes, without the package, torch or the safetensors library."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

Tensors = dict[str, np.ndarray]
"""Keys and their numbers in float64."""

ROUNDOFF = {"F32": 2.0**-24, "F16": 2.0**-11, "BF16": 2.0**-8, "F8_E4M3": 2.0**-4}
"""How far a stored number may be from the one that was meant, relative to it."""
_PLAIN = {"F32": "<f4", "F16": "<f2"}


def _e4m3(code: int) -> float:
    exponent, mantissa = code >> 3 & 15, code & 7
    if code & 127 == 127:
        return np.nan
    size = mantissa * 2.0**-9 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10)
    return -size if code & 128 else size


_E4M3 = np.array([_e4m3(code) for code in range(256)])
_POSITIVE = _E4M3[:127]


def encoded(values: np.ndarray, dtype: str) -> bytes:
    """Rounded to the nearest number of the dtype."""
    if dtype == "BF16":
        bits = np.asarray(values, "<f4").view("<u4").astype(np.uint64)
        return bytes(((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2").tobytes())
    if dtype == "F8_E4M3":
        sizes = np.minimum(np.abs(values), _POSITIVE[-1])
        above = np.searchsorted(_POSITIVE, sizes).clip(1)
        codes = np.where(sizes - _POSITIVE[above - 1] < _POSITIVE[above] - sizes, above - 1, above)
        return bytes((codes + 128 * (values < 0)).astype(np.uint8).tobytes())
    return np.asarray(values, _PLAIN[dtype]).tobytes()


def decoded(content: bytes, dtype: str) -> np.ndarray:
    if dtype == "BF16":
        return (np.frombuffer(content, "<u2").astype("<u4") << 16).view("<f4").astype(np.float64)
    if dtype == "F8_E4M3":
        return np.asarray(_E4M3[np.frombuffer(content, np.uint8)])
    return np.frombuffer(content, _PLAIN[dtype]).astype(np.float64)


def save(path: Path, tensors: Mapping[str, np.ndarray], dtypes: Mapping[str, str]) -> None:
    header, chunks, at = {}, [], 0
    for key, values in tensors.items():
        chunk = encoded(values, dtypes[key])
        header[key] = {"dtype": dtypes[key], "shape": list(values.shape), "data_offsets": [at, at + len(chunk)]}
        chunks.append(chunk)
        at += len(chunk)
    raw = json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + b"".join(chunks))


def load(path: Path) -> tuple[Tensors, dict[str, str]]:
    """The numbers and the dtypes of a file."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    found = {}
    for key, entry in header.items():
        first, last = entry["data_offsets"]
        found[key] = decoded(content[start + first : start + last], entry["dtype"]).reshape(entry["shape"])
    return found, {key: entry["dtype"] for key, entry in header.items()}


def deltas(tensors: Tensors) -> Tensors:
    """The delta of every layer as a matrix, by the definition of its kind."""
    stems = dict.fromkeys(key.split(".")[0] for key in tensors)
    return {stem: delta(tensors, stem) for stem in stems}


def delta(tensors: Tensors, stem: str) -> np.ndarray:
    """LoRA, LoCon with or without a core, LoHa, LoKr and plain differences; alpha counts over the rank."""
    part = {key.removeprefix(f"{stem}."): values for key, values in tensors.items() if key.startswith(f"{stem}.")}
    alpha = part.pop("alpha", None)
    scale = (lambda rank: float(alpha.reshape(-1)[0]) / rank) if alpha is not None else (lambda rank: 1.0)
    if "diff" in part:
        return _flat(part["diff"])
    if "lora_mid.weight" in part:
        up, mid, down = (part[f"lora_{role}.weight"] for role in ("up", "mid", "down"))
        found = np.einsum("or,rqkl,qi->oikl", _flat(up), mid, _flat(down))
        return scale(len(down)) * _flat(found)
    if "lora_up.weight" in part:
        up, down = part["lora_up.weight"], part["lora_down.weight"]
        product: np.ndarray = scale(len(down)) * _flat(up) @ _flat(down)
        return product
    if "hada_w1_a" in part:
        first, second = (part[f"hada_{w}_a"] @ part[f"hada_{w}_b"] for w in ("w1", "w2"))
        hadamard: np.ndarray = scale(len(part["hada_w1_b"])) * first * second
        return hadamard
    first, second = (_kronecker_factor(part, name) for name in ("w1", "w2"))
    ranked = part.get("lokr_w2_b", part.get("lokr_w1_b"))
    return (1.0 if ranked is None else scale(len(ranked))) * np.kron(first, second)


def _kronecker_factor(part: Tensors, name: str) -> np.ndarray:
    whole = part.get(f"lokr_{name}")
    return whole if whole is not None else part[f"lokr_{name}_a"] @ part[f"lokr_{name}_b"]


def _flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1)
