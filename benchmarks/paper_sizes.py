"""Sizes of full-shape SDXL LoRAs before and after ``rank=1``, next to those that a paper reports.

``python -m benchmarks.paper_sizes`` needs no weights: files are made with their true header and nothing but holes
behind it, and the size of the new file is what a plan promises. ``--write 4`` makes that rank in full, resizes it and
compares; the two may differ by the digits of the retention and the length of the name.
The paper's "MB" are MiB (2^20 bytes).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib_resize.adapters.layer import Layer
from lib_resize.adapters.read.adapter import read_adapter
from lib_resize.adapters.write.style import Style
from lib_resize.demo.models import FULL, Model
from lib_resize.demo.synthetic import LoraOptions, lora_metadata, lora_specs, write_lora
from lib_resize.engine.analysis import Analysis
from lib_resize.engine.batch import resize
from lib_resize.engine.planning import prepare
from lib_resize.engine.settings import Settings
from lib_resize.files.header import encode
from lib_resize.files.reader import SafeFile
from lib_resize.linalg.factor import Spectrum
from lib_resize.prompts.sources import expand
from lib_resize.recipe.grammar import parse_recipe, parse_recipes
from lib_resize.recipe.scores import LayerFacts

MIB = 1 << 20
PAPER_RANK_1 = 7.29


@dataclass(frozen=True)
class Kind:
    """A LoRA that a row of the paper's table 2 may be: its rank, the paper's sizes in MiB, and how it is made."""

    rank: int
    paper: tuple[float, ...]
    what: str
    options: LoraOptions


def kinds(model: Model = FULL) -> list[Kind]:
    """The ranks of the table; where one way of training does not give the size, the one that does."""

    def made(rank: int, **more: object) -> LoraOptions:
        return LoraOptions(model=model, rank=rank, **more)  # type: ignore[arg-type]

    both, unet = "UNet and text encoders, F16", "UNet alone"
    return [
        Kind(4, (27.67, 27.69), both, made(4)),
        Kind(8, (54.76, 54.84), both, made(8)),
        Kind(16, (162.64,), f"{unet}, F32", made(16, text_encoders=False, dtype="F32")),
        Kind(32, (217.87, 217.88, 217.93), both, made(32)),
        Kind(64, (649.68, 649.69), f"{unet}, F32", made(64, text_encoders=False, dtype="F32")),
        Kind(64, (485.95,), f"{both}, with convolutions", made(64, conv=True)),
        Kind(128, (750.87,), f"{unet}, F16, with convolutions", made(128, text_encoders=False, conv=True)),
        Kind(128, (860.02,), both, made(128)),
    ]


@dataclass(frozen=True)
class Row:
    kind: Kind
    before: int
    """Bytes of the file."""
    after: int
    """Bytes after ``rank=1``."""


def measure(chosen: Sequence[Kind]) -> Iterator[Row]:
    """Sizes by headers alone."""
    with tempfile.TemporaryDirectory() as folder:
        for kind in chosen:
            path = _hollow(Path(folder) / f"r{kind.rank}.safetensors", kind.options)
            yield Row(kind, path.stat().st_size, _planned(path))
            path.unlink()


def _hollow(path: Path, options: LoraOptions) -> Path:
    """A sparse file with the right header and size."""
    specs = lora_specs(options)
    header = encode(specs, lora_metadata(options))
    with open(path, "wb") as file:
        file.write(header)
        file.truncate(len(header) + sum(spec.nbytes for spec in specs))
    return path


def _planned(path: Path) -> int:
    """Bytes of ``rank=1``. The singular values do not matter for the size, but for layers of zeros."""
    with SafeFile(path) as file:
        adapter = read_adapter(file)
        facts = tuple(
            LayerFacts(layer.stem, _values(layer), layer.form.parameters_per_rank) for layer in adapter.layers
        )
        nothing = np.zeros((0, 0), np.float32)
        spectra = tuple(Spectrum(one.s, nothing, nothing) for one in facts)
        recipe = parse_recipe("rank=1")
        place = path.with_name("r1.safetensors")
        return prepare(Analysis(adapter, spectra, facts), recipe, Style(), lambda _: place).plan.bytes_after


def _values(layer: Layer) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Kohya's trainer never trains the last layer of SDXL's first text encoder: its up stays zero."""
    return np.full(layer.rank, 0.0 if "lora_te1_text_model_encoder_layers_11_" in layer.stem else 1.0)


def written(kind: Kind) -> Row:
    """The same by writing and resizing the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_lora(Path(folder) / f"r{kind.rank}.safetensors", kind.options)
        settings = Settings(recipes=parse_recipes("rank=1"), suffix="_1")
        (outcome,) = resize(expand([str(path)]), settings)
        if outcome.error is not None or outcome.plan is None:
            raise RuntimeError(f"{path}: {outcome.error}")
        return Row(kind, path.stat().st_size, Path(outcome.plan.output).stat().st_size)


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| rank | made as | MiB | paper | rank 1, MiB | paper |", "|---|---|---|---|---|---|"]
    for row in rows:
        paper = ", ".join(f"{size:.2f}" for size in row.kind.paper)
        sizes = f"{row.before / MIB:.2f} | {paper} | {row.after / MIB:.2f} | {PAPER_RANK_1}"
        lines.append(f"| {row.kind.rank} | {row.kind.what} | {sizes} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Sizes before and after rank=1, next to a paper's.")
    parser.add_argument("--write", type=int, metavar="RANK", help="write this rank in full and compare")
    chosen = parser.parse_args(arguments)
    sys.stdout.write(table(list(measure(kinds()))) + "\n")
    for kind in kinds():
        if kind.rank == chosen.write:
            row = written(kind)
            sys.stdout.write(f"written: rank {kind.rank}, {kind.what}: {row.before} bytes, rank 1: {row.after} bytes\n")
            (planned,) = measure([kind])
            sys.stdout.write(f"planned: {planned.before} and {planned.after} bytes\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
