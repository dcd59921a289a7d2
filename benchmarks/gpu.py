"""What a GPU is worth: uploads, decompositions, factors, norms, a whole resize, and memory, against the CPU's code.

    python -m benchmarks.gpu                         five minutes on one card, at SDXL's shapes, ranks 32 and 128
    python -m benchmarks.gpu --device cpu --small    the same code with torch on the CPU, in seconds

Wall times, each the best of three after one run that loads libraries. Prints a table and the goals, and with ``--out``
writes the table as JSON. Exit status 1 if results of the device differ from those of the CPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks.bench import Row
from lib_resize.adapters.read.adapter import read_adapter
from lib_resize.demo.models import FULL, SMALL
from lib_resize.demo.synthetic import LoraOptions, write_lora
from lib_resize.engine.batch import resize
from lib_resize.engine.settings import Settings
from lib_resize.files.reader import SafeFile
from lib_resize.linalg.arrays import DEVICE_BYTES, NumpyArrays, TorchArrays
from lib_resize.linalg.casts import round_to
from lib_resize.linalg.device_decompose import Solvers, decompose_on_device
from lib_resize.linalg.device_factors import FactorJob, rounded_factors
from lib_resize.linalg.device_norms import norms_on_device
from lib_resize.linalg.device_upload import Upload
from lib_resize.linalg.factor import Pair, Spectrum, Stored, decompose
from lib_resize.linalg.norms import frobenius_and_spectral_norm
from lib_resize.linalg.solver_rates import CPU, DEVICE, SolverRates
from lib_resize.linalg.threads import one_blas_thread, usable_cores
from lib_resize.linalg.truncate import truncated
from lib_resize.prompts.sources import expand
from lib_resize.recipe.grammar import parse_recipes

Result = TypeVar("Result")

SLOW_CARD = 300.0
"""GB/s of memory, of the card for which the goal of the norms is set."""
WORST_SIGMA = 1e-6
"""Relative difference from the CPU's singular values, of those above 1e-5 of the largest."""
WORST_NORM = 1e-4


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    what: str
    value: float
    unit: str = "s"


class Bench:
    """A device, workers of the CPU, and where files are made."""

    def __init__(self, device: str, folder: Path, *, small: bool) -> None:
        self.arrays = TorchArrays(device)
        self.device, self.folder, self.small = device, folder, small
        self.pool = ThreadPoolExecutor(usable_cores())
        self.differences: list[Figure] = []
        """What differs from the CPU's results by more than it may."""

    def seconds(self, work: Callable[[], Result], rounds: int = 3) -> tuple[float, Result]:
        """Return the least wall time of some rounds after a first one, and the last result."""
        result, least = work(), float("inf")
        for _ in range(1 if self.small else rounds):
            self.arrays.wait()
            begun = time.perf_counter()
            result = work()
            self.arrays.wait()
            least = min(least, time.perf_counter() - begun)
        return least, result

    def lora(self, rank: int) -> Path:
        """Return a LoRA file with SDXL's shapes."""
        path = self.folder / f"r{rank}.safetensors"
        if not path.exists():
            write_lora(path, LoraOptions(model=SMALL if self.small else FULL, rank=rank))
        return path

    def checked(self, figure: Figure, most: float) -> Figure:
        """Note a difference that is larger than it may be."""
        if not figure.value <= most:
            self.differences.append(figure)
        return figure


class Solving(SolverRates):
    """Solves (r, r) problems in one place."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self._place = place

    def place(self, rank: int) -> str:  # noqa: ARG002 - the same for all
        return self._place

    def is_measured(self, rank: int) -> bool:  # noqa: ARG002
        return True


def of_rank(bench: Bench, rank: int) -> Iterator[Figure]:
    """Yield the figures of uploads, decompositions and factors."""
    with SafeFile(bench.lora(rank)) as file:
        pairs = [layer.form.pair for layer in read_adapter(file).layers if layer.rank == rank]  # type: ignore[attr-defined]
        yield upload(bench, rank, pairs)
        spectra = yield from decompositions(bench, rank, pairs)
        yield from factors(bench, rank, pairs, spectra)


def upload(bench: Bench, rank: int, pairs: Sequence[Pair]) -> Figure:
    """Return the rate at which layers reach the device."""
    uploads = Upload(bench.arrays)
    groups = [pairs[start : start + 32] for start in range(0, len(pairs), 32)]
    size = sum(factor.bits.nbytes for pair in pairs for factor in (pair.up, pair.down))

    def send() -> None:
        for group in groups:
            uploads.stacks([[factor] for pair in group for factor in (pair.up, pair.down)])

    taken, _ = bench.seconds(send)
    return Figure(f"r{rank} upload of {size / 2**20:.0f} MiB", size / taken / 1e9, "GB/s")


def decompositions(bench: Bench, rank: int, pairs: Sequence[Pair]) -> Generator[Figure, None, list[Spectrum]]:
    """Yield the times of all layers by the CPU, and by the device with each place for the (r, r) problems.

    Returns the CPU's results.
    """
    step = max(1, min(16, 16384 // rank**2))
    parts = [pairs[start : start + step] for start in range(0, len(pairs), step)]

    def by_cpu() -> list[Spectrum]:
        return [one for part in bench.pool.map(lambda part: decompose(part, NumpyArrays()), parts) for one in part]

    taken, expected = bench.seconds(by_cpu)
    yield Figure(f"r{rank} decompose, CPU with {usable_cores()} workers", taken)
    for place in (DEVICE, CPU):
        solvers = Solvers(bench.pool, Solving(place))
        taken, found = bench.seconds(
            lambda solvers=solvers: [  # type: ignore[misc]
                one for group in decompose_on_device(pairs, bench.arrays, solvers) for one in group
            ]
        )
        yield Figure(f"r{rank} decompose on {bench.device}, (r, r) problems on the {place.replace(CPU, 'CPU')}", taken)
        yield Figure(f"r{rank} layers of these left to the CPU", sum(one is None for _, one in found), "")
        worst = max((sigma_error(one, expected[i]) for i, one in found if one is not None), default=0.0)
        yield bench.checked(Figure(f"r{rank} largest difference of a sigma", worst, ""), WORST_SIGMA)
    return expected


def sigma_error(found: Spectrum, expected: Spectrum) -> float:
    """Return the largest relative difference of singular values above 1e-5 of the largest."""
    judged = expected.s > 1e-5 * expected.s[0]
    return float(np.max(np.abs(found.s[judged] / expected.s[judged] - 1), initial=0.0))


def factors(bench: Bench, rank: int, pairs: Sequence[Pair], spectra: Sequence[Spectrum]) -> Iterator[Figure]:
    """Yield the times for new factors of a quarter of the rank, rounded to float16."""
    kept = np.arange(max(1, rank // 4))
    jobs = [FactorJob(pair, one, kept, 1.0, ("F16", "F16")) for pair, one in zip(pairs, spectra, strict=True)]

    def by_cpu(job: FactorJob) -> None:
        for values in truncated(job.pair, job.spectrum, job.kept, NumpyArrays()):
            round_to(values, "F16")

    taken, _ = bench.seconds(lambda: list(bench.pool.map(by_cpu, jobs)))
    yield Figure(f"r{rank} factors of rank {len(kept)}, CPU", taken)
    taken, found = bench.seconds(lambda: list(rounded_factors(jobs, bench.arrays)))
    yield Figure(f"r{rank} factors of rank {len(kept)} on {bench.device}", taken)
    yield bench.checked(Figure(f"r{rank} layers whose factors did not fit", sum(one is None for one in found), ""), 0)


def norms(bench: Bench) -> Iterator[Figure]:
    """Yield the times of the norms of all weights that a LoRA of SDXL changes; one matrix is all of a shape."""
    with SafeFile(bench.lora(32)) as file:
        shapes = [layer.size for layer in read_adapter(file).layers]
    chance = np.random.default_rng(0)
    weights = {
        shape: Stored(round_to(chance.standard_normal(shape, dtype=np.float32), "F16"), "F16")
        for shape in dict.fromkeys(shapes)
    }
    numbers = sum(n * m for n, m in shapes)
    for spectral, words in ((False, "Frobenius norms"), (True, "both norms")):
        taken, groups = bench.seconds(
            lambda spectral=spectral: list(  # type: ignore[misc]
                norms_on_device(shapes, lambda i: weights[shapes[i]], bench.arrays, spectral=spectral)
            ),
            rounds=1,
        )
        yield Figure(f"{words} of {len(shapes)} weights ({numbers / 1e9:.2f}e9 numbers) on {bench.device}", taken)
    found = {shapes[i]: (fro, spn) for group in groups for i, fro, spn in group}
    counts, slow, worst = Counter(shapes), 0.0, 0.0
    for shape, weight in weights.items():
        begun = time.perf_counter()
        expected = frobenius_and_spectral_norm(weight, NumpyArrays())
        slow += counts[shape] * (time.perf_counter() - begun)
        if shape in found:
            worst = max(worst, *(abs(one / other - 1) for one, other in zip(found[shape], expected, strict=True)))  # type: ignore[operator]
    yield Figure(f"both norms, CPU with {usable_cores()} workers (one of each shape, times their number)", slow)
    yield bench.checked(Figure("largest difference of a norm", worst, ""), WORST_NORM)


def whole(bench: Bench, rank: int) -> Iterator[Figure]:
    """Yield the times of a whole resize in this process, after one that loads libraries."""
    for device in ("cpu", bench.device if bench.device != "cpu" else "cpu:0"):
        settings = Settings(
            recipes=parse_recipes("medium"),
            output=bench.folder / device.replace(":", ""),
            device=device,
            overwrite=True,
        )

        def once(settings: Settings = settings) -> None:
            (outcome,) = resize(expand([str(bench.lora(rank))]), settings)
            if outcome.error is not None:
                raise outcome.error

        taken, _ = bench.seconds(once)
        yield Figure(f"r{rank} whole resize, {'CPU' if device == 'cpu' else device}", taken)


def memory(bench: Bench) -> Iterator[Figure]:
    """Yield the most memory of the device that torch had in use, where torch counts it."""
    if bench.arrays.target.type == "cuda":
        yield Figure("most memory of the device", bench.arrays.torch.cuda.max_memory_allocated() / 2**20, "MiB")


def all_figures(bench: Bench, ranks: Sequence[int]) -> Iterator[Figure]:
    """Yield all figures."""
    for rank in ranks:
        yield from of_rank(bench, rank)
    yield from norms(bench)
    for rank in ranks:
        yield from whole(bench, rank)
    yield from memory(bench)


def goals(figures: Sequence[Figure], rank: int, device: str) -> list[Row]:
    """Return the goals; the first one is for a card of `SLOW_CARD` GB/s."""
    of = {figure.what: figure.value for figure in figures}
    both = next(value for what, value in of.items() if what.startswith("both norms of"))
    slow, fast = (value for what, value in of.items() if what.startswith(f"r{rank} whole resize"))
    limit = DEVICE_BYTES / 2**20
    rows = [
        Row("D1", f"cold norms of SDXL, on a card of {SLOW_CARD:.0f} GB/s", both, 1.5, False, " s"),
        Row("D2", f"whole resize of rank {rank}, share of the CPU's time", fast / slow, 0.5, False),
    ]
    used = of.get("most memory of the device")
    return rows if used is None else [*rows, Row("D3", f"memory of {device}", used, limit, False, " MiB")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table and the goals, and return the exit status."""
    options = _parser().parse_args(arguments)
    ranks = [int(word) for word in options.ranks.split(",")]
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder, one_blas_thread():
        bench = Bench(options.device, Path(folder), small=options.small)
        sys.stdout.write(f"torch {bench.arrays.torch.__version__}, {bench.arrays.name}, {usable_cores()} cores\n")
        for figure in all_figures(bench, ranks):
            figures.append(figure)
            sys.stdout.write(f"{figure.what:90} {figure.value:10.4g} {figure.unit}\n")
            sys.stdout.flush()
    for row in goals(figures, ranks[-1], options.device):
        verdict = "not judged" if options.small else "met" if row.met else "missed"
        sys.stdout.write(f"{row.goal} {row.what}: {row.value:.3g}{row.unit}, goal {row.target:g}: {verdict}\n")
    if options.out is not None:
        options.out.write_text(json.dumps([vars(figure) for figure in figures], indent=1), "utf-8")
    for figure in bench.differences:
        sys.stdout.write(f"too much: {figure.what}: {figure.value:.3g}\n")
    return 1 if bench.differences else 0


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--device", default="cuda", help="a device of torch (default: cuda)")
    made.add_argument("--small", action="store_true", help="small shapes and one round, to see that it runs")
    made.add_argument("--ranks", default="32,128", help="ranks of the LoRAs (default: 32,128)")
    made.add_argument("--out", type=Path, help="a file for the figures, JSON")
    return made


if __name__ == "__main__":
    raise SystemExit(main())
