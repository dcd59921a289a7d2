"""Our decomposition against float64 QR, QR and SVD per layer, in one process, in CPU seconds.

This is the small check that runs with the tests: a LoRA of rank 16 with the 60 attention layers of SDXL's middle
width. ``python -m benchmarks.decomposition`` prints the ratio as JSON; it wants one BLAS thread (`harness.ONE_THREAD`
in the environment), because threads inside such small matrices would be what is measured.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from lib_resize.demo.models import Model
from lib_resize.demo.synthetic import LoraOptions, lora_layers, write_lora
from lib_resize.linalg.arrays import NumpyArrays
from lib_resize.linalg.factor import Pair, Stored, decompose
from lib_resize.linalg.truncate import truncated
from lib_resize.names.architecture import UNetConfig

RANK = 16
KEPT = 4
TOGETHER = 15
"""Layers given to one call of `decompose`, as a resize does with small ranks."""

MIDDLE = Model(UNetConfig(depths=(0, 1, 0), middle_depth=0), 1, 64, 1, 64)
"""SDXL's UNet with one transformer block at its middle width and none elsewhere: 60 layers of width 640."""


@dataclass(frozen=True)
class Outcome:
    """CPU seconds for the whole LoRA, medians; and our largest error relative to each largest sigma."""

    ours: float
    reference: float
    ratio: float
    layers: int
    error: float


def material(folder: Path) -> list[Pair]:
    """The layers of the small LoRA, as they are stored."""
    options = LoraOptions(MIDDLE, rank=RANK, text_encoders=False)
    tensors = load_file(write_lora(folder / "lora.safetensors", options))
    return [
        Pair(
            Stored(tensors[f"{layer.name}.lora_up.weight"].view(np.uint16), "F16"),
            Stored(tensors[f"{layer.name}.lora_down.weight"].view(np.uint16), "F16"),
        )
        for layer in lora_layers(options)
    ]


def by_gram(pairs: Sequence[Pair]) -> list[NDArray[Any]]:
    """Ours: singular values of every layer, its kept columns formed too."""
    arrays = NumpyArrays()
    values = []
    for start in range(0, len(pairs), TOGETHER):
        some = pairs[start : start + TOGETHER]
        for pair, spectrum in zip(some, decompose(some, arrays), strict=True):
            truncated(pair, spectrum, np.arange(KEPT), arrays)
            values.append(spectrum.s)
    return values


def by_qr(pairs: Sequence[Pair]) -> list[NDArray[Any]]:
    """The reference: the same by thin QR of both factors and an SVD of the core, in float64."""
    values = []
    for pair in pairs:
        q_up, r_up = np.linalg.qr(pair.up.bits.view(np.float16).astype(np.float64))
        q_down, r_down = np.linalg.qr(pair.down.bits.view(np.float16).astype(np.float64).T)
        u, s, vt = np.linalg.svd(r_up @ r_down.T)
        root = np.sqrt(s[:KEPT])
        _ = q_up @ (u[:, :KEPT] * root), (root[:, None] * vt[:KEPT]) @ q_down.T
        values.append(s)
    return values


def cpu_seconds(action: Callable[[], object]) -> float:
    """CPU seconds of this process, all threads."""
    start = time.process_time()
    action()
    return time.process_time() - start


def compare(pairs: Sequence[Pair], repeats: int = 15) -> Outcome:
    """Interleaved medians after one round that is not counted, which also compares the singular values."""
    errors = [np.abs(a - b).max() / b[0] for a, b in zip(by_gram(pairs), by_qr(pairs), strict=True)]
    times = [(cpu_seconds(lambda: by_gram(pairs)), cpu_seconds(lambda: by_qr(pairs))) for _ in range(repeats)]
    ours, reference = (statistics.median(column) for column in zip(*times, strict=True))
    return Outcome(ours, reference, reference / ours, len(pairs), float(max(errors)))


def main() -> int:
    """Print the outcome as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        sys.stdout.write(json.dumps(asdict(compare(material(Path(folder))))) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
