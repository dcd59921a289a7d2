"""A small net of every kind of module that is fitted, a LoRA for it, and recorded calls."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lib_resize.adapters.write.style import Style
from lib_resize.engine.analysing import analyse
from lib_resize.engine.analysis import Analysis
from lib_resize.engine.job import ResizeJob
from lib_resize.engine.planning import prepare
from lib_resize.engine.reading import read_lora
from lib_resize.engine.runtime import Runtime, cpu_runtime
from lib_resize.files.header import TensorSpec, file_order
from lib_resize.files.reader import SafeFile
from lib_resize.files.writer import write_safetensors
from lib_resize.fitting.calls import Call
from lib_resize.fitting.fit import Recorded, Recordings
from lib_resize.fitting.pairing import places_in
from lib_resize.fitting.places import FitModel
from lib_resize.progress import Quiet
from lib_resize.recipe.grammar import parse_recipe

CHANNELS, SIDE, RANK = 12, 4, 8


class Net(nn.Module):
    """Images (N, 12, 4, 4) and tokens (N, 3, 10); the layers follow one another, so errors travel."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(CHANNELS, 16, 3, padding=1)
        self.one = nn.Conv2d(16, 16, 1)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.qkv = nn.Linear(16, 48)
        self.context = nn.Linear(10, 16)
        self.out = nn.Linear(16, 16)
        self.mlp = nn.Linear(16, 24)
        self.last = nn.Linear(24, CHANNELS)
        self.unused = nn.Linear(16, 16)

    def forward(self, x: Tensor, scale: float, context: Tensor) -> Any:
        h = torch.tanh(self.one(torch.tanh(self.first(x))))
        h = torch.tanh(h + scale * self.grouped(h)).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(h).chunk(3, -1)
        h = h + self.out(torch.softmax(q @ k.transpose(1, 2) / 4, -1) @ v)
        h = h + self.context(context).mean(1, keepdim=True)
        return self.last(torch.tanh(self.mlp(h)))


SHAPES = {
    "first": (16, CHANNELS, 3, 3),
    "one": (16, 16, 1, 1),
    "grouped": (16, 4, 3, 3),
    "qkv": (48, 16),
    "context": (16, 10),
    "out": (16, 16),
    "mlp": (24, 16),
    "last": (CHANNELS, 24),
    "unused": (16, 16),
}


def save_lora(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]] = SHAPES,
    *,
    decades: float = 0.7,
    strongest: float = 0.9,
    prefix: str = "lora_unet_",
) -> Path:
    """Write a LoRA whose singular values fall by so many decades."""
    rng = np.random.default_rng(0)
    data: dict[str, np.ndarray] = {}
    for name, (n, *rest) in shapes.items():
        m = int(np.prod(rest))
        u = np.linalg.qr(rng.standard_normal((n, RANK)))[0] * np.logspace(0, -decades, RANK)
        v = np.linalg.qr(rng.standard_normal((m, RANK)))[0].T
        stem = f"{prefix}{name.replace('.', '_')}"
        data[f"{stem}.lora_up.weight"] = (strongest * u).astype(np.float32).reshape(n, RANK, *(1 for _ in rest[1:]))
        data[f"{stem}.lora_down.weight"] = v.astype(np.float32).reshape(RANK, *rest)
        data[f"{stem}.alpha"] = np.array(RANK, np.float32)
    specs = file_order(TensorSpec(name, "F32", values.shape) for name, values in data.items())
    write_safetensors(path, specs, {}, (np.ascontiguousarray(data[spec.name]) for spec in specs))
    return path


def calls_of(count: int, seed: int, samples: int = 2) -> list[Call]:
    """Calls with inputs that have few directions, as images have."""
    chance, shared = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(99)
    images, texts = torch.randn(5, CHANNELS, SIDE, SIDE, generator=shared), torch.randn(4, 3, 10, generator=shared)
    calls = []
    for _ in range(count):
        x = torch.randn(samples, 5, generator=chance) @ images.flatten(1)
        x = (x + 0.2 * torch.randn(x.shape, generator=chance)).reshape(samples, CHANNELS, SIDE, SIDE)
        context = (torch.randn(samples, 4, generator=chance) @ texts.flatten(1)).reshape(samples, 3, 10)
        calls.append(Call((x, 0.5), {"context": context}, samples))
    return calls


@dataclass
class Scene:
    """A net with a LoRA, analysed."""

    net: nn.Module
    analysis: Analysis
    runtime: Runtime
    folder: Path

    def model(self, strength: float = 0.0) -> FitModel:
        places = places_in(self.analysis.adapter, {"unet": self.net})["unet"]
        return FitModel("unet", self.net, places, strength)

    def job(self, recipe: str = "rank=2", dtype: str = "F32", convert: str = "auto") -> ResizeJob:
        path_for = lambda stem: self.folder / f"{stem}.safetensors"  # noqa: E731
        return prepare(self.analysis, parse_recipe(recipe), Style(dtype, convert=convert), path_for)

    def recordings(self, strength: float = 0.0) -> Recordings:
        recorded = Recorded(self.model(strength), calls_of(8, 1), calls_of(4, 2))
        return Recordings([recorded], 8, 1, "0" * 16)


@contextlib.contextmanager
def scene_of(net: nn.Module, path: Path) -> Iterator[Scene]:
    with cpu_runtime(Quiet(), 1) as runtime, SafeFile(path) as file:
        yield Scene(net, analyse(read_lora(file), None, [], runtime), runtime, path.parent)
