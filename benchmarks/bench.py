"""What is measured with what: the files, our commands and those of the references, and all samples so far."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness import MIB, ONE_THREAD, Command, Part, Sample, interleave, limit_seconds

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_RECIPE = "fro_ckpt=1,thr=-3.5"
SPECTRAL_RECIPE = "spn_ckpt=1,thr=-2.5"
FOUR_RECIPES = "fro_ckpt=1,thr=-3.5:fro_ckpt=1,thr=-3.4:fro_ckpt=1,thr=-3.6:spn_lora=1,thr=-0.7"
BATCH = 10


@dataclass(frozen=True)
class Material:
    """A checkpoint and LoRAs of rank 32 and 128."""

    base: Path
    r32: Path
    r128: Path


@dataclass(frozen=True)
class Row:
    """One line of the table: a number, its goal, and on which side of the goal it should lie."""

    goal: str
    what: str
    value: float
    target: float
    at_least: bool = True
    unit: str = "x"

    @property
    def met(self) -> bool:
        """Whether the goal is reached."""
        return self.value >= self.target if self.at_least else self.value <= self.target


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    goals: Sequence[str]
    pairs: int
    slow_pairs: int
    samples: int
    per_shape: int
    cores: int
    patience: float = 0.0
    prototype: Path | None = None
    """A script to compare with, which is called as ours is; see S3."""


@dataclass(frozen=True)
class Limit:
    """What bounds one job: shared addends, the start that is not shared, and what the record asks for besides."""

    parts: Sequence[Part]
    cores: int
    start_up: float
    source_hash: float

    @property
    def seconds(self) -> float:
        """Wall seconds at best, the hash of the source not counted."""
        return limit_seconds(self.parts, self.cores, self.start_up)


@dataclass
class Runtime:
    """Material, a folder for outputs and caches, and all that was measured so far."""

    material: Material
    scratch: Path
    options: Options
    measured: dict[str, list[Sample]] = field(default_factory=dict)
    limits: dict[str, Limit] = field(default_factory=dict)

    def lora(self, name: str) -> Path:
        """The LoRA called r32 or r128."""
        return self.material.r32 if name == "r32" else self.material.r128

    def ours(self, job: str, loras: Sequence[Path], recipe: str = DEFAULT_RECIPE, cold: bool = False) -> Command:
        """Our command line; ``cold`` starts without known norms."""
        output, cache = self.scratch / f"ours {job}", self.scratch / f"our cache{' cold' * cold}"
        words = ["-m", "lib_resize", "resize", str(self.material.base), *map(str, loras)]
        return Command(
            [sys.executable, *words, "-o", str(output), "-r", recipe],
            {"PYTHONPATH": str(ROOT), "RESIZE_LORA_CACHE": str(cache)},
            [output, cache] if cold else [output],
        )

    def reference(
        self,
        job: str,
        loras: Sequence[Path],
        recipe: str = DEFAULT_RECIPE,
        cold: bool = False,
        threads: int = 0,
    ) -> Command:
        """The reference path by QR and SVD; ``threads`` 0 leaves torch its default."""
        output, norms = (
            self.scratch / f"reference {job}",
            self.scratch / f"reference norms{' cold' * cold}.json",
        )
        words = [str(Path(__file__).with_name("references.py")), str(self.material.base), *map(str, loras)]
        return Command(
            [sys.executable, *words, "-o", str(output), "-r", recipe, "--norms", str(norms)],
            ONE_THREAD if threads == 1 else {},
            [output, norms] if cold else [output],
        )

    def measure(self, job: str, commands: Mapping[str, Command], pairs: int, warm_ups: int = 0) -> None:
        """Interleave the commands and remember their samples under "job: name"."""
        say(f"{job}: {', '.join(commands)} x {pairs}")
        for name, samples in interleave(commands, pairs, warm_ups, self.options.patience).items():
            self.measured[f"{job}: {name}"] = samples

    def warm(self, lora: str) -> dict[str, list[Sample]]:
        """One LoRA by the default recipe, norms known: ours, the reference, the reference on one thread."""
        paths, job = [self.lora(lora)], f"{lora} warm"
        if self.of(job):
            return self.of(job)
        commands = {
            "ours": self.ours(job, paths),
            "reference": self.reference(job, paths),
            "reference, one thread": self.reference(f"{job} 1", paths, threads=1),
        }
        if self.options.prototype is not None:
            commands["prototype"] = self.prototype(self.options.prototype, paths)
        self.measure(job, commands, self.options.pairs, warm_ups=1)
        return self.of(job)

    def prototype(self, script: Path, loras: Sequence[Path]) -> Command:
        """Return the command of a prototype, which takes checkpoint, LoRAs, ``-o``, ``-r`` and ``--cache``."""
        output = self.scratch / "prototype"
        output.mkdir(exist_ok=True)
        words = [str(script), str(self.material.base), *map(str, loras), "-o", str(output), "-r", DEFAULT_RECIPE]
        return Command([sys.executable, *words, "--cache", str(self.scratch / "prototype norms.json")])

    def cold(self, recipe: str, kind: str) -> dict[str, list[Sample]]:
        """The LoRA of rank 32 when no norm of the base is known; the files are in the page cache."""
        paths, job = [self.material.r32], f"r32 cold {kind}"
        if self.of(job):
            return self.of(job)
        commands = {
            "ours": self.ours(job, paths, recipe, cold=True),
            "reference": self.reference(job, paths, recipe, cold=True),
        }
        pairs = self.options.slow_pairs if kind == "spectral" else self.options.pairs
        read_through(self.material.base)
        self.measure(job, commands, pairs)
        return self.of(job)

    def of(self, job: str) -> dict[str, list[Sample]]:
        """Samples of one job by command."""
        return {key.partition(": ")[2]: value for key, value in self.measured.items() if key.startswith(f"{job}: ")}

    def written(self, job: str) -> Path:
        """The one file that our last run of a job wrote."""
        (path,) = (self.scratch / f"ours {job}").glob("*.safetensors")
        return path


def read_through(path: Path) -> None:
    """Bring a file into the page cache, as far as it fits."""
    with path.open("rb") as file:
        while file.read(64 * MIB):
            pass


def say(text: str) -> None:
    """Print progress to stderr, so that stdout has the table alone."""
    sys.stderr.write(f"[{text}]\n")
    sys.stderr.flush()


def copies(source: Path, folder: Path) -> list[Path]:
    """The same LoRA under ten names, without more disk where links can be had."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"lora {index}.safetensors" for index in range(BATCH)]
    for path in paths:
        if not path.exists():
            link(source, path)
    return paths


def link(source: Path, target: Path) -> None:
    """Make a link, or a copy where links cannot be had."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
