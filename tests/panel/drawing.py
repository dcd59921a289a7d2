"""A picture host for tests: its latents are a function of the layers of the LoRA file that an image uses."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from lib_resize.files.metadata import FitRecord

SHAPE = (4, 8, 8)


def write_small_lora(path: Path, seed: int = 3, rank: int = 16) -> Path:
    """Write a LoRA of twelve layers whose singular values fall, so that a search is quick."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for block in (1, 2, 4, 5, 7, 8):
        for layer in ("to_q", "to_out_0"):
            stem = f"lora_unet_input_blocks_{block}_1_transformer_blocks_0_attn1_{layer}"
            falling = np.sqrt(np.exp(-np.arange(rank) / rng.uniform(2, 8)))
            up, down = (
                np.linalg.qr(rng.standard_normal((64, rank)))[0],
                np.linalg.qr(rng.standard_normal((64, rank)))[0],
            )
            tensors[f"{stem}.lora_up.weight"] = (up * falling).astype(np.float16)
            tensors[f"{stem}.lora_down.weight"] = (down * falling).T.astype(np.float16).copy()
            tensors[f"{stem}.alpha"] = np.array(rank / 2, np.float16)
    save_file(tensors, str(path), {"ss_network_dim": str(rank), "ss_network_alpha": str(rank / 2)})
    return path


class Drawing:
    """Draws noise of the seed, and what the deltas of the LoRA of a request do to it."""

    def __init__(self, find: Callable[[str], Path]) -> None:
        self._find = find
        self.used: list[Path] = []
        """The file of each image that uses one."""
        self.drawn: list[dict[str, Any]] = []
        """All requests."""
        self.strength = 1.0
        self.noise = 0.0
        """The host's own: no two images are the same."""

    def latent(self, request: Mapping[str, Any]) -> Any:
        self.drawn.append(dict(request))
        seed = int(request["seed"])
        latent = np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)
        if self.noise:
            latent += self.noise * np.random.default_rng(10_000 + len(self.drawn)).standard_normal(SHAPE)
        for name in request.get("loras", ()):
            path = Path(request.get("files", {}).get(name) or self._find(name))
            self.used.append(path)
            latent = latent + self.strength * effect(path, path.stat().st_mtime_ns, seed)
        return latent.astype(np.float32)


@functools.lru_cache(maxsize=64)
def effect(path: Path, _: int, seed: int) -> Any:
    """Project all deltas of a file to the size of an image."""
    tensors = {key: value.astype(np.float32) for key, value in load_file(str(path)).items()}
    found = np.zeros(SHAPE, np.float32)
    for key, down in sorted(tensors.items()):
        if not key.endswith("lora_down.weight"):
            continue
        stem = key.removesuffix(".lora_down.weight")
        up, alpha = tensors[f"{stem}.lora_up.weight"], float(tensors[f"{stem}.alpha"])
        rng = np.random.default_rng([zlib.crc32(stem.encode()), seed])
        flat = down.reshape(len(down), -1)
        x = rng.standard_normal((flat.shape[1], 16)).astype(np.float32)
        y = up.reshape(len(up), -1) @ (flat @ x) * (alpha / len(down))
        out = rng.standard_normal((16, len(y))).astype(np.float32) / np.float32(np.sqrt(len(y)))
        found += (out @ y).reshape(SHAPE)
    return found


class Refining:
    """A fit that changes nothing, and counts its calls."""

    images_left = 0

    def __init__(self) -> None:
        self.bytes: list[int] = []

    @property
    def longest(self) -> FitRecord:
        return FitRecord.longest(["unet"])

    def __call__(self, job: Any, runtime: Any) -> Any:
        runtime.progress.start("make images", 5)
        runtime.progress.step()
        self.bytes.append(job.plan.bytes_after)
        return job
