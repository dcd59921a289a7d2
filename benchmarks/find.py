"""The search for the smallest file, on a small diffusion model: what it finds, and with how many images.

    python -m benchmarks.find --toy DIR --lora FILE [--target 0.98] [--json]

``DIR`` is that of ``benchmarks.fit``. An image has a class and noise of its own. Printed are the share of the LoRA's
effect that files of several sizes keep on 24 images, the size that keeps the target on all of them (from that curve),
and what the search of the WebUI finds with each four of them: its size over the former, and its images.

How far a few images can be off is printed too: the size that random images need, between the points of the curve, over
the size that all need, as 10th percentile, median and 90th percentile; once by the mean alone, and once by mean and
worst image as the search decides. A single image may be most of what a file loses, so the same follows without it.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.fit import STEPS, Toy, write
from lib_resize.adapters.write.style import FLOAT8, Style
from lib_resize.effect.figures import Distances, EffectFigure, effect_figure, squared_difference
from lib_resize.effect.search import WORST_MARGIN, SizeRange, SizeSearch, Tried
from lib_resize.engine.analysing import analyse
from lib_resize.engine.analysis import Analysis
from lib_resize.engine.job import ResizeJob
from lib_resize.engine.planning import prepare
from lib_resize.engine.reading import read_lora
from lib_resize.engine.runtime import Runtime, cpu_runtime
from lib_resize.files.reader import SafeFile
from lib_resize.fitting.layers import original_deltas
from lib_resize.fitting.paired import Deltas
from lib_resize.fitting.places import applied
from lib_resize.progress import Quiet
from lib_resize.recipe.grammar import parse_recipe
from lib_resize.shown import MIB

IMAGES = 24
GROUP = 4
POINTS = 7
"""Sizes of the curve."""
SCORES = "fro_lora=1,min_rank=1"
CLASSES = 9
DRAWS = 500
"""Random choices of a few images."""
FEW = (1, 2, 4, 8)
_LEAST_LOST = 1e-12


@dataclass(frozen=True)
class Point:
    """A file, and what it keeps on all images."""

    bytes: int
    kept: float
    worst: float
    lost: tuple[float, ...] = ()
    """The squared difference of each image from that of the original."""


@dataclass(frozen=True)
class Spread:
    """The size that some random images need, over the one that all need: 10th percentile, median, 90th percentile."""

    images: int
    of: int
    """How many images they were drawn from."""
    mean: tuple[float, float, float]
    """Where the mean decides."""
    both: tuple[float, float, float]
    """Where mean and worst image decide, as in the search."""


@dataclass(frozen=True)
class FoundSize:
    """What the search found with four images."""

    bytes: int
    kept: float
    images: int
    """That were made for it, those of the original included."""


@dataclass(frozen=True)
class FindReport:
    """The result for one LoRA and one target."""

    lora: str
    target: float
    bytes: int
    """Of the original."""
    curve: tuple[Point, ...]
    needed: float
    """Bytes that keep the target on all images, between the points of the curve."""
    found: tuple[FoundSize, ...]
    """For each group of images."""
    heaviest: float = 0.0
    """The share of one image in what the file next to `needed` loses on all of them."""
    spread: tuple[Spread, ...] = ()
    """Of all images, then without the one that loses most."""

    @property
    def is_falling(self) -> bool:
        """Whether each smaller file keeps less."""
        return all(small.kept < large.kept for small, large in zip(self.curve, self.curve[1:], strict=False))

    @property
    def ratios(self) -> list[float]:
        """The size that was found over the size that is needed, for each group."""
        return [one.bytes / self.needed for one in self.found]

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {**asdict(self), "is_falling": self.is_falling, "ratios": self.ratios}


class Painter:
    """Images of the small model with files of one LoRA; each is made once."""

    def __init__(self, toy: Toy, analysis: Analysis, folder: Path, runtime: Runtime) -> None:
        self._toy = toy
        self._analysis = analysis
        self._folder = folder
        self._runtime = runtime
        self._images: dict[tuple[str, int], Any] = {}
        self._deltas: dict[str, Deltas] = {"without": []}
        whole = self.planned("retain=1", Style("F32"))
        self._deltas["original"] = original_deltas(whole, toy.model(analysis.adapter))

    @property
    def made(self) -> int:
        """The number of images made so far."""
        return len(self._images)

    def forget(self) -> None:
        """Forget all images, so that the next search counts its own."""
        self._images.clear()

    def planned(self, selection: str, style: Style) -> ResizeJob:
        """Return the plan of a file."""
        recipe = parse_recipe(f"{SCORES},{selection}")
        return prepare(self._analysis, recipe, style, lambda stem: self._folder / f"{stem}.safetensors")

    def figure(self, selection: str, seeds: Sequence[int]) -> tuple[int, EffectFigure]:
        """Return the bytes of a float8 file, and what it keeps."""
        job = self.planned(selection, Style(FLOAT8))
        key = str(job.choice.ranks)
        if key not in self._deltas:
            self._deltas[key] = self._read(write(job, self._runtime))
        for name in ("original", "without", key):
            self._paint(name, [seed for seed in seeds if (name, seed) not in self._images])
        distances = [Distances(seed, self._distance(key, seed), self._distance("without", seed)) for seed in seeds]
        return job.plan.bytes_after, effect_figure(distances, 0.0, "latents")

    def distances(self, selection: str | None, seeds: Sequence[int]) -> tuple[float, ...]:
        """Return the squared differences from the original of images with a file, or without a LoRA."""
        key = "without" if selection is None else str(self.planned(selection, Style(FLOAT8)).choice.ranks)
        return tuple(self._distance(key, seed) for seed in seeds)

    def _distance(self, key: str, seed: int) -> float:
        return squared_difference(self._images[key, seed], self._images["original", seed])

    def _paint(self, key: str, seeds: Sequence[int]) -> None:
        if not seeds:
            return
        noise = [torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        classes = torch.tensor([seed % CLASSES for seed in seeds])
        with torch.no_grad(), applied(self._deltas[key]):
            images = self._toy.code.sample(self._toy.net, classes, torch.cat(noise), STEPS)
        self._images.update({(key, seed): image.numpy() for seed, image in zip(seeds, images, strict=True)})

    def _read(self, path: Path) -> Deltas:
        with SafeFile(path) as file:
            adapter = read_lora(file)
            analysis = analyse(adapter, None, [], self._runtime)
            job = prepare(analysis, parse_recipe(f"{SCORES},retain=1"), Style("F32"), Path)
            return original_deltas(job, self._toy.model(adapter))


def sizes_of(painter: Painter) -> SizeRange:
    """Return the range of sizes that the WebUI would search."""
    bytes = [painter.planned(f"retain={retention}", Style(FLOAT8)).plan.bytes_after for retention in (1e-6, 0.95, 1)]
    return SizeRange(*bytes)


def selection_of(size: int, sizes: SizeRange) -> str:
    """Return the selection of a size, as the WebUI has it."""
    if size >= sizes.largest:
        return "retain=1"
    return "retain=0.000001" if size <= sizes.smallest else f"size={size / MIB:.6f}"


def search(painter: Painter, target: float, seeds: Sequence[int], sizes: SizeRange) -> FoundSize:
    """Search as the WebUI does, and return what was found."""
    painter.forget()
    found = SizeSearch(sizes, target, len(seeds))
    while (step := found.next()) is not None:
        size, figure = painter.figure(selection_of(step.bytes, sizes), seeds[: step.seeds])
        assert figure.kept is not None
        assert figure.worst is not None
        found.learn(step, Tried(size, figure.kept, figure.worst, step.seeds))
    assert found.best is not None
    return FoundSize(found.best.bytes, found.best.kept, painter.made + 1)  # one more for the host's noise


def curve_of(painter: Painter, sizes: SizeRange, seeds: Sequence[int]) -> list[Point]:
    """Return what files keep, evenly spaced in the logarithm of their size."""
    points = []
    for size in np.geomspace(sizes.smallest, sizes.largest, POINTS):
        selection = selection_of(int(size), sizes)
        bytes, figure = painter.figure(selection, seeds)
        assert figure.kept is not None
        assert figure.worst is not None
        points.append(Point(bytes, figure.kept, figure.worst, painter.distances(selection, seeds)))
    return points


def needed_bytes(curve: Sequence[Point], target: float) -> float:
    """Return the size that keeps the target: between two points, the logarithm of what is lost falls evenly."""
    return _needed([point.bytes for point in curve], [1 - point.kept for point in curve], target)


def _needed(bytes: Sequence[int], lost: Sequence[float], target: float) -> float:
    falling = np.maximum(np.maximum.accumulate(lost[::-1])[::-1], _LEAST_LOST)
    return math.exp(np.interp(-math.log(1 - target), -np.log(falling), np.log(bytes)))


def heaviest_of(curve: Sequence[Point], needed: float) -> tuple[int, float]:
    """Return which image loses most next to a size, and its share of what all lose."""
    lost = np.array(min(curve, key=lambda point: abs(math.log(point.bytes / needed))).lost)
    return int(lost.argmax()), float(lost.max() / lost.sum())


def spread_of(curve: Sequence[Point], effects: Sequence[float], target: float, pool: Sequence[int]) -> list[Spread]:
    """Return the spread of few images that are drawn from `pool`; `effects` are the distances without the LoRA."""
    bytes, lost, effect = [point.bytes for point in curve], np.array([point.lost for point in curve]), np.array(effects)

    def of(chosen: Sequence[int]) -> tuple[float, float]:
        some, whole = lost[:, chosen], effect[chosen].mean()
        by_mean = _needed(bytes, list(some.mean(1) / whole), target)
        return by_mean, max(by_mean, _needed(bytes, list(some.max(1) / whole), target - WORST_MARGIN))

    whole, random, found = of(pool)[0], np.random.default_rng(0), []
    for images in FEW:
        ratios = np.array([of(random.choice(pool, images, replace=False).tolist()) for _ in range(DRAWS)]) / whole
        mean, both = (tuple(map(float, np.quantile(one, (0.1, 0.5, 0.9)))) for one in ratios.T)
        found.append(Spread(images, len(pool), mean, both))  # type: ignore[arg-type]
    return found


def measure(folder: Path, lora: Path, target: float) -> FindReport:
    """Search with each four images, and compare with what all of them need."""
    with cpu_runtime(Quiet(), 1) as runtime, SafeFile(lora) as file, tempfile.TemporaryDirectory() as place:
        analysis = analyse(read_lora(file), None, [], runtime)
        painter = Painter(Toy(folder), analysis, Path(place), runtime)
        sizes, seeds = sizes_of(painter), range(100, 100 + IMAGES)
        curve, effects = curve_of(painter, sizes, seeds), painter.distances(None, seeds)
        groups = [seeds[start : start + GROUP] for start in range(0, IMAGES, GROUP)]
        found = tuple(search(painter, target, group, sizes) for group in groups)
        needed = needed_bytes(curve, target)
        heavy, share = heaviest_of(curve, needed)
        pools = [list(range(IMAGES)), [one for one in range(IMAGES) if one != heavy]]
        spread = tuple(one for pool in pools for one in spread_of(curve, effects, target, pool))
        return FindReport(lora.stem, target, analysis.adapter.bytes, tuple(curve), needed, found, share, spread)


def as_text(report: FindReport) -> str:
    """Return a report in lines."""
    lines = [f"{report.lora}, {report.bytes} bytes: files of float8 on {IMAGES} images"]
    lines += [f"  {'bytes':>10}{'kept':>9}{'worst':>9}"]
    lines += [f"  {one.bytes:10}{one.kept:9.4f}{one.worst:9.4f}" for one in report.curve]
    lines += [f"  {report.target:.1%} is kept from {report.needed:.0f} bytes on"]
    lines += [f"  found with {GROUP} of the images: bytes, kept on them, images made, size found / needed"]
    for one, ratio in zip(report.found, report.ratios, strict=True):
        lines += [f"  {one.bytes:10}{one.kept:9.4f}{one.images:9}{ratio:9.3f}"]
    lines += [f"  median found / needed {statistics.median(report.ratios):.3f}"]
    lines += [f"  one image is {report.heaviest:.0%} of what the file next to the size needed loses"]
    lines += ["  needed by random images / needed by all, p10 p50 p90: by the mean; by mean and worst image"]
    for spread in report.spread:
        mean, both = ("".join(f"{value:7.2f}" for value in one) for one in (spread.mean, spread.both))
        lines += [f"  {spread.images:4} of {spread.of}{mean}   {both}"]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure one LoRA at one target, and print the report."""
    parsed = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    report = measure(parsed.toy, parsed.lora, parsed.target)
    text = json.dumps(report.as_json(), indent=2) if parsed.json else as_text(report)
    sys.stdout.write(f"{text}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.find", description=__doc__.split("\n\n", maxsplit=1)[0])
    made.add_argument("--toy", type=Path, required=True, metavar="DIR", help="the folder of the small model")
    made.add_argument("--lora", type=Path, required=True, metavar="FILE", help="a LoRA that was trained on the model")
    made.add_argument("--target", type=float, default=0.98, help="share of the effect to keep (default: 0.98)")
    made.add_argument("--json", action="store_true", help="print JSON")
    return made


if __name__ == "__main__":
    sys.exit(main())
