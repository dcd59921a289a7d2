"""What the recipes mean, computed the long way: dense matrices in float64, LAPACK's singular values, plain sorting.

The tool that coined the scores defines them as ``log10 s_i - sum_j w_j log10 reference_j`` over the singular values of
a layer's delta. Base weights are paired by names made forward from the checkpoint's keys, as kohya's trainer does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.readers.lora_material import Matrix, load

UNET = "model.diffusion_model."
CLIP_L = "conditioner.embedders.0.transformer."
OPEN_CLIP = "conditioner.embedders.1.model."

KeptIndices = dict[str, list[int]]
"""Layer -> its dimensions, numbered from the strongest."""


@dataclass(frozen=True)
class DenseLayer:
    """A LoRA layer in full."""

    name: str
    delta: Matrix
    """(n, m)"""
    rank: int
    is_conv: bool
    weight: Matrix | None = None
    """Of the base model, (n, m)."""

    @cached_property
    def svd(self) -> tuple[Matrix, NDArray[np.float64], Matrix]:
        u, s, vt = np.linalg.svd(self.delta, full_matrices=False)
        count = min(self.rank, len(s))
        return u[:, :count], np.where(s > 1e-9 * s[0], s, 0.0)[:count], vt[:count]

    @property
    def s(self) -> NDArray[np.float64]:
        return self.svd[1]

    @property
    def parameters(self) -> int:
        return sum(self.delta.shape)

    @cached_property
    def fro_ckpt(self) -> float:
        assert self.weight is not None
        return float(np.linalg.norm(self.weight))

    @cached_property
    def spn_ckpt(self) -> float:
        assert self.weight is not None
        return float(np.linalg.norm(self.weight, 2))

    @cached_property
    def subspace(self) -> NDArray[np.float64]:
        assert self.weight is not None
        u, _, vt = self.svd
        found: NDArray[np.float64] = np.abs(np.einsum("ni,nm,im->i", u, self.weight, vt, optimize=True))
        return found


@dataclass(frozen=True)
class Wish:
    """A recipe."""

    weights: Mapping[str, float]
    selection: str
    value: float
    max_rank: int | None = None
    max_conv_rank: int | None = None
    min_rank: int = 0
    rescale: float = 1.0

    @property
    def text(self) -> str:
        items = [f"{name}={weight!r}" for name, weight in self.weights.items()]
        limits = {"max_rank": self.max_rank, "max_conv_rank": self.max_conv_rank, "min_rank": self.min_rank}
        items += [f"{name}={value}" for name, value in limits.items() if value]
        return ",".join([*items, f"rescale={self.rescale!r}", f"{self.selection}={self.value!r}"])

    def cap(self, layer: DenseLayer) -> int:
        if layer.is_conv and self.max_conv_rank:
            return self.max_conv_rank
        return self.max_rank or 10**9


# ---------------------------------------------------------------- reading


def base_weights(path: Path) -> dict[str, Matrix]:
    """Name of a LoRA layer of kohya's -> the weight that it changes."""
    found: dict[str, Matrix] = {}
    for key, values in load(path).items():
        if values.ndim >= 2:
            found.update(_named(key, values.reshape(len(values), -1)))
    return found


def _named(key: str, matrix: Matrix) -> Iterator[tuple[str, Matrix]]:
    if key.startswith(UNET):
        yield _stem("lora_unet_", key.removeprefix(UNET)), matrix
    elif key.startswith(CLIP_L):
        yield _stem("lora_te1_", key.removeprefix(CLIP_L)), matrix
    elif key == OPEN_CLIP + "text_projection":
        yield "lora_te2_text_projection", matrix.T  # stored for x @ P
    elif key.startswith(OPEN_CLIP):
        yield from _open_clip(key.removeprefix(OPEN_CLIP), matrix)


def _stem(prefix: str, key: str) -> str:
    return prefix + key.removesuffix(".weight").replace(".", "_")


_OPEN_CLIP = {
    "attn.out_proj.weight": "self_attn_out_proj",
    "mlp.c_fc.weight": "mlp_fc1",
    "mlp.c_proj.weight": "mlp_fc2",
}


def _open_clip(key: str, matrix: Matrix) -> Iterator[tuple[str, Matrix]]:
    match = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", key)
    if match is None:
        return
    stem = f"lora_te2_text_model_encoder_layers_{match[1]}_"
    if match[2] == "attn.in_proj_weight":
        for part, rows in zip("qkv", np.split(matrix, 3), strict=True):
            yield f"{stem}self_attn_{part}_proj", rows
    elif match[2] in _OPEN_CLIP:
        yield stem + _OPEN_CLIP[match[2]], matrix


def lora_layers(path: Path, weights: Mapping[str, Matrix]) -> dict[str, DenseLayer]:
    """All layers of a file in kohya's names."""
    tensors = load(path)
    found = {}
    for key in tensors:
        name, dot, part = key.partition(".")
        if part == "lora_down.weight":
            up, down = tensors[f"{name}.lora_up.weight"], tensors[key]
            scale = float(tensors[f"{name}{dot}alpha"]) / len(down)
            delta = scale * up.reshape(len(up), -1) @ down.reshape(len(down), -1)
            found[name] = DenseLayer(name, delta, len(down), math.prod(down.shape[2:]) > 1, weights.get(name))
    return found


# ---------------------------------------------------------------- scores

REFERENCES: dict[str, Callable[[DenseLayer], float | NDArray[np.float64]]] = {
    "spn_ckpt": lambda layer: layer.spn_ckpt,
    "fro_ckpt": lambda layer: layer.fro_ckpt,
    "subspace": lambda layer: layer.subspace,
    "params": lambda layer: float(layer.parameters),
}
"""Those of the LoRA itself move with `rescale`."""


def score(layer: DenseLayer, wish: Wish) -> NDArray[np.float64]:
    """One number a dimension; minus infinity for those that are zero."""
    s = wish.rescale * layer.s
    weights = dict(wish.weights)
    if layer.weight is None:
        weights = {name: weight for name, weight in weights.items() if name not in ("spn_ckpt", "fro_ckpt", "subspace")}
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.log10(s)
        for name, weight in weights.items():
            own = {"spn_lora": s[0], "fro_lora": np.linalg.norm(s)}.get(name)
            reference = REFERENCES[name](layer) if own is None else own
            found = found - weight / sum(weights.values()) * np.log10(reference)
    return np.where(s > 0, found, -np.inf)


# ---------------------------------------------------------------- selections


@dataclass(frozen=True)
class Ranking:
    """All dimensions that a recipe may keep, and those that it must."""

    layers: Mapping[str, DenseLayer]
    wish: Wish

    @cached_property
    def scores(self) -> dict[str, NDArray[np.float64]]:
        return {name: score(layer, self.wish) for name, layer in self.layers.items()}

    def best(self, name: str) -> list[int]:
        """Dimensions of a layer that are not zero, best first."""
        scores = self.scores[name]
        return sorted((i for i in range(len(scores)) if scores[i] > -np.inf), key=lambda i: -scores[i])

    @cached_property
    def forced(self) -> KeptIndices:
        least = {name: min(self.wish.min_rank, self.wish.cap(layer)) for name, layer in self.layers.items()}
        return {name: self.best(name)[: least[name]] for name in self.layers}

    @cached_property
    def free(self) -> list[tuple[float, str, int]]:
        """(score, layer, dimension), best first."""
        found = []
        for name, layer in self.layers.items():
            for i in self.best(name)[len(self.forced[name]) : self.wish.cap(layer)]:
                found.append((float(self.scores[name][i]), name, i))
        return sorted(found, key=lambda one: -one[0])

    def with_first(self, count: int) -> KeptIndices:
        """The forced dimensions, the first of the free ones, and what hosts need with them."""
        kept = {name: list(dimensions) for name, dimensions in self.forced.items()}
        for _, name, i in self.free[:count]:
            kept[name].append(i)
        return self.completed(kept)

    def completed(self, kept: Mapping[str, Sequence[int]]) -> KeptIndices:
        """Attention of the second text encoder stays whole or goes: its best dimension comes back."""
        found = {name: sorted(dimensions) for name, dimensions in kept.items()}
        for group in attention_groups(self.layers):
            if any(found[name] for name in group):
                for name in group:
                    found[name] = found[name] or self.best(name)[:1]
        return found


def attention_groups(names: Mapping[str, DenseLayer]) -> list[list[str]]:
    stems = {match[1] for name in names if (match := re.fullmatch(r"(lora_te2_.+_self_attn)_q_proj", name))}
    return [[f"{stem}_{part}_proj" for part in ("q", "k", "v", "out")] for stem in sorted(stems)]


def by_threshold(ranking: Ranking) -> KeptIndices:
    return ranking.with_first(sum(score >= ranking.wish.value for score, _, _ in ranking.free))


def by_retention(ranking: Ranking) -> KeptIndices:
    """The fewest, by score, that keep the share of the Frobenius norm of all layers together."""
    layers = ranking.layers
    wanted = ranking.wish.value**2 * sum(float(layer.s @ layer.s) for layer in layers.values())
    held = sum(float(layers[name].s[i]) ** 2 for name, kept in ranking.forced.items() for i in kept)
    count = 0
    for _, name, i in ranking.free:
        if held >= wanted * (1 - 1e-12):
            break
        held += float(layers[name].s[i]) ** 2
        count += 1
    return ranking.with_first(count)


def layer_by_layer(ranking: Ranking) -> KeptIndices:
    """kohya's three, and one rank for all."""
    kept: KeptIndices = {}
    for name, layer in ranking.layers.items():
        alive = int(np.count_nonzero(layer.s))
        fewest = max(_wanted(layer, ranking.wish), min(ranking.wish.min_rank, alive))
        kept[name] = list(range(min(fewest, alive, ranking.wish.cap(layer)))) if alive else []
    return ranking.completed(kept)


def _wanted(layer: DenseLayer, wish: Wish) -> int:
    s = layer.s
    if wish.selection == "rank":
        return int(wish.max_conv_rank if layer.is_conv and wish.max_conv_rank else wish.value)
    if wish.selection == "sv_ratio":
        return max(1, sum(bool(x > s[0] / wish.value) for x in s))
    amounts = s**2 if wish.selection == "sv_fro" else s
    share = wish.value**2 if wish.selection == "sv_fro" else wish.value
    return next((k for k in range(1, len(s) + 1) if amounts[:k].sum() >= share * amounts.sum() * (1 - 1e-12)), len(s))
