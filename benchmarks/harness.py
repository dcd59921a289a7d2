"""Measuring whole processes side by side, and the limit that the machine sets to one resize.

The first half runs commands, interleaved, and reads wall time, CPU seconds and peak memory of each process. The
second half measures what one thread of this machine can do, counts what a resize of given layers cannot do without,
and divides the two. Numbers are seconds, bytes and operations per second; nothing here prints.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

MIB = 1 << 20
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
QUIET = 0.3  # cores
_NOT_HANDED_ON = {*ONE_THREAD, "PYTHONDONTWRITEBYTECODE"}


# Whole processes


@dataclass(frozen=True)
class Command:
    """One process to measure: its words, additions to the environment, and paths to delete before each run."""

    words: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    remove: Sequence[Path] = ()


@dataclass(frozen=True)
class Sample:
    """One run: wall and CPU (user + system) seconds, peak resident bytes (mapped file pages included)."""

    wall: float
    cpu: float
    peak: int
    others: float = 0.0
    """How many cores other processes kept busy meanwhile, on average; 0 where the system does not tell."""


class CommandFailedError(RuntimeError):
    """A measured command ended with an error; the text holds the end of its output."""


LAUNCHER = """
import json, os, sys, time
start = time.perf_counter()
child = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
status, usage = os.wait4(child, 0)[1:]
wall = time.perf_counter() - start
unit = 1 if sys.platform == "darwin" else 1024
report = [os.waitstatus_to_exitcode(status), wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit]
os.write(int(os.environ["REPORT_FD"]), json.dumps(report).encode())
"""
"""Runs in a bare interpreter: a child inherits the peak memory of the process that starts it, and ours is large."""


def run(command: Command) -> Sample:
    """Run ``command`` once and measure it; raises ``CommandFailedError`` when it does not end with 0.

    The numbers of threads that this process was given are not handed on: a command has its defaults or its own.
    Nor is a ban on compiled modules, which every installation has.
    Needs a POSIX system; no other reports the CPU time and peak memory of one finished child.
    """
    if not hasattr(os, "wait4"):
        raise CommandFailedError(
            "whole-process measurement needs os.wait4, which this system lacks; use Linux or macOS"
        )
    for path in command.remove:
        delete(path)
    read_end, write_end = os.pipe()
    inherited = {name: value for name, value in os.environ.items() if name not in _NOT_HANDED_ON}
    environment = {**inherited, **command.environment, "REPORT_FD": str(write_end)}
    words = [sys.executable, "-I", "-S", "-c", LAUNCHER, *command.words]
    busy = busy_seconds()
    finished = subprocess.run(
        words,
        env=environment,
        pass_fds=(write_end,),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    os.close(write_end)
    with os.fdopen(read_end, "rb") as report:
        sample = sample_of(report.read(), command, finished.stdout.decode(errors="replace"))
    return replace(sample, others=max(busy_seconds() - busy - sample.cpu, 0.0) / max(sample.wall, 1e-9))


def sample_of(report: bytes, command: Command, output: str) -> Sample:
    """The launcher's report as a sample; an empty one means that the command could not be started."""
    code, wall, cpu, peak = json.loads(report) if report else (None, 0.0, 0.0, 0)
    if code != 0:
        tail = "\n".join(output.strip().splitlines()[-15:])
        raise CommandFailedError(f"exit code {code} of: {' '.join(command.words)}\n{tail}")
    return Sample(wall, cpu, int(peak))


def busy_seconds() -> float:
    """CPU seconds that all cores together have worked since the machine started; 0 where the system does not tell."""
    try:
        user, nice, system, _idle, _waiting, *rest = Path("/proc/stat").read_text("utf-8").split("\n", 1)[0].split()[1:]
    except OSError:
        return 0.0
    return sum(map(int, (user, nice, system, *rest[:2]))) / os.sysconf("SC_CLK_TCK")


def wait_for_quiet(patience: float) -> None:
    """Return when other processes leave most of the machine alone, or after `patience` seconds."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        busy = busy_seconds()
        time.sleep(1.0)
        if busy_seconds() - busy < QUIET:
            return


def delete(path: Path) -> None:
    """Remove a file or a folder if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def interleave(
    commands: Mapping[str, Command], pairs: int, warm_ups: int = 0, patience: float = 0.0
) -> dict[str, list[Sample]]:
    """Run all commands in turn (A B A B ...), ``pairs`` times, after ``warm_ups`` rounds that are not counted.

    Neighbours on the machine disturb all commands alike that way, so ratios of medians hold. Each round waits up to
    ``patience`` seconds for a quiet machine.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in commands}
    for turn in range(-warm_ups, pairs):
        wait_for_quiet(patience if turn >= 0 else 0.0)
        for name, command in commands.items():
            sample = run(command)
            if turn >= 0:
                samples[name].append(sample)
    return samples


def median(samples: Sequence[Sample]) -> Sample:
    """The median of each measure by itself."""
    return Sample(
        statistics.median(sample.wall for sample in samples),
        statistics.median(sample.cpu for sample in samples),
        int(statistics.median(sample.peak for sample in samples)),
        statistics.median(sample.others for sample in samples),
    )


@dataclass(frozen=True)
class Ratio:
    """How many times more of each measure a reference needs than we do; above 1 means that we need less."""

    wall: float
    cpu: float
    peak: float


def ratio(reference: Sequence[Sample], ours: Sequence[Sample]) -> Ratio:
    """Medians of the reference divided by our medians."""
    theirs, own = median(reference), median(ours)
    return Ratio(theirs.wall / own.wall, theirs.cpu / own.cpu, theirs.peak / own.peak)


@contextlib.contextmanager
def busy_neighbours(count: int) -> Iterator[None]:
    """While the context lasts, ``count`` other processes keep a core each busy with arithmetic."""
    words = [sys.executable, "-I", "-S", "-c", "while True: sum(range(100000))"]
    processes = [subprocess.Popen(words) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


# What a resize cannot do without


@dataclass(frozen=True)
class LayerWork:
    """One low-rank layer: delta is [rows, columns] of ``rank``, of which ``kept`` dimensions are written."""

    rows: int
    columns: int
    rank: int
    kept: int

    @property
    def gram_flops(self) -> int:
        """Both Gram matrices, one triangle each: n r^2 per factor (a multiplication and an addition are two)."""
        return (self.rows + self.columns) * self.rank**2

    @property
    def core_flops(self) -> float:
        """Cholesky r^3/3, two r^3 products (2 r^3 each) and the symmetric eigenproblem with vectors, 9 r^3.

        The constant 9 is that of Golub and Van Loan, Matrix Computations, for tridiagonal QR with vectors.
        """
        return (1 / 3 + 2 * 2 + 9) * self.rank**3

    @property
    def output_flops(self) -> int:
        """One product per factor that forms the kept columns only."""
        return 2 * (self.rows + self.columns) * self.rank * self.kept

    @property
    def elements_in(self) -> int:
        """Numbers read from the source."""
        return (self.rows + self.columns) * self.rank

    @property
    def elements_out(self) -> int:
        """Numbers written."""
        return (self.rows + self.columns) * self.kept


@dataclass(frozen=True)
class Limits:
    """What one thread of this machine does: bytes per second, or operations per second."""

    memory: float
    syrk64: float
    gemm32: float
    sha256: float
    core64: Mapping[int, float]
    """Rate of the r x r part by rank: Cholesky, products, eigenproblem, in the flops that ``LayerWork`` counts."""
    cast_in: float = math.inf
    """Numbers per second widened to float64; infinite leaves the cast out of the limit."""
    cast_out: float = math.inf
    start_up: float = 0.0
    """Wall seconds of an interpreter that imports numpy."""


@dataclass(frozen=True)
class Part:
    """One addend of the limit, in seconds of one thread."""

    name: str
    seconds: float


def limit_parts(layers: Sequence[LayerWork], limits: Limits, item_in: int = 2, item_out: int = 2) -> list[Part]:
    """Thread seconds that the bytes and flops of one resize cost at the measured rates.

    The source is read twice, once for the Gram matrices and once for the kept columns: it does not fit a core's
    cache. The output is written once and hashed once. ``item_in`` and ``item_out`` are bytes per number.
    """
    read = sum(layer.elements_in for layer in layers)
    written = sum(layer.elements_out for layer in layers)
    return [
        Part("read twice, write once", (2 * read * item_in + written * item_out) / limits.memory),
        Part("Gram matrices, float64", sum(layer.gram_flops for layer in layers) / limits.syrk64),
        Part(
            "r x r algebra, float64",
            sum(layer.core_flops / rate_at(limits.core64, layer.rank) for layer in layers),
        ),
        Part("kept columns, float32", sum(layer.output_flops for layer in layers) / limits.gemm32),
        Part("casts in and out", 2 * read / limits.cast_in + written / limits.cast_out),
        Part("SHA-256", written * item_out / limits.sha256),
    ]


def rate_at(rates: Mapping[int, float], rank: int) -> float:
    """The rate measured at the rank nearest to ``rank`` (by ratio): small problems run far slower than large ones."""
    return rates[min(rates, key=lambda known: abs(math.log(known / max(rank, 1))))]


def limit_seconds(parts: Iterable[Part], cores: int, start_up: float = 0.0) -> float:
    """Wall seconds if all cores share the work without loss; the start of the interpreter is not shared."""
    return sum(part.seconds for part in parts) / cores + start_up


def layers_of(shapes: Mapping[str, Sequence[int]], kept: Mapping[str, int] | float) -> list[LayerWork]:
    """The work of a kohya LoRA from the ``shapes`` of its header.

    ``kept`` maps layer names to written ranks (missing: dropped), or is the share of the rank that stays.
    """
    layers = []
    for key, shape in shapes.items():
        if key.endswith(".lora_up.weight"):
            name = key.removesuffix(".lora_up.weight")
            down = shapes[f"{name}.lora_down.weight"]
            rank = down[0]
            stays = kept.get(name, 0) if isinstance(kept, Mapping) else max(1, round(rank * kept))
            layers.append(LayerWork(shape[0], math.prod(down[1:]), rank, stays))
    return layers


def ranks_of(shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Rank of every layer of a kohya LoRA, by layer name."""
    suffix = ".lora_down.weight"
    return {key.removesuffix(suffix): shape[0] for key, shape in shapes.items() if key.endswith(suffix)}


def header_shapes(path: Path) -> dict[str, list[int]]:
    """Shapes by key from a safetensors header that is trusted (it was written by this benchmark)."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    return {key: entry["shape"] for key, entry in header.items()}


# Measuring the machine


def best_seconds(action: Callable[[], object], repeats: int = 5) -> float:
    """The fastest of several runs: a limit is what the machine can do, not what its neighbours left of it."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def measure_memory(size: int = 128 * MIB) -> float:
    """Bytes per second, read plus written, of a copy far larger than the caches."""
    import numpy as np

    source, target = np.ones(size // 8), np.ones(size // 8)
    return 2 * size / best_seconds(lambda: np.copyto(target, source))


def measure_syrk64(rows: int = 1280, rank: int = 128, count: int = 20) -> float:
    """Operations per second of a float64 Gram matrix (one triangle counted), at the size of an SDXL factor."""
    import numpy as np

    factor = np.random.default_rng(0).standard_normal((rows, rank))
    flops = count * rows * rank**2
    return flops / best_seconds(lambda: [factor.T @ factor for _ in range(count)])


def measure_gemm32(rows: int = 1280, rank: int = 128, kept: int = 128, count: int = 20) -> float:
    """Operations per second of a float32 product at the size that forms the kept columns."""
    import numpy as np

    chance = np.random.default_rng(0)
    left = chance.standard_normal((rows, rank), dtype=np.float32)
    right = chance.standard_normal((rank, kept), dtype=np.float32)
    return 2 * count * rows * rank * kept / best_seconds(lambda: [left @ right for _ in range(count)])


def measure_core64(rank: int, count: int = 20) -> float:
    """Operations per second of Cholesky, two products and an eigenproblem with vectors of ``rank`` x ``rank``."""
    import numpy as np

    factor = np.random.default_rng(0).standard_normal((2 * rank, rank))
    gram = factor.T @ factor

    def once() -> object:
        triangle = np.linalg.cholesky(gram)
        return np.linalg.eigh(triangle.T @ gram @ triangle)

    flops = count * LayerWork(0, 0, rank, 0).core_flops
    return flops / best_seconds(lambda: [once() for _ in range(count)])


def measure_sha256(size: int = 32 * MIB) -> float:
    """Bytes per second of SHA-256."""
    data = bytes(size)
    return size / best_seconds(lambda: hashlib.sha256(data).digest(), repeats=3)


def measure_start_up(repeats: int = 3) -> float:
    """Wall seconds of an interpreter that imports numpy and ends."""
    words = [sys.executable, "-c", "import numpy"]
    return best_seconds(lambda: subprocess.run(words, check=True, env={**os.environ, **ONE_THREAD}), repeats)


def measure_limits(ranks: Iterable[int]) -> Limits:
    """All rates of this machine on one thread, if numpy was imported with one (see `measured_limits`)."""
    cast_in, cast_out = measure_casts()
    return Limits(
        memory=measure_memory(),
        syrk64=measure_syrk64(),
        gemm32=measure_gemm32(),
        sha256=measure_sha256(),
        core64={rank: measure_core64(rank) for rank in sorted(set(ranks))},
        cast_in=cast_in,
        cast_out=cast_out,
        start_up=measure_start_up(),
    )


def measured_limits(ranks: Iterable[int]) -> Limits:
    """`measure_limits` in a process whose numpy has one thread."""
    words = [sys.executable, "-m", "benchmarks.harness", *map(str, ranks)]
    folder = Path(__file__).resolve().parents[1]
    done = subprocess.run(words, env={**os.environ, **ONE_THREAD}, cwd=folder, stdout=subprocess.PIPE, check=True)
    numbers = json.loads(done.stdout)
    return Limits(**{**numbers, "core64": {int(rank): rate for rank, rate in numbers["core64"].items()}})


def measure_casts(elements: int = 1 << 16) -> tuple[float, float]:
    """Numbers per second from float16 to float64 and from float32 to float16, by the package's own casts."""
    import numpy as np

    from lib_resize.linalg.casts import round_to, widen

    singles, doubles = np.ones(elements, np.float32), np.empty(elements)
    halves = round_to(singles, "F16")
    widening = best_seconds(lambda: widen(halves, "F16", doubles), repeats=20)
    rounding = best_seconds(lambda: round_to(singles, "F16"), repeats=20)
    return elements / widening, elements / rounding


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(measure_limits(map(int, sys.argv[1:])))))
