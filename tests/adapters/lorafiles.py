"""Small LoRA files, written by the safetensors library, and their deltas in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from lib_resize.files.reader import SafeFile
from lib_resize.linalg.casts import STORAGE, doubles


def factors(n: int, m: int, rank: int, seed: int = 0, strength: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    up = rng.standard_normal((n, rank)) * np.geomspace(1, 0.02, rank) * strength
    return up.astype(np.float32), (rng.standard_normal((rank, m)) / np.sqrt(m)).astype(np.float32)


def kohya(stem: str, n: int = 24, m: int = 16, rank: int = 6, **options) -> dict[str, np.ndarray]:
    """Tensors of one layer in kohya's spelling."""
    alpha = options.pop("alpha", rank / 2)
    up, down = factors(n, m, rank, **options)
    tensors = {f"{stem}.lora_up.weight": up, f"{stem}.lora_down.weight": down}
    return tensors if alpha is None else tensors | {f"{stem}.alpha": np.array(alpha, np.float32)}


def write(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata)
    return path


def tensors_of(path: Path) -> dict[str, np.ndarray]:
    """All tensors in float64, for every dtype."""
    with SafeFile(path) as file:
        return {
            key: doubles(file.bits(key), entry.dtype) if entry.dtype in STORAGE else file.bits(key).astype(np.float64)
            for key, entry in file.header.entries.items()
        }


def delta(tensors: dict[str, np.ndarray], stem: str) -> np.ndarray:
    """The delta by the rule of kohya's readers, flattened to a matrix."""
    up, down = tensors[f"{stem}.lora_up.weight"], tensors[f"{stem}.lora_down.weight"]
    rank = down.shape[0]
    alpha = float(tensors[f"{stem}.alpha"].reshape(())) if f"{stem}.alpha" in tensors else rank
    left, right = up.reshape(len(up), rank).astype(np.float64), down.reshape(rank, -1).astype(np.float64)
    found: np.ndarray = alpha / rank * left @ right
    return found


def best(matrix: np.ndarray, rank: int) -> np.ndarray:
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    found: np.ndarray = (u[:, :rank] * s[:rank]) @ vt[:rank]
    return found


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
