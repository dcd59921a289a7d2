"""Measure the goals G1 to G10 and S1 to S10 and print them: ``python -m benchmarks.run [--goals G1,S7] ...``.

Everything is measured in one go, whole processes, interleaved with the reference paths on the same files. Without
``--material`` the full-size files are made first (8 GB). ``--size small`` runs the same code on tiny files within a
minute or two; its ratios show start-up times and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks import speed
from benchmarks.bench import (
    BATCH,
    DEFAULT_RECIPE,
    FOUR_RECIPES,
    SPECTRAL_RECIPE,
    Limit,
    Material,
    Options,
    Row,
    Runtime,
    copies,
    say,
)
from benchmarks.harness import (
    MIB,
    ONE_THREAD,
    CommandFailedError,
    Sample,
    busy_neighbours,
    median,
    ratio,
    run,
    wait_for_quiet,
)
from lib_resize.demo.models import FULL, SMALL, Model
from lib_resize.demo.synthetic import LoraOptions, write_checkpoint, write_lora

NEIGHBOURS = 2


# The goals


def g1(runtime: Runtime) -> Iterator[Row]:
    """Rank 32, warm: wall time."""
    samples = runtime.warm("r32")
    yield Row("G1", "r32 warm, wall", ratio(samples["reference"], samples["ours"]).wall, 4)
    alone = ratio(samples["reference, one thread"], samples["ours"])
    yield Row("G1", "r32 warm, wall, reference on one thread", alone.wall, 3.5)


def g2(runtime: Runtime) -> Iterator[Row]:
    """Rank 128, warm: wall time and CPU."""
    samples = runtime.warm("r128")
    yield Row("G2", "r128 warm, wall", ratio(samples["reference"], samples["ours"]).wall, 6)
    alone = ratio(samples["reference, one thread"], samples["ours"])
    yield Row("G2", "r128 warm, CPU, reference on one thread", alone.cpu, 2.5)


def g3(runtime: Runtime) -> Iterator[Row]:
    """The full matrix, extrapolated from sampled layers, against our whole process."""
    ours = median(runtime.warm("r32")["ours"]).wall
    for method, target in (("full", 1000.0), ("randomised", 150.0)):
        seconds = full_matrix_seconds(runtime, method)
        yield Row("G3", f"r32, {method} SVD of the delta ({seconds:.3g} s extrapolated)", seconds / ours, target)


def full_matrix_seconds(runtime: Runtime, method: str) -> float:
    """Wall seconds of the full-matrix reference for the whole LoRA, on one torch thread."""
    say(f"r32 {method} SVD of sampled layers")
    words = [sys.executable, str(Path(__file__).with_name("references.py")), str(runtime.material.r32)]
    words += ["--full-matrix", method, "--per-shape", str(runtime.options.per_shape)]
    done = subprocess.run(words, env={**os.environ, **ONE_THREAD}, capture_output=True, check=True)
    return float(json.loads(done.stdout)["wall"])


def g4(runtime: Runtime) -> Iterator[Row]:
    """Cold spectral norms: time, and the worst error on sampled layers."""
    from benchmarks.accuracy import worst_norm_errors

    samples = runtime.cold(SPECTRAL_RECIPE, "spectral")
    found = ratio(samples["reference"], samples["ours"])
    yield Row("G4", "r32 cold spectral norms, wall", found.wall, 8)
    yield Row("G4", "r32 cold spectral norms, CPU", found.cpu, 4)
    ours, theirs = worst_norm_errors(runtime.material.base, runtime.scratch / "reference norms cold.json")
    yield Row("G4", f"worst error of a norm (reference: {100 * theirs:.2g} %)", 100 * ours, 0.1, False, " %")


def g5(runtime: Runtime) -> Iterator[Row]:
    """Cold Frobenius norms."""
    samples = runtime.cold(DEFAULT_RECIPE, "Frobenius")
    yield Row("G5", "r32 cold Frobenius norms, wall", ratio(samples["reference"], samples["ours"]).wall, 2)


def g6(runtime: Runtime) -> Iterator[Row]:
    """More recipes on one LoRA, and more LoRAs in one run."""
    runtime.warm("r32")  # norms are known from here on
    paths = [runtime.material.r32]
    commands = {
        "one": runtime.ours("one recipe", paths),
        "four": runtime.ours("four recipes", paths, FOUR_RECIPES),
    }
    runtime.measure("recipes", commands, runtime.options.pairs, warm_ups=1)
    one, four = (median(runtime.of("recipes")[name]).wall for name in ("one", "four"))
    yield Row("G6", "an extra recipe, share of a first run", (four - one) / 3 / one, 0.35, False)
    loras = copies(runtime.material.r32, runtime.scratch / "batch")
    commands = {
        "ours": runtime.ours("batch", loras),
        "reference, one thread": runtime.reference("batch", loras, threads=1),
    }
    runtime.measure("batch of 10", commands, runtime.options.slow_pairs)
    samples = runtime.of("batch of 10")
    found = ratio(samples["reference, one thread"], samples["ours"])
    yield Row("G6", f"batch of {BATCH} r32, wall, reference on one thread", found.wall, 2.5)


def g7(runtime: Runtime) -> Iterator[Row]:
    """Peak resident memory, mapped input included."""
    for lora, target in (("r32", 300.0), ("r128", 1.2 * 1024)):
        samples = runtime.warm(lora)
        yield Row("G7", f"{lora} warm, peak", median(samples["ours"]).peak / MIB, target, False, " MiB")
        share = 1 / ratio(samples["reference"], samples["ours"]).peak
        yield Row("G7", f"{lora} warm, peak, share of the reference", share, 0.35, False)
    peak = median(runtime.cold(DEFAULT_RECIPE, "Frobenius")["ours"]).peak / MIB
    yield Row("G7", "r32 cold, peak", peak, 512, False, " MiB")


def g8(runtime: Runtime) -> Iterator[Row]:
    """How far a warm run is from what this machine could do at best."""
    for lora, target in (("r32", 2.0), ("r128", 1.6)):
        limit = speed.limit_of(runtime, lora)
        wall = median(runtime.warm(lora)["ours"]).wall
        yield Row(
            "G8", f"{lora} warm, wall over the limit of {limit.seconds:.2f} s", wall / limit.seconds, target, False
        )


def g9(runtime: Runtime) -> Iterator[Row]:
    """Slow-down with busy neighbours, in turns with a quiet run."""
    command = runtime.ours("with busy neighbours", [runtime.material.r32])
    run(command)
    quiet, busy = [], []
    say(f"r32 with {NEIGHBOURS} busy neighbours x {runtime.options.pairs}")
    for _ in range(runtime.options.pairs):
        wait_for_quiet(runtime.options.patience)
        quiet.append(run(command))
        with busy_neighbours(NEIGHBOURS):
            busy.append(run(command))
    runtime.measured.update({"neighbours: quiet": quiet, "neighbours: busy": busy})
    yield Row("G9", f"slow-down with {NEIGHBOURS} busy neighbours", ratio(busy, quiet).wall, 2, False)


def g10(runtime: Runtime) -> Iterator[Row]:
    """Accuracy of what is written, and the promise of ``size=``."""
    from benchmarks.accuracy import delta_excess, worst_sigma_error

    for lora in ("r32", "r128"):
        runtime.warm(lora)
        written, count = runtime.written(f"{lora} warm"), runtime.options.samples
        excess = delta_excess(runtime.lora(lora), written, count)
        yield Row("G10", f"{lora}, error of the delta over that of exact factors", excess, 1.05, False)
        error = worst_sigma_error(runtime.lora(lora), count)
        yield Row("G10", f"{lora}, relative error of a singular value", error, 1e-6, False, "")
    yield Row("G10", "file made by size=, share of the target", size_share(runtime), 1, False)


def size_share(runtime: Runtime) -> float:
    """Bytes of the file on disk over those asked for: a quarter of the source, in whole hundredths of a MiB."""
    target = round(runtime.material.r32.stat().st_size / 4 / MIB, 2)
    run(runtime.ours("size", [runtime.material.r32], f"fro_ckpt=1,size={target}"))
    return runtime.written("size").stat().st_size / (target * MIB)


GOALS: Mapping[str, Callable[[Runtime], Iterator[Row]]] = {
    "G1": g1,
    "G2": g2,
    "G3": g3,
    "G4": g4,
    "G5": g5,
    "G6": g6,
    "G7": g7,
    "G8": g8,
    "G9": g9,
    "G10": g10,
    **speed.GOALS,
}


# The report


def report(runtime: Runtime, rows: Sequence[Row], failures: Mapping[str, str], small: bool) -> str:
    """Everything as Markdown."""
    note = "Tiny files: the ratios show start-up times, and the goals do not apply.\n" if small else ""
    sections = [machine(runtime.options), note, goal_table(rows), sample_table(runtime.measured)]
    sections += [limit_table(lora, limit) for lora, limit in runtime.limits.items()]
    sections += [f"{goal} could not be measured:\n\n```\n{text}\n```\n" for goal, text in failures.items()]
    return "\n".join(section for section in sections if section)


def machine(options: Options) -> str:
    """What ran where."""
    names = ("numpy", "torch", "safetensors")
    versions = ", ".join(f"{name} {installed(name)}" for name in names)
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (
        f"{processor()}, {options.cores} cores, {platform.system()}{load}; "
        f"Python {platform.python_version()}, {versions}; medians of {options.pairs} interleaved pairs "
        f"(slow jobs: {options.slow_pairs}).\n"
    )


def installed(name: str) -> str:
    """Version of a distribution."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def processor() -> str:
    """The processor's name, if the system has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def goal_table(rows: Sequence[Row]) -> str:
    """Goals and results."""
    lines = ["| goal | measure | reached | wanted | |", "|---|---|---|---|---|"]
    for row in rows:
        sign = "≥" if row.at_least else "≤"
        value, target = f"{row.value:.3g}{row.unit}", f"{sign} {row.target:.4g}{row.unit}"
        lines.append(f"| {row.goal} | {row.what} | {value} | {target} | {'met' if row.met else '**missed**'} |")
    return "\n".join(lines) + "\n"


def sample_table(measured: Mapping[str, Sequence[Sample]]) -> str:
    """Medians and spread of every job, and how many cores other processes kept busy meanwhile."""
    lines = [
        "| job | wall s, median (min .. max) | CPU s | peak MiB | others' cores | n |",
        "|---|---|---|---|---|---|",
    ]
    for name, samples in measured.items():
        middle, walls = median(samples), [sample.wall for sample in samples]
        wall = f"{middle.wall:.2f} ({min(walls):.2f} .. {max(walls):.2f})"
        lines.append(
            f"| {name} | {wall} | {middle.cpu:.2f} | {middle.peak / MIB:.0f} | {middle.others:.1f} | {len(samples)} |"
        )
    return "\n".join(lines) + "\n"


def limit_table(lora: str, limit: Limit) -> str:
    """Addends of the limit, in seconds of one thread."""
    lines = [f"| limit of {lora}, warm | seconds |", "|---|---|"]
    lines += [f"| {part.name}, one thread | {part.seconds:.3f} |" for part in limit.parts]
    lines.append(f"| start of the interpreter and numpy, not shared | {limit.start_up:.3f} |")
    lines.append(f"| **wall on {limit.cores} cores** | **{limit.seconds:.3f}** |")
    lines.append(f"| not counted: SHA-256 of the source for our record | {limit.source_hash:.3f} |")
    return "\n".join(lines) + "\n"


# The command


def make_material(folder: Path, model: Model) -> Material:
    """The files in ``folder``, made where they are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    material = Material(*(folder / f"{name}.safetensors" for name in ("base", "r32", "r128")))
    if not material.base.exists():
        say(f"making {material.base}")
        write_checkpoint(material.base, model)
    for path, rank in ((material.r32, 32), (material.r128, 128)):
        if not path.exists():
            say(f"making {path}")
            write_lora(path, LoraOptions(model, rank=rank, seed=rank))
    return material


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--goals", default=",".join(GOALS), help="which goals, separated by commas (default: all)")
    parser.add_argument("--pairs", type=int, default=5, help="interleaved runs of each command")
    parser.add_argument("--slow-pairs", type=int, default=1, help="the same for jobs that take minutes")
    parser.add_argument("--samples", type=int, default=40, help="layers sampled for accuracy")
    parser.add_argument("--per-shape", type=int, default=2, help="layers per shape for the full-matrix reference")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1, help="cores that share the limit")
    parser.add_argument("--patience", type=float, default=0.0, help="seconds that a round waits for a quiet machine")
    parser.add_argument("--prototype", type=Path, help="a script to compare with (S3), called as ours is")
    parser.add_argument("--material", type=Path, help="folder of base, r32 and r128.safetensors; made if missing")
    parser.add_argument("--size", choices=("full", "small"), default="full", help="of material that is made")
    parser.add_argument("--scratch", type=Path, help="folder for outputs and caches (default: a temporary one)")
    parser.add_argument("--output", type=Path, help="write the Markdown here too")
    return parser.parse_args(argv)


def measure_goals(runtime: Runtime) -> Iterator[tuple[list[Row], dict[str, str]]]:
    """Rows so far and why some could not be measured, after each goal: a run of hours may be cut short."""
    rows: list[Row] = []
    failures: dict[str, str] = {}
    for goal in runtime.options.goals:
        try:
            rows += GOALS[goal](runtime)
        except (CommandFailedError, subprocess.CalledProcessError) as error:
            failures[goal] = str(error)
            say(f"{goal} failed")
        yield rows, failures


def bench_in(folder: Path, options: argparse.Namespace) -> tuple[Runtime, bool]:
    """Return the bench whose temporary files are in ``folder``, and whether its files are tiny."""
    goals = [goal.strip().upper() for goal in options.goals.split(",")]
    unknown = [goal for goal in goals if goal not in GOALS]
    if unknown:
        raise SystemExit(f"unknown goals {', '.join(unknown)}; known are {', '.join(GOALS)}")
    chosen = Options(
        goals=goals,
        pairs=options.pairs,
        slow_pairs=options.slow_pairs,
        samples=options.samples,
        per_shape=options.per_shape,
        cores=options.cores,
        patience=options.patience,
        prototype=options.prototype,
    )
    model = SMALL if options.size == "small" else FULL
    material = make_material(options.material or folder / "material", model)
    scratch = options.scratch or folder / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    return Runtime(material, scratch, chosen), material.base.stat().st_size < 1 << 30


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code is 1 where a goal could not be measured."""
    options = arguments(argv)
    with tempfile.TemporaryDirectory() as folder:
        runtime, small = bench_in(Path(folder), options)
        for rows, failures in measure_goals(runtime):
            text = report(runtime, rows, failures, small)
            if options.output:
                options.output.write_text(text, "utf-8")
    sys.stdout.write(text)
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
