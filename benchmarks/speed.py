"""The goals S1 to S10: CPU seconds and wall time against the reference on one thread, a prototype and the limit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from benchmarks.bench import BATCH, DEFAULT_RECIPE, ROOT, SPECTRAL_RECIPE, Limit, Row, Runtime, copies, say
from benchmarks.harness import (
    MIB,
    ONE_THREAD,
    Command,
    header_shapes,
    layers_of,
    limit_parts,
    measured_limits,
    median,
    ranks_of,
    ratio,
)
from benchmarks.webui import s9

HEADERS = 200
"""Files with equal headers that are listed, to know what one more costs."""
_ALONE = "reference, one thread"


def s1(runtime: Runtime) -> Iterator[Row]:
    """Rank 32, norms cached, against the reference on one thread."""
    yield from _warm(runtime, "S1", "r32", cpu=4.5, wall=4.0)


def s2(runtime: Runtime) -> Iterator[Row]:
    """The same at rank 128."""
    yield from _warm(runtime, "S2", "r128", cpu=3.0, wall=4.0)


def _warm(runtime: Runtime, goal: str, lora: str, cpu: float, wall: float) -> Iterator[Row]:
    samples = runtime.warm(lora)
    found = ratio(samples[_ALONE], samples["ours"])
    yield Row(goal, f"{lora} warm, CPU, reference on one thread", found.cpu, cpu)
    yield Row(goal, f"{lora} warm, wall, reference on one thread", found.wall, wall)


def s3(runtime: Runtime) -> Iterator[Row]:
    """Share of a prototype's CPU seconds; nothing without one."""
    if runtime.options.prototype is None:
        return
    for lora, target in (("r32", 0.75), ("r128", 0.95)):
        samples = runtime.warm(lora)
        share = 1 / ratio(samples["prototype"], samples["ours"]).cpu
        yield Row("S3", f"{lora} warm, CPU, share of the prototype's", share, target, False)


def s4(runtime: Runtime) -> Iterator[Row]:
    """Cold spectral and Frobenius norms together, against the reference's spectral norms."""
    from benchmarks.accuracy import worst_norm_errors

    samples = runtime.cold(SPECTRAL_RECIPE, "spectral")
    yield Row("S4", "r32 cold, both norms, CPU", ratio(samples["reference"], samples["ours"]).cpu, 6.0)
    ours, _ = worst_norm_errors(runtime.material.base, runtime.scratch / "reference norms cold.json")
    yield Row("S4", "worst error of a norm", 100 * ours, 0.01, False, " %")


def s5(runtime: Runtime) -> Iterator[Row]:
    """Cold Frobenius norms, against the reference, and against reading, casting and multiplying alone."""
    cold, warm = runtime.cold(DEFAULT_RECIPE, "Frobenius"), runtime.warm("r32")
    yield Row("S5", "r32 cold Frobenius norms, CPU", ratio(cold["reference"], cold["ours"]).cpu, 2.5)
    needed = _in_one_thread("reading_seconds", str(runtime.material.base))
    norms = median(cold["ours"]).cpu - median(warm["ours"]).cpu
    what = f"CPU of the norms over reading, casting and multiplying ({needed:.2f} s)"
    yield Row("S5", what, norms / needed, 1.6, False)


def reading_seconds(base: str) -> float:
    """CPU seconds of one thread that reads a float16 checkpoint, casts it to float32 and squares it, and no more."""

    import numpy as np

    from lib_resize.linalg.casts import widen

    piece = np.empty(1 << 17, np.uint16)
    wide = np.empty(piece.size, np.float32)
    begun = time.process_time()
    with open(base, "rb", buffering=0) as file, np.errstate(invalid="ignore"):  # the header is no numbers
        while (count := file.readinto(piece.data) // 2) > 0:
            widen(piece[:count], "F16", wide[:count])
            np.dot(wide[:count], wide[:count])
    return time.process_time() - begun


def s6(runtime: Runtime) -> Iterator[Row]:
    """Ten files in one run, and one more of many headers that say the same."""
    loras = copies(runtime.material.r32, runtime.scratch / "batch")
    runtime.warm("r32")  # norms are known from here on
    commands = {
        "one": runtime.ours("one of ten", loras[:1]),
        f"ten in {BATCH}": runtime.ours("ten", loras),
    }
    runtime.measure("one and ten", commands, runtime.options.pairs)
    one, ten = (median(runtime.of("one and ten")[name]).cpu for name in commands)
    yield Row("S6", f"{BATCH} r32 in one run, CPU of each, share of a single run", ten / BATCH / one, 0.7, False)
    folder = many_headers(runtime.material.r32, runtime.scratch / "headers")
    say(f"{HEADERS} headers")
    each = 1000 * _in_one_thread("listing_seconds", str(folder))
    yield Row("S6", "one more header that says the same, in a list, CPU", each, 10.0, False, " ms")
    each = 1000 * _in_one_thread("survey_seconds", str(folder))
    yield Row("S6", "the same, in a survey, CPU", each, 10.0, False, " ms")


def many_headers(source: Path, folder: Path) -> Path:
    """Make sparse files whose headers differ in their metadata only, each with a number of its own in a matrix."""
    folder.mkdir(exist_ok=True)
    with source.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = source.stat().st_size - file.tell()
    matrices = [entry for key, entry in header.items() if key != "__metadata__" and len(entry["shape"]) >= 2]
    middle = sum(matrices[0]["data_offsets"]) // 4 * 2
    for index in range(HEADERS):
        header["__metadata__"] = {**header.get("__metadata__", {}), "ss_output_name": f"number {index}"}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with (folder / f"{index}.safetensors").open("wb") as made:
            made.write(len(text).to_bytes(8, "little") + text)
            made.truncate(made.tell() + data)
            made.seek(middle, os.SEEK_CUR)
            made.write(index.to_bytes(2, "little"))
    return folder


def listing_seconds(folder: str) -> float:
    """CPU seconds of each further file when the headers of a folder are read for a list."""

    from lib_resize.studies.catalogue import facts_of_alike, read_facts

    alike = facts_of_alike()
    first, *others = sorted(Path(folder).glob("*.safetensors"))
    read_facts(first, alike)
    begun = time.process_time()
    for path in others:
        read_facts(path, alike)
    return (time.process_time() - begun) / len(others)


def survey_seconds(folder: str) -> float:
    """CPU seconds of each file until ``library`` has read all headers of a folder, the first among them."""
    import contextlib

    from lib_resize.errors import Cancelled
    from lib_resize.studies.survey import Survey, SurveyOptions, survey

    found: list[float] = []

    def stop(headers: Survey) -> None:
        found.append((time.process_time() - begun) / len(headers.entries))
        raise Cancelled

    begun = time.process_time()
    with contextlib.suppress(Cancelled):
        survey(Path(folder), SurveyOptions(cache=Path(folder) / "figures.json", on_headers=stop))
    (Path(folder) / "figures.json").unlink()
    return found[0]


def s7(runtime: Runtime) -> Iterator[Row]:
    """Peak resident memory."""
    for lora, target in (("r32", 260.0), ("r128", 1024.0)):
        yield Row("S7", f"{lora} warm, peak", median(runtime.warm(lora)["ours"]).peak / MIB, target, False, " MiB")
    for recipe, kind in ((DEFAULT_RECIPE, "Frobenius"), (SPECTRAL_RECIPE, "spectral")):
        peak = median(runtime.cold(recipe, kind)["ours"]).peak / MIB
        yield Row("S7", f"r32 cold {kind}, peak", peak, 300.0, False, " MiB")


def s8(runtime: Runtime) -> Iterator[Row]:
    """Wall time and CPU seconds over the limit that this machine sets."""
    for lora, target in (("r32", 2.0), ("r128", 1.5)):
        limit, ours = limit_of(runtime, lora), median(runtime.warm(lora)["ours"])
        cpu = sum(part.seconds for part in limit.parts) + limit.start_up + limit.source_hash
        yield Row("S8", f"{lora} warm, wall over {limit.seconds:.2f} s", ours.wall / limit.seconds, target, False)
        yield Row("S8", f"{lora} warm, CPU over {cpu:.2f} s, source hashed", ours.cpu / cpu, target, False)


def limit_of(runtime: Runtime, lora: str) -> Limit:
    """Return what bounds a warm run, from rates that are measured once."""
    if lora not in runtime.limits:
        limits = measured_limits([8, 16, 32, 64, 128])
        for name in ("r32", "r128"):
            runtime.warm(name)
            kept = ranks_of(header_shapes(runtime.written(f"{name} warm")))
            parts = limit_parts(layers_of(header_shapes(runtime.lora(name)), kept), limits)
            source_hash = runtime.lora(name).stat().st_size / limits.sha256
            runtime.limits[name] = Limit(parts, runtime.options.cores, limits.start_up, source_hash)
    return runtime.limits[lora]


def s10(runtime: Runtime) -> Iterator[Row]:
    """CPU seconds of ``--help``, and of importing the package with its parser, beyond Python's own."""
    ours = {"PYTHONPATH": str(ROOT)}
    commands = {
        "python": Command([sys.executable, "-c", "pass"], ours),
        "--help": Command([sys.executable, "-m", "lib_resize", "--help"], ours),
        "import and parser": Command(
            [sys.executable, "-c", "import lib_resize; from lib_resize.cli.main import parser; parser('')"], ours
        ),
    }
    runtime.measure("start", commands, 2 * runtime.options.pairs, warm_ups=1)
    seconds = {name: median(runtime.of("start")[name]).cpu for name in commands}
    for name in ("--help", "import and parser"):
        beyond = 1000 * (seconds[name] - seconds["python"])
        yield Row("S10", f"{name}, CPU beyond Python's own", beyond, 25.0, False, " ms")


GOALS: Mapping[str, Callable[[Runtime], Iterator[Row]]] = {
    "S1": s1,
    "S2": s2,
    "S3": s3,
    "S4": s4,
    "S5": s5,
    "S6": s6,
    "S7": s7,
    "S8": s8,
    "S9": s9,
    "S10": s10,
}


def _in_one_thread(name: str, argument: str) -> float:
    """Return the result of a function of this module, in a process whose numpy has one thread."""
    words = [sys.executable, "-m", "benchmarks.speed", name, argument]
    done = subprocess.run(words, env={**os.environ, **ONE_THREAD}, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    return float(done.stdout)


_MEASURES: Mapping[str, Callable[[str], float]] = {
    "reading_seconds": reading_seconds,
    "listing_seconds": listing_seconds,
    "survey_seconds": survey_seconds,
}

if __name__ == "__main__":
    sys.stdout.write(str(_MEASURES[sys.argv[1]](sys.argv[2])))
