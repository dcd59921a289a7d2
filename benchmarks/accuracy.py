"""How exact our numbers are: singular values, written deltas and base norms against float64, on sampled layers."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from lib_resize.linalg.arrays import NumpyArrays
from lib_resize.linalg.factor import Pair, Stored, decompose
from lib_resize.linalg.norms import frobenius_and_spectral_norm

Double = NDArray[np.float64]

SMALLEST = 1e-5
"""Singular values below this share of the largest are not judged: float16 factors do not carry them."""


@dataclass(frozen=True)
class Layer:
    """A layer as stored: float16 factors as matrices, and alpha / rank."""

    up: NDArray[np.float16]
    down: NDArray[np.float16]
    scale: float

    @property
    def rank(self) -> int:
        """Stored dimensions."""
        return int(self.down.shape[0])


def read_layers(path: Path, names: Sequence[str]) -> dict[str, Layer]:
    """Some layers of a kohya LoRA in float16."""
    layers = {}
    with safe_open(str(path), framework="numpy") as file:
        for name in names:
            up, down = (file.get_tensor(f"{name}.lora_{word}.weight") for word in ("up", "down"))
            scale = float(file.get_tensor(f"{name}.alpha")) / down.shape[0]
            layers[name] = Layer(up.reshape(up.shape[0], -1), down.reshape(down.shape[0], -1), scale)
    return layers


def layer_names(path: Path) -> set[str]:
    """Names of all layers of a kohya LoRA."""
    suffix = ".lora_up.weight"
    with safe_open(str(path), framework="numpy") as file:
        return {key.removesuffix(suffix) for key in file.keys() if key.endswith(suffix)}  # noqa: SIM118


def sampled(names: set[str], count: int, seed: int = 0) -> list[str]:
    """Some names, the same ones every time."""
    return random.Random(seed).sample(sorted(names), min(count, len(names)))


def exact_svd(layer: Layer) -> tuple[Double, Double, Double]:
    """U, s, V^T of the delta by QR, QR and SVD in float64."""
    q_up, r_up = np.linalg.qr(layer.up.astype(np.float64))
    q_down, r_down = np.linalg.qr(layer.down.astype(np.float64).T)
    u, s, vt = np.linalg.svd(layer.scale * r_up @ r_down.T)
    return np.asarray(q_up @ u), s, np.asarray(vt @ q_down.T)


def product_norm(left: Double, right: Double) -> float:
    """Frobenius norm of ``left @ right`` without forming it."""
    return float(np.linalg.norm(np.linalg.qr(left).R @ np.linalg.qr(right.T).R.T))


def distance(written: Layer, left: Double, right: Double) -> float:
    """Frobenius norm of the written delta less ``left @ right``."""
    both = np.hstack([written.scale * written.up.astype(np.float64), -left])
    return product_norm(both, np.vstack([written.down.astype(np.float64), right]))


def rounded(left: Double, right: Double, scale: float) -> Layer:
    """Exact balanced factors, divided by the scale as the written file has it, rounded once to float16."""
    root = math.sqrt(scale)
    return Layer((left / root).astype(np.float16), (right / root).astype(np.float16), scale)


def delta_excess(source: Path, written: Path, count: int) -> float:
    """Error of the written deltas over that of exact factors rounded to float16, over some layers together.

    Both are measured from the exact truncation to the written rank; 1 means that rounding is all there is.
    """
    names = sampled(layer_names(source) & layer_names(written), count)
    before, after = read_layers(source, names), read_layers(written, names)
    ours = best = 0.0
    for name in names:
        u, s, vt = exact_svd(before[name])
        kept, root = after[name].rank, np.sqrt(s[: after[name].rank])
        left, right = u[:, :kept] * root, root[:, None] * vt[:kept]
        ours += distance(after[name], left, right) ** 2
        best += distance(rounded(left, right, after[name].scale), left, right) ** 2
    return math.sqrt(ours / best)


def worst_sigma_error(source: Path, count: int) -> float:
    """Largest relative error of our singular values, over some layers."""
    worst = 0.0
    for layer in read_layers(source, sampled(layer_names(source), count)).values():
        if layer.up.any():
            (ours,) = decompose([pair_of(layer)], NumpyArrays())
            exact = exact_svd(layer)[1]
            judged = exact >= SMALLEST * exact[0]
            worst = max(worst, float(np.max(np.abs(ours.s[: len(exact)][judged] / exact[judged] - 1))))
    return worst


def pair_of(layer: Layer) -> Pair:
    """The layer as the input of our linear algebra."""
    return Pair(
        Stored(np.ascontiguousarray(layer.up).view(np.uint16), "F16"),
        Stored(np.ascontiguousarray(layer.down).view(np.uint16), "F16"),
        layer.scale,
    )


def exact_spectral_norm(weight: NDArray[np.float16]) -> float:
    """The largest singular value by an eigenproblem of the smaller Gram matrix in float64."""
    wide = weight.astype(np.float64)
    gram = wide @ wide.T if wide.shape[0] <= wide.shape[1] else wide.T @ wide
    return math.sqrt(float(np.linalg.eigvalsh(gram)[-1]))


def worst_norm_errors(base: Path, reference_norms: Path, per_shape: int = 2) -> tuple[float, float]:
    """Largest relative error of a spectral norm, ours and the reference's, over some layers of every shape."""
    from benchmarks.references import read_norms

    (known,) = read_norms(reference_norms).values()
    ours = theirs = 0.0
    for name, weight in sampled_weights(base, set(known["spectral"]), per_shape):
        exact = exact_spectral_norm(weight)
        stored = Stored(np.ascontiguousarray(weight).view(np.uint16), "F16")
        found = frobenius_and_spectral_norm(stored, NumpyArrays())[1]
        ours = max(ours, abs(found / exact - 1))
        theirs = max(theirs, abs(known["spectral"][name] / exact - 1))
    return ours, theirs


def sampled_weights(base: Path, names: set[str], per_shape: int) -> list[tuple[str, NDArray[np.float16]]]:
    """Some layers of every shape with their weights as float16 matrices; fused rows are left out."""
    from benchmarks.references import lora_names

    chosen: list[tuple[str, NDArray[np.float16]]] = []
    counts: dict[tuple[int, ...], int] = {}
    with safe_open(str(base), framework="numpy") as file:
        for key in sorted(file.keys()):
            found = [name for name, rows in lora_names(key) if rows.third is None and name in names]
            shape = tuple(file.get_slice(key).get_shape()) if found else ()
            if found and counts.get(shape, 0) < per_shape:
                counts[shape] = counts.get(shape, 0) + 1
                weight = file.get_tensor(key)
                chosen.append((found[0], weight.reshape(weight.shape[0], -1)))
    return chosen
