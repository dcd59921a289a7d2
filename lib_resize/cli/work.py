"""From parsed options to the settings of the engine. It imports numpy: commands import it when they run."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..adapters.write.style import DTYPES, Style
from ..base.checkpoint import Checkpoint
from ..engine.batch import resize as resize_all
from ..engine.settings import Settings, inputs_of
from ..errors import UsageError
from ..files.walk import is_folder
from ..prompts.sources import SUFFIX, Source
from ..recipe.grammar import Recipe
from .output import RunOptions, run_and_print


def settings_of(arguments: argparse.Namespace, recipes: tuple[Recipe, ...], base: Checkpoint | None = None) -> Settings:
    """Return the settings that every command that writes has."""
    return Settings(
        recipes=recipes,
        base=base,
        style=Style(
            dtype=DTYPES[arguments.output_dtype],
            kohya=getattr(arguments, "naming", "keep") == "kohya",
            convert=getattr(arguments, "convert", "auto"),
        ),
        device=getattr(arguments, "device", None),
        threads=arguments.threads,
        max_vram=getattr(arguments, "max_vram", None),
        dry_run=arguments.dry_run,
        overwrite=arguments.overwrite,
        sidecars=not getattr(arguments, "no_sidecars", True),
    )


def batch_settings(
    arguments: argparse.Namespace, recipes: tuple[Recipe, ...], base: Checkpoint | None = None
) -> Settings:
    """Return the settings of `resize` and `upsample`, which work on many files."""
    return replace(
        settings_of(arguments, recipes, base),
        output=Path(arguments.output_folder) if arguments.output_folder else None,
        suffix=arguments.suffix,
        skip_existing=arguments.skip_existing,
    )


def run_sources(sources: Sequence[Source], settings: Settings, options: RunOptions) -> int:
    """Resize the sources, print the outcomes, and return the exit status."""
    inputs = inputs_of(sources, settings.inputs)
    inputs.add(*(settings.base.paths if isinstance(settings.base, Checkpoint) else ()))
    return run_and_print(lambda bars: resize_all(sources, settings, bars), len(sources), inputs, options)


def output_of(text: str | None, recipes: int) -> tuple[Path | None, Path | None]:
    """Return the folder and the file that ``-o`` names, one of them at most. Raises UsageError."""
    if text is None or is_folder(Path(text)) or text.endswith(("/", os.sep)):
        return (Path(text) if text else None), None
    if recipes > 1:
        raise UsageError(f"-o {text}: one file cannot hold the results of {recipes} recipes; name a folder.")
    path = Path(text)
    if not path.name:
        raise UsageError(f"-o {text!r} is not a file name. Name the new file, or a folder.")
    return None, path if path.suffix.lower() == SUFFIX else path.with_name(path.name + SUFFIX)
