"""Fitted factors against plain truncation, on a small diffusion model, or on your own.

    python -m benchmarks.fit --toy DIR --lora FILE --share 0.05
    python -m benchmarks.fit --base MODEL --prompt TEXT --lora FILE --share 0.05 -d cuda

``DIR`` holds ``model.py``, with ``UNet``, ``sample(net, classes, noise, steps, trajectory)`` and ``lora_targets(net)``,
and ``base.safetensors``. ``MODEL`` is what ``resize-lora fit`` reads; of it only eps is measured, on one unseen image.
The share is that of the bytes of the original's factors in float16. Three figures are printed:

* the error of ``fro_lora`` with plain truncation in float8;
* the error of the fitted file of the same ranks and bytes;
* the bytes that plain truncation needs for the error of the fitted file, from a curve of its errors.

An error is the mean squared difference from the original LoRA, over that of no LoRA: of the images of whole sampling
runs (px), and of the model's output on the trajectory of the original (eps). The fit uses other noise than the judge.
On the small model it uses, as a person does with a prompt, the classes that are judged: one image of each.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from lib_resize.adapters.layer import Adapter
from lib_resize.adapters.write.style import FLOAT8, Style
from lib_resize.engine.analysing import analyse
from lib_resize.engine.analysis import Analysis
from lib_resize.engine.job import ResizeJob
from lib_resize.engine.measuring import measured
from lib_resize.engine.planning import prepare
from lib_resize.engine.reading import read_lora
from lib_resize.engine.runtime import Runtime, cpu_runtime
from lib_resize.engine.writing import execute
from lib_resize.files.metadata import FitRecord
from lib_resize.files.reader import SafeFile
from lib_resize.fitting.calls import Call, recording
from lib_resize.fitting.fit import Recorded, Recordings, fit_job, held_out_errors
from lib_resize.fitting.layers import original_deltas
from lib_resize.fitting.paired import FitOptions
from lib_resize.fitting.pipeline import ImageOptions, open_pipeline
from lib_resize.fitting.pipeline import record as record_pipeline
from lib_resize.fitting.places import FitModel, Place, applied
from lib_resize.progress import Quiet
from lib_resize.recipe.grammar import parse_recipe

STEPS = 12
"""Of a sampling run."""
JUDGED = 8
"""Images for each noise seed of the judge."""
POINTS = 1.2
"""Factor between the bytes of two points on the curve of plain truncation."""
MOST_POINTS = 8


@dataclass(frozen=True)
class Errors:
    """The errors of one file: of images, and of the model's output."""

    px: float
    eps: float


Point = tuple[int, Errors]
"""Bytes of the factors of a file, and its errors."""


@dataclass(frozen=True)
class Report:
    """The result for one LoRA and one share."""

    lora: str
    share: float
    bytes: int
    """Bytes of the factors of both files."""
    plain: Errors
    fitted: Errors
    kept_fit: bool
    """Whether the comparison on held-out calls kept the fit."""
    bytes_for_px: int
    """Bytes that plain truncation needs for the fitted error."""
    bytes_for_eps: int

    @property
    def ratio_px(self) -> float:
        """The fitted file's bytes over those that plain truncation needs."""
        return self.bytes / self.bytes_for_px

    @property
    def ratio_eps(self) -> float:
        """The same for the model's output."""
        return self.bytes / self.bytes_for_eps

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {**asdict(self), "ratio_px": self.ratio_px, "ratio_eps": self.ratio_eps}


class Toy:
    """The small model, with the layers of a LoRA in it."""

    def __init__(self, folder: Path) -> None:
        self.code = _module(folder / "model.py")
        self.net = self.code.UNet()
        self.net.load_state_dict(load_file(str(folder / "base.safetensors")))
        self.net.eval().requires_grad_(False)
        targets = self.code.lora_targets(self.net).items()
        self._modules = {f"lora_unet_{name.replace('.', '_')}": module for name, module in targets}

    def model(self, adapter: Adapter) -> FitModel:
        """Return the model with the places of a LoRA's layers."""
        places = {i: Place(self._modules[layer.stem]) for i, layer in enumerate(adapter.layers)}
        return FitModel("unet", self.net, places)

    def images(self, classes: torch.Tensor, seed: int, trajectory: list[Any] | None = None) -> torch.Tensor:
        """Return the images of a sampling run from noise of a seed."""
        noise = torch.randn(len(classes), 4, 8, 8, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            return self.code.sample(self.net, classes, noise, STEPS, trajectory)  # type: ignore[no-any-return]

    def outputs(self, trajectory: Sequence[Any], classes: torch.Tensor) -> torch.Tensor:
        """Return the model's outputs at the points of a trajectory."""
        with torch.no_grad():
            return torch.stack([self.net(x, t.repeat(len(classes)), classes) for x, t in trajectory])


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("toy_model", path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


class Judge:
    """The original's images and outputs, to which files are compared."""

    def __init__(self, toy: Toy, job: ResizeJob, seeds: int) -> None:
        self._toy = toy
        self._classes = torch.arange(JUDGED) % 9
        self._seeds = range(100, 100 + seeds)
        original = original_deltas(job, toy.model(job.analysis.adapter))
        self._trajectories = []
        images = []
        for seed in self._seeds:
            trajectory: list[Any] = []
            with applied(original):
                images.append(toy.images(self._classes, seed, trajectory))
            self._trajectories.append(trajectory)
        self._images = torch.stack(images)
        with applied(original):
            self._outputs = self._all_outputs()
        self._without = self._distances()

    def errors(self, path: Path, runtime: Runtime) -> Errors:
        """Return the errors of a written file."""
        with SafeFile(path) as file:
            adapter = read_lora(file)
            analysis = analyse(adapter, None, [], runtime)
            job = prepare(analysis, parse_recipe("fro_lora=1,retain=1"), Style("F32"), Path)
            with applied(original_deltas(job, self._toy.model(adapter))):
                px, eps = self._distances()
        return Errors(px / self._without[0], eps / self._without[1])

    def _distances(self) -> tuple[float, float]:
        images = torch.stack([self._toy.images(self._classes, seed) for seed in self._seeds])
        px = float((images - self._images).square().mean())
        return px, float((self._all_outputs() - self._outputs).square().mean())

    def _all_outputs(self) -> torch.Tensor:
        return torch.stack([self._toy.outputs(one, self._classes) for one in self._trajectories])


# Files of a share -------------------------------------------------------------------------------------------------


def factor_bytes(job: ResizeJob) -> int:
    """Return the bytes of the factors of a planned file."""
    sizes = {"F16": 2, FLOAT8: 1}
    specs = [spec for new in job.layout.layers for spec in new.tensors.values()]
    return sum(sizes[spec.dtype] * math.prod(spec.shape) for spec in specs)


def original_bytes(analysis: Analysis) -> int:
    """Return the bytes of the original's factors in float16."""
    return sum(2 * layer.form.parameters_per_rank * layer.rank for layer in analysis.adapter.layers)


def planned(analysis: Analysis, share: float, folder: Path, fit: FitRecord | None = None) -> ResizeJob:
    """Return the float8 file by ``fro_lora`` whose factors need at most a share of the original's bytes."""
    most, low, high = share * original_bytes(analysis), -8.0, 0.0

    def job(threshold: float) -> ResizeJob:
        recipe = parse_recipe(f"fro_lora=1,min_rank=1,thr={threshold:.6f}")
        return prepare(analysis, recipe, Style(FLOAT8), lambda stem: folder / f"{stem}.safetensors", fit=fit)

    for _ in range(24):
        middle = (low + high) / 2
        low, high = (low, middle) if factor_bytes(job(middle)) <= most else (middle, high)
    return job(high)


def write(job: ResizeJob, runtime: Runtime) -> Path:
    """Write a planned file, and return its path."""
    job = measured(job, runtime)
    execute(job, runtime, ["0" * 64], overwrite=True)
    return job.path


def needed_bytes(curve: Sequence[tuple[int, float]], error: float) -> int:
    """Return the bytes at which plain truncation has an error: the curve is log-linear between its points."""
    sizes, errors = zip(*sorted(curve), strict=True)
    falling = np.minimum.accumulate(errors)
    return round(math.exp(np.interp(-math.log(error), -np.log(falling), np.log(sizes))))


# The measurement ----------------------------------------------------------------------------------------------------


def record(toy: Toy, job: ResizeJob, images: int, steps: int, seed: int) -> list[Call]:
    """Record some steps of images that the model makes with the original LoRA."""
    wanted = {round((i + 0.5) * STEPS / steps) for i in range(steps)}
    deltas = original_deltas(job, toy.model(job.analysis.adapter))
    with applied(deltas), recording(toy.net, wanted.__contains__) as calls:
        toy.images(torch.arange(images) % 9, seed)
    return calls


def measure(folder: Path, lora: Path, share: float, seeds: int, images: int, steps: int) -> Report:
    """Compare both files of a share."""
    with cpu_runtime(Quiet(), 1) as runtime, SafeFile(lora) as file, tempfile.TemporaryDirectory() as place:
        analysis = analyse(read_lora(file), None, [], runtime)
        toy, target = Toy(folder), Path(place)
        job = planned(analysis, share, target)
        model = toy.model(analysis.adapter)
        judge = Judge(toy, job, seeds)
        plain = judge.errors(write(job, runtime), runtime)
        calls, held_out = record(toy, job, images, steps, 777), record(toy, job, images, 1, 778)
        recordings = Recordings([Recorded(model, calls, held_out)], images, steps, "0" * 16)
        fitted_job = fit_job(job, recordings, FitOptions(batch=8), runtime)
        fitted = judge.errors(write(fitted_job, runtime), runtime)
        size = factor_bytes(job)
        curve = _curve((size, plain), fitted, lambda factor: _point(analysis, judge, share * factor, target, runtime))
        return Report(
            lora=lora.stem,
            share=share,
            bytes=size,
            plain=plain,
            fitted=fitted,
            kept_fit=bool(fitted_job.selection.fitted),
            bytes_for_px=needed_bytes([(b, e.px) for b, e in curve], fitted.px),
            bytes_for_eps=needed_bytes([(b, e.eps) for b, e in curve], fitted.eps),
        )


def measure_model(base: Path, lora: Path, share: float, wish: ImageOptions, device: str) -> Report:
    """Compare both files of a share in a pipeline of diffusers, by the output of its denoiser on an unseen image."""
    with cpu_runtime(Quiet(), None) as runtime, SafeFile(lora) as file:
        analysis = analyse(read_lora(file), None, [], runtime)
        job = planned(analysis, share, lora.parent)
        recordings = record_pipeline(open_pipeline(base, device), job, wish, runtime)
        denoiser = recordings.models[-1]
        fitted_job = fit_job(job, recordings, FitOptions(), runtime)

        def point(factor: float) -> Point:
            other = planned(analysis, share * factor, lora.parent)
            (error,) = held_out_errors([other], denoiser)
            return factor_bytes(other), Errors(error, error)

        plain, own = held_out_errors([job, fitted_job], denoiser)
        first, aim = (factor_bytes(job), Errors(plain, plain)), Errors(own, own)
        needed = needed_bytes([(size, errors.eps) for size, errors in _curve(first, aim, point)], own)
        kept = bool(fitted_job.selection.fitted)
        return Report(lora.stem, share, first[0], first[1], aim, kept, needed, needed)


def _curve(first: Point, aim: Errors, point: Callable[[float], Point]) -> list[Point]:
    """Return points of plain truncation, from the first one until the aim is between two of them in both errors."""
    found = [first]
    for direction in (1, -1):
        for step in range(1, MOST_POINTS + 1):
            px, eps = [one.px for _, one in found], [one.eps for _, one in found]
            reached = min(px) <= aim.px and min(eps) <= aim.eps
            if reached if direction > 0 else (max(px) >= aim.px and max(eps) >= aim.eps):
                break
            found.append(point(POINTS ** (direction * step)))
    return found


def _point(analysis: Analysis, judge: Judge, share: float, folder: Path, runtime: Runtime) -> Point:
    job = planned(analysis, share, folder)
    return factor_bytes(job), judge.errors(write(job, runtime), runtime)


def as_text(report: Report) -> str:
    """Return a report in lines."""
    lines = [f"{report.lora}, {report.share:.3g} of the original's bytes in float16: {report.bytes} bytes of factors"]
    lines += [f"  {'':18}{'px':>10}{'eps':>10}"]
    lines += [
        f"  {name:18}{e.px:10.5f}{e.eps:10.5f}" for name, e in (("plain", report.plain), ("fitted", report.fitted))
    ]
    lines += [f"  {'plain needs, bytes':18}{report.bytes_for_px:10}{report.bytes_for_eps:10}"]
    lines += [f"  {'fitted / plain':18}{report.ratio_px:10.3f}{report.ratio_eps:10.3f}"]
    return "\n".join(
        [*lines, *([] if report.kept_fit else ["  the comparison on held-out calls kept plain truncation"])]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure one LoRA at one share, and print the report."""
    parsed = _parser().parse_args(arguments)
    torch.set_num_threads(1 if parsed.toy else torch.get_num_threads())
    if parsed.toy:
        report = measure(parsed.toy, parsed.lora, parsed.share, parsed.seeds, parsed.images or 8, parsed.steps or 2)
    else:
        wish = ImageOptions(tuple(parsed.prompt), images=parsed.images or 4, steps=parsed.steps or 4)
        report = measure_model(parsed.base, parsed.lora, parsed.share, wish, parsed.device)
    text = json.dumps(report.as_json(), indent=2) if parsed.json else as_text(report)
    sys.stdout.write(f"{text}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.fit", description=__doc__.split("\n\n", maxsplit=1)[0])
    models = made.add_mutually_exclusive_group(required=True)
    models.add_argument("--toy", type=Path, metavar="DIR", help="the folder of the small model")
    models.add_argument("--base", type=Path, metavar="MODEL", help="a model of diffusers, in place of the small one")
    made.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="a prompt for --base")
    made.add_argument("--lora", type=Path, required=True, metavar="FILE", help="a LoRA that was trained on the model")
    made.add_argument("--share", type=float, required=True, help="bytes of the factors over those of the original")
    made.add_argument(
        "--seeds", type=int, default=2, help=f"noise seeds of the judge, {JUDGED} images each (default: 2)"
    )
    made.add_argument(
        "--images", type=int, help="images for the fit (default: 8, one of each judged class; 4 of --base)"
    )
    made.add_argument("--steps", type=int, help="recorded steps of each image (default: 2; 4 of --base)")
    made.add_argument("-d", "--device", default="cpu", help="device of --base (default: cpu)")
    made.add_argument("--json", action="store_true", help="print JSON")
    return made


if __name__ == "__main__":
    sys.exit(main())
