"""``resize-lora demo``."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from ..files.target import RESULT, check_folder, check_target
from ..files.walk import is_file
from ..prompts.sources import expand
from ..recipe.grammar import parse_recipes
from .command import Command
from .output import RunOptions

TEMPORARY = "resize-lora-demo-"
"""Prefix of the demo's temporary folders."""
_RECIPES = "medium:fro_ckpt=1,thr=-3.5:fro_lora=1,size=0.25"
_DESCRIPTION = """\
Generate a small SDXL-shaped checkpoint and LoRAs, resize them with three recipes and print the results."""


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--keep", metavar="DIR", help="keep the files in this folder (default: a temporary folder, removed at the end)")
    add("-v", "--verbose", action="count", default=0, help="as for resize")


def run(arguments: argparse.Namespace) -> int:
    """Resize generated files."""
    if arguments.keep:
        status = _run_in(Path(arguments.keep), arguments.verbose)
        print(f"\nThe files are in {arguments.keep}.")
        return status
    with tempfile.TemporaryDirectory(prefix=TEMPORARY) as folder:
        return _run_in(Path(folder), arguments.verbose)


def _run_in(folder: Path, verbose: int) -> int:
    from ..engine.settings import Settings
    from .work import run_sources

    checkpoint, *loras = _files(folder)
    print(f"A small SDXL-shaped checkpoint and {len(loras)} LoRAs, resized with {_RECIPES}\n")
    settings = Settings(recipes=parse_recipes(_RECIPES), output=folder / "resized", base=checkpoint, overwrite=True)
    return run_sources(expand([str(path) for path in loras]), settings, RunOptions(verbose=verbose))


def _files(folder: Path) -> list[Path]:
    """Write a checkpoint and two LoRAs, and return their paths. Raises OutputError where another file has a name."""
    from ..demo.synthetic import LoraOptions, write_checkpoint, write_lora
    from ..files.atomic import write_whole

    check_folder(folder)
    paths = [folder / f"{name}.safetensors" for name in ("small_sdxl", "pastry", "ink_locon")]
    with tempfile.TemporaryDirectory(prefix=TEMPORARY) as name:
        made = [Path(name) / path.name for path in paths]
        write_checkpoint(made[0])
        write_lora(made[1], LoraOptions(rank=32, seed=1))
        write_lora(made[2], LoraOptions(rank=16, conv=True, conv_rank=8, seed=2))
        data = [path.read_bytes() for path in made]
    missing = [(path, content) for path, content in zip(paths, data, strict=True) if not _is_same(path, content)]
    for path, _ in missing:
        check_target(path, RESULT, overwrite=False)
    for path, content in missing:
        write_whole(path, content)
    return paths


def _is_same(path: Path, content: bytes) -> bool:
    """Return whether an earlier demo wrote the file."""
    return is_file(path) and path.stat().st_size == len(content) and path.read_bytes() == content


COMMAND = Command("demo", _DESCRIPTION, _add_options, run)
