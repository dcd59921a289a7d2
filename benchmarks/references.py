"""The two reference paths that our speed is measured against, written from their published definitions.

``resize`` does what the tool described as "QR plus SVD per layer" does with a whole file: float32 torch, a thin QR of
both factors, an SVD of the small core, log10 scores against norms of the base layer (spectral ones by randomised
power iteration, 64 rounds), everything kept in memory, one serialisation for the hashes and a second one to disk.

``full_matrix_seconds`` times the older way on sampled layers: build the whole delta and take its full SVD, as the
common trainer's resize script does, or a randomised low-rank SVD of it. A whole SDXL file needs half an hour that way,
so the total is extrapolated by shape.

Run ``python benchmarks/references.py CKPT LORA... -o FOLDER -r RECIPE`` to time the first as a process, and
``python benchmarks/references.py --full-matrix full LORA`` for the second, which prints JSON.
Both leave torch's threads as the environment sets them (OMP_NUM_THREADS).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save, save_file
from torch import Tensor

MIB = 1 << 20
SCORES = ("fro_ckpt", "fro_lora", "params", "spn_ckpt", "spn_lora", "subspace")
NEGLIGIBLE = 1e-6
"""A layer whose largest singular value is below this counts as never trained."""

UNET = "model.diffusion_model."
CLIP_L = "conditioner.embedders.0.transformer.text_model.encoder.layers."
OPEN_CLIP = "conditioner.embedders.1.model.transformer.resblocks."
OPEN_CLIP_WORDS = {"attn.out_proj": "self_attn_out_proj", "mlp.c_fc": "mlp_fc1", "mlp.c_proj": "mlp_fc2"}


# Recipes


@dataclass(frozen=True)
class Recipe:
    """Weights of the scores (their sum is 1), and a log10 threshold or a size in MiB of tensor bytes."""

    text: str
    weights: Mapping[str, float]
    threshold: float | None
    size: float | None
    rescale: float


def parse_recipe(text: str) -> Recipe:
    """Read ``score=weight,...,thr=x`` or ``...,size=MiB``; raise ``ValueError`` for anything else."""
    values = {key: float(value or 1) for key, _, value in (part.partition("=") for part in text.split(","))}
    options = {key: values.pop(key, None) for key in ("thr", "size", "rescale")}
    total = sum(values.values())
    if not set(values) <= set(SCORES) or total == 0 or (options["thr"] is None) == (options["size"] is None):
        raise ValueError(f"recipe {text!r}: expected scores out of {', '.join(SCORES)} and one of thr=, size=")
    weights = {key: value / total for key, value in values.items()}
    rescale = 1.0 if options["rescale"] is None else options["rescale"]
    return Recipe(text, weights, options["thr"], options["size"], rescale)


def opened(path: Path) -> Any:
    """The library's own lazy reader, which has no types."""
    return safe_open(str(path), framework="pt")


# The base checkpoint


@dataclass(frozen=True)
class BaseRows:
    """The stored weight of a LoRA layer: a whole tensor, or one third of its rows."""

    key: str
    third: int | None = None


def lora_names(key: str) -> Iterator[tuple[str, BaseRows]]:
    """The kohya layer names that a checkpoint key serves: none, one, or q, k and v of a fused projection."""
    body = key.removesuffix(".weight")
    if body.startswith(UNET):
        yield "lora_unet_" + body[len(UNET) :].replace(".", "_"), BaseRows(key)
    elif body.startswith(CLIP_L):
        yield "lora_te1_text_model_encoder_layers_" + body[len(CLIP_L) :].replace(".", "_"), BaseRows(key)
    elif body.startswith(OPEN_CLIP):
        number, _, word = body[len(OPEN_CLIP) :].partition(".")
        prefix = f"lora_te2_text_model_encoder_layers_{number}_"
        if word == "attn.in_proj_weight":
            yield from ((f"{prefix}self_attn_{letter}_proj", BaseRows(key, i)) for i, letter in enumerate("qkv"))
        elif word in OPEN_CLIP_WORDS:
            yield prefix + OPEN_CLIP_WORDS[word], BaseRows(key)


class Base:
    """A checkpoint opened lazily, with the norms of its layers remembered in ``norms``."""

    def __init__(self, path: Path, norms: dict[str, dict[str, float]]) -> None:
        self.file = opened(path)
        self.norms = norms
        self.rows: dict[str, BaseRows] = {}
        for key in self.file.keys():  # noqa: SIM118 (it is no mapping)
            if len(self.file.get_slice(key).get_shape()) >= 2:
                self.rows.update(lora_names(key))

    def weight(self, layer: str) -> Tensor:
        """The layer's weight as a float32 matrix [out, in * kernel]."""
        rows = self.rows[layer]
        if rows.third is None:
            whole: Tensor = self.file.get_tensor(rows.key)
            return whole.to(torch.float32).flatten(1)
        part = self.file.get_slice(rows.key)
        count = part.get_shape()[0] // 3
        third: Tensor = part[rows.third * count : (rows.third + 1) * count]
        return third.to(torch.float32).flatten(1)

    def frobenius(self, layer: str) -> float:
        """Frobenius norm, computed once per checkpoint."""
        return self._remembered("frobenius", layer, lambda weight: torch.linalg.matrix_norm(weight).item())

    def spectral(self, layer: str) -> float:
        """Spectral norm as the published tool estimates it (up to 2 % low), computed once per checkpoint."""
        return self._remembered("spectral", layer, lambda w: torch.svd_lowrank(w, q=1, niter=64)[1][0].item())

    def _remembered(self, kind: str, layer: str, compute: Callable[[Tensor], float]) -> float:
        known = self.norms.setdefault(kind, {})
        if layer not in known:
            known[layer] = compute(self.weight(layer))
        return known[layer]


# Decomposing one layer


@dataclass(frozen=True)
class Layer:
    """delta = left @ diag(sigma) @ right; sigma holds the file's scale alpha / rank."""

    name: str
    scale: float
    left: Tensor
    sigma: Tensor
    right: Tensor
    input_shape: tuple[int, ...]

    @property
    def parameters(self) -> int:
        """Numbers that one dimension costs in the file."""
        return self.left.shape[0] + self.right.shape[1]


def decompose(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Exact SVD of ``up @ down`` ([n, r] and [r, m]) through the QR factors and their r x r core."""
    q_up, r_up = torch.linalg.qr(up)
    q_down, r_down = torch.linalg.qr(down.mT)
    left, sigma, right = torch.linalg.svd(r_up @ r_down.mT, full_matrices=False)
    left_whole: Tensor = q_up @ left
    right_whole: Tensor = right @ q_down.mT
    return left_whole, sigma, right_whole


def read_layer(file: Any, name: str) -> Layer:
    """Decompose one kohya layer in float32."""
    up: Tensor = file.get_tensor(f"{name}.lora_up.weight").to(torch.float32)
    down: Tensor = file.get_tensor(f"{name}.lora_down.weight").to(torch.float32)
    scale = file.get_tensor(f"{name}.alpha").item() / down.shape[0]
    left, sigma, right = decompose(up.flatten(1), down.flatten(1))
    return Layer(name, scale, left, sigma * scale, right, tuple(down.shape[1:]))


def read_layers(file: Any, base: Base) -> list[Layer]:
    """All layers of the file that have a partner in the base and are not zero."""
    names = (key.removesuffix(".alpha") for key in list(file.keys()) if key.endswith(".alpha"))
    layers = (read_layer(file, name) for name in names if name in base.rows)
    return [layer for layer in layers if layer.sigma[0].abs().item() >= NEGLIGIBLE]


# Scoring and choosing


def reference_magnitude(score: str, layer: Layer, base: Base) -> Tensor:
    """log10 of what a dimension's strength is compared to: a scalar, or one number per dimension."""
    if score == "subspace":
        acts: Tensor = torch.linalg.vecdot(layer.right @ base.weight(layer.name).mT, layer.left.mT)
        return torch.log10(torch.abs(acts))
    numbers: Mapping[str, Callable[[], float]] = {
        "spn_ckpt": lambda: base.spectral(layer.name),
        "fro_ckpt": lambda: base.frobenius(layer.name),
        "spn_lora": lambda: layer.sigma[0].item(),
        "fro_lora": lambda: torch.linalg.vector_norm(layer.sigma).item(),
        "params": lambda: float(layer.parameters),
    }
    return torch.tensor(math.log10(numbers[score]()))


def score(layer: Layer, recipe: Recipe, base: Base) -> Tensor:
    """log10 score of every dimension of a layer."""
    result = layer.sigma.log10() + math.log10(recipe.rescale)
    for name, weight in recipe.weights.items():
        if weight:
            result = result - weight * reference_magnitude(name, layer, base)
    return result


def threshold_for_size(layers: Sequence[Layer], scores: Sequence[Tensor], budget: float, item: int) -> float:
    """The lowest score kept when dimensions are taken best first while their tensor bytes fit ``budget``.

    The published tool also keeps the dimension that crosses the budget; this one stops before it.
    """
    ordered, order = torch.cat(list(scores)).sort(descending=True)
    costs = torch.cat([torch.full((len(s),), item * layer.parameters) for layer, s in zip(layers, scores, strict=True)])
    fitting = int((costs[order].cumsum(0) <= budget).sum())
    return math.inf if fitting == 0 else ordered[fitting - 1].item()


def choose(layers: Sequence[Layer], recipe: Recipe, base: Base, item: int) -> tuple[list[Tensor], float]:
    """A mask of the kept dimensions per layer, and the threshold that made it."""
    scores = [score(layer, recipe, base) for layer in layers]
    if recipe.threshold is not None:
        threshold = recipe.threshold
    else:
        threshold = threshold_for_size(layers, scores, (recipe.size or 0) * MIB, item)
    return [values >= threshold for values in scores], threshold


# Writing


def tensors_of(layer: Layer, mask: Tensor, rescale: float, dtype: torch.dtype) -> dict[str, Tensor]:
    """The three tensors of a truncated layer, singular values split evenly; nothing when no dimension is kept."""
    rank = int(mask.sum())
    if rank == 0:
        return {}
    roots = (layer.sigma[mask] * (rescale / layer.scale)).sqrt()
    ones = (1,) * (len(layer.input_shape) - 1)
    return {
        f"{layer.name}.alpha": torch.tensor(layer.scale * rank, dtype=dtype),
        f"{layer.name}.lora_down.weight": (layer.right[mask] * roots[:, None])
        .reshape(rank, *layer.input_shape)
        .to(dtype),
        f"{layer.name}.lora_up.weight": (layer.left[:, mask] * roots).reshape(-1, rank, *ones).to(dtype),
    }


def hashes(tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """The two hashes that WebUIs know a LoRA by, from a serialisation that carries the ``ss_`` metadata alone."""
    data = save(tensors, {key: value for key, value in metadata.items() if key.startswith("ss_")})
    start = 8 + int.from_bytes(data[:8], "little")
    return {
        "sshs_model_hash": hashlib.sha256(memoryview(data)[start:]).hexdigest(),
        "sshs_legacy_hash": hashlib.sha256(data[0x100000:0x110000]).hexdigest()[:8],
    }


def output_path(folder: Path, lora: Path, recipe: Recipe, threshold: float) -> Path:
    """A name made of the scores, their weights and the threshold."""
    words = [f"{name.replace('_', '')}{weight:g}" for name, weight in sorted(recipe.weights.items())]
    return folder / f"{lora.stem}_{'_'.join(words)}_th{threshold:.2f}.safetensors"


@dataclass
class Job:
    """What one run needs to know besides the files."""

    base: Base
    recipes: Sequence[Recipe]
    folder: Path
    dtype: torch.dtype = torch.float16
    written: list[Path] = field(default_factory=list)


def write_recipe(job: Job, recipe: Recipe, lora: Path, layers: Sequence[Layer], metadata: Mapping[str, str]) -> None:
    """Choose, truncate, hash and save for one recipe."""
    masks, threshold = choose(layers, recipe, job.base, job.dtype.itemsize)
    tensors: dict[str, Tensor] = {}
    for layer, mask in zip(layers, masks, strict=True):
        tensors.update(tensors_of(layer, mask, recipe.rescale, job.dtype))
    complete = {**metadata, "resize_params": json.dumps({"recipe": recipe.text, "threshold": threshold})}
    complete.update(hashes(tensors, complete))
    path = output_path(job.folder, lora, recipe, threshold)
    save_file(tensors, str(path), metadata=complete)
    job.written.append(path)


def resize(job: Job, lora: Path) -> None:
    """Resize one LoRA by every recipe of the job, decomposing each layer once."""
    file = opened(lora)
    layers = read_layers(file, job.base)
    for recipe in job.recipes:
        write_recipe(job, recipe, lora, layers, dict(file.metadata() or {}))


# The full matrix, on sampled layers


def full_matrix(up: Tensor, down: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Truncate to ``rank`` through the complete SVD of the delta, the left basis square (n x n)."""
    left, sigma, right = torch.linalg.svd(up @ down, full_matrices=True)
    return left[:, :rank] * sigma[:rank], right[:rank]


def randomised(up: Tensor, down: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Truncate to ``rank`` through a randomised SVD of the delta with seven power iterations."""
    left, sigma, right = torch.svd_lowrank(up @ down, q=rank, niter=7)
    return left * sigma, right.mT


FULL_METHODS: Mapping[str, Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]] = {
    "full": full_matrix,
    "randomised": randomised,
}


@dataclass(frozen=True)
class Extrapolation:
    """Seconds for all ``layers`` of a file, from ``sampled`` ones timed shape by shape."""

    wall: float
    cpu: float
    layers: int
    sampled: int


def layers_by_shape(file: Any) -> dict[tuple[int, int], list[str]]:
    """Layer names under the shape of their delta as a matrix [out, in * kernel]."""
    groups: dict[tuple[int, int], list[str]] = {}
    for key in sorted(file.keys()):
        if key.endswith(".lora_up.weight"):
            name = key.removesuffix(".lora_up.weight")
            rows = file.get_slice(key).get_shape()[0]
            columns = math.prod(file.get_slice(f"{name}.lora_down.weight").get_shape()[1:])
            groups.setdefault((rows, columns), []).append(name)
    return groups


def timed_truncation(file: Any, name: str, method: str, divisor: int) -> tuple[float, float]:
    """Wall and CPU seconds of one layer, truncated to its rank over ``divisor``."""
    up = file.get_tensor(f"{name}.lora_up.weight").to(torch.float32).flatten(1)
    down = file.get_tensor(f"{name}.lora_down.weight").to(torch.float32).flatten(1)
    wall, cpu = time.perf_counter(), time.process_time()
    FULL_METHODS[method](up, down, max(1, down.shape[0] // divisor))
    return time.perf_counter() - wall, time.process_time() - cpu


def full_matrix_seconds(lora: Path, method: str = "full", per_shape: int = 1, seed: int = 0) -> Extrapolation:
    """Time ``per_shape`` random layers of every shape and extrapolate to the file; rank is cut to a quarter."""
    file = opened(lora)
    chance = random.Random(seed)
    wall = cpu = 0.0
    layers = sampled = 0
    for names in layers_by_shape(file).values():
        picked = chance.sample(names, min(per_shape, len(names)))
        times = [timed_truncation(file, name, method, divisor=4) for name in picked]
        wall += sum(time[0] for time in times) / len(times) * len(names)
        cpu += sum(time[1] for time in times) / len(times) * len(names)
        layers, sampled = layers + len(names), sampled + len(picked)
    return Extrapolation(wall, cpu, layers, sampled)


# The command


def read_norms(path: Path) -> dict[str, dict[str, dict[str, float]]]:
    """The norms of every checkpoint seen, from one JSON file; empty when there is none."""
    if not path.exists():
        return {}
    norms: dict[str, dict[str, dict[str, float]]] = json.loads(path.read_text("utf-8"))
    return norms


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line; with ``--full-matrix`` only LoRAs are given."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("files", nargs="+", type=Path, metavar="CKPT LORA...")
    parser.add_argument("-o", "--output", type=Path, default=Path())
    parser.add_argument("-r", "--recipes", default="fro_ckpt=1,thr=-3.5")
    parser.add_argument("--norms", type=Path, default=Path("reference_norms.json"), help="cache of base norms")
    parser.add_argument("--full-matrix", choices=sorted(FULL_METHODS), help="time sampled layers, print JSON")
    parser.add_argument("--per-shape", type=int, default=1)
    return parser.parse_args(argv)


def resize_all(checkpoint: Path, loras: Iterable[Path], options: argparse.Namespace) -> list[Path]:
    """Resize every LoRA; returns the written files."""
    norms = read_norms(options.norms)
    base = Base(checkpoint, norms.setdefault(str(checkpoint.resolve()), {}))
    job = Job(base, [parse_recipe(text) for text in options.recipes.split(":")], options.output)
    options.output.mkdir(parents=True, exist_ok=True)
    for lora in loras:
        resize(job, lora)
    options.norms.write_text(json.dumps(norms), "utf-8")
    return job.written


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = arguments(sys.argv[1:] if argv is None else argv)
    if options.full_matrix:
        result = full_matrix_seconds(options.files[0], options.full_matrix, options.per_shape)
        sys.stdout.write(json.dumps(result.__dict__) + "\n")
    else:
        resize_all(options.files[0], options.files[1:], options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
