"""The four ways to a lower rank, on one LoRA: what each costs in time, and what it keeps.

``python -m benchmarks.methods LORA --rank 8`` (without LORA: one of full SDXL shape is made in a temporary folder).

Times are CPU seconds of the factors alone, one thread, medians of rounds in which the methods take turns: decomposing
or drawing, and the two products that make the new factors. Reading, rounding and writing are the same for all.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib_resize.adapters.forms.lora import LowRank
from lib_resize.adapters.layer import Layer
from lib_resize.adapters.read.adapter import read_adapter
from lib_resize.adapters.write.style import Style
from lib_resize.demo.models import FULL
from lib_resize.demo.synthetic import LoraOptions, write_lora
from lib_resize.engine.analysing import _batches, analyse
from lib_resize.engine.analysis import Analysis
from lib_resize.engine.planning import prepare
from lib_resize.engine.reduction import drawn
from lib_resize.engine.runtime import cpu_runtime
from lib_resize.files.reader import SafeFile
from lib_resize.linalg.arrays import NumpyArrays
from lib_resize.linalg.factor import Pair, Spectrum, decompose
from lib_resize.linalg.truncate import truncated
from lib_resize.progress import Quiet
from lib_resize.recipe.grammar import METHODS, Recipe, parse_recipe


@dataclass(frozen=True)
class Row:
    """One method: CPU seconds for all layers, weight retention (0 to 1) and error of the delta over its norm."""

    recipe: str
    seconds: float
    retention: float
    error: float


def measure(path: Path, recipes: Sequence[str], rounds: int) -> list[Row]:
    """All recipes of ``rank=`` on one file, in turns."""
    with SafeFile(path) as file, cpu_runtime(Quiet(), 1) as runtime:
        analysis = analyse(read_adapter(file), None, (), runtime)
        parsed = [parse_recipe(text) for text in recipes]
        times: dict[str, list[float]] = {str(recipe): [] for recipe in parsed}
        for _ in range(rounds):
            for recipe in parsed:
                times[str(recipe)].append(_timed(analysis, recipe))
        return [_row(analysis, recipe, statistics.median(times[str(recipe)])) for recipe in parsed]


def _timed(analysis: Analysis, recipe: Recipe) -> float:
    start = time.process_time()
    make = _exact if recipe.method == "svd" else _drawn
    make(analysis, recipe)
    return time.process_time() - start


def _exact(analysis: Analysis, recipe: Recipe) -> None:
    layers, arrays = analysis.adapter.layers, NumpyArrays()
    for batch in _batches(layers):
        for index, spectrum in zip(batch, decompose([_pair(layers[i]) for i in batch], arrays), strict=True):
            _factors(analysis, index, spectrum, recipe)


def _drawn(analysis: Analysis, recipe: Recipe) -> None:
    for index, layer in enumerate(analysis.adapter.layers):
        rank = min(int(recipe.value), layer.rank)
        made = drawn(_pair(layer), rank, recipe, layer.stem)
        _factors(analysis, index, made, recipe)


def _pair(layer: Layer) -> Pair:
    if not isinstance(layer.form, LowRank):
        raise TypeError(f"{layer.stem} is {layer.form.kind}; the methods are for LoRA")
    return layer.form.pair


def _factors(analysis: Analysis, index: int, spectrum: Spectrum, recipe: Recipe) -> None:
    pair = _pair(analysis.adapter.layers[index])
    truncated(pair, spectrum, np.arange(min(int(recipe.value), pair.rank)), NumpyArrays())


def _row(analysis: Analysis, recipe: Recipe, seconds: float) -> Row:
    plan = prepare(analysis, recipe, Style(), lambda stem: Path(f"{stem}.safetensors")).plan
    norms = [float(np.linalg.norm(facts.s)) for facts in analysis.layers]
    lost = np.hypot.reduce([layer.error_lora * norm for layer, norm in zip(plan.layers, norms, strict=True)])
    return Row(str(recipe), seconds, plan.retention, float(lost / np.hypot.reduce(norms)))


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| recipe | CPU seconds | weight retention | error of the delta |", "|---|---|---|---|"]
    lines += [f"| `{r.recipe}` | {r.seconds:.2f} | {r.retention:.2%} | {r.error:.1%} |" for r in rows]
    return "\n".join(lines)


def recipes_for(rank: int) -> list[str]:
    """Every method once, the randomised one with and without its iterations."""
    others = [f"rank={rank},{method}" for method in METHODS if method not in ("svd", "rsvd")]
    return [f"rank={rank}", f"rank={rank},rsvd", f"rank={rank},rsvd,niter=0,oversample=0", *others]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The four ways to a lower rank, on one LoRA.")
    parser.add_argument("lora", nargs="?", type=Path, help="a LoRA file (default: full SDXL shape, rank 32)")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        path = chosen.lora or write_lora(Path(folder) / "r32.safetensors", LoraOptions(model=FULL, rank=32))
        sys.stdout.write(table(measure(path, recipes_for(chosen.rank), chosen.rounds)) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
