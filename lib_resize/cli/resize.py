"""``resize-lora resize``."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ResizeError, UsageError
from ..files.walk import is_file, is_folder
from ..prompts.sources import expand
from ..recipe.grammar import DEFAULT_WITH_BASE, DEFAULT_WITHOUT_BASE, METHOD_NUMBERS, METHODS, Recipe, with_method_items
from .command import Command
from .options import RECIPES_HELP, add_batch_options, add_recipe_options, gibibytes, whole_number
from .output import complain_of_folder, run_options
from .remote import add_remote_options, is_remote, run_remote
from .replacing import add_replace_options, check_options, run_replacing

if TYPE_CHECKING:
    from ..base.checkpoint import Checkpoint

_DESCRIPTION = """\
Resize LoRA files. If the first file is a checkpoint (recognized by its content), recipes can compare dimensions with
its layers. Folders are searched recursively; "style.safetensors:0.6,char.safetensors:0.4" merges before resizing."""


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("inputs", nargs="+", metavar="FILE", help="[checkpoint] LoRA files, folders, patterns or merges; URLs too")
    add_recipe_options(parser, f"{DEFAULT_WITH_BASE} with a checkpoint, {DEFAULT_WITHOUT_BASE} without")
    add("--method", choices=tuple(METHODS), help="how rank= recipes find the new factors (default: svd, exact)")
    add("--niter", type=whole_number, metavar="N", help="power iterations of rsvd (default: 2)")
    add("--oversample", type=whole_number, metavar="N", help="extra directions of rsvd (default: 8)")
    add("--seed", type=whole_number, metavar="N", help="random seed of rsvd, projection and sparse (default: 0)")
    add("--pad", action="store_true", help="pad layers with zeros up to rank=, so that all have the same rank")
    add("--max-vram", type=gibibytes, metavar="GIB", help="limit on GPU memory, such as 1.5, for use with a WebUI")
    add("--base", metavar="FILE", help="the checkpoint, as an option")
    add_batch_options(parser)
    add_replace_options(parser)
    add_remote_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Resize LoRA files."""
    recipes = _recipes(arguments)
    check_options(arguments, len(recipes))
    if is_remote(arguments):
        return run_remote(arguments, recipes)
    from .work import batch_settings, run_sources

    with contextlib.ExitStack() as stack:
        base, names = _base_and_loras(arguments)
        if base is not None:
            stack.callback(base.close)
        settings = batch_settings(arguments, recipes, base)
        if arguments.replace:
            return run_replacing(arguments, names, settings, run_options(arguments))
        return run_sources(expand(names, complain_of_folder), settings, run_options(arguments))


def _recipes(arguments: argparse.Namespace) -> tuple[Recipe, ...]:
    """Return the recipes, with what ``--method`` and its companions add to them."""
    words = [*([arguments.method] if arguments.method else []), *(["pad"] if arguments.pad else [])]
    numbers = [f"{name}={value}" for name in METHOD_NUMBERS if (value := getattr(arguments, name)) is not None]
    return with_method_items(arguments.score_recipes or (), [*words, *numbers])


def _base_and_loras(arguments: argparse.Namespace) -> tuple[Checkpoint | None, list[str]]:
    """Return the base model and the names of the LoRAs. The first name may be a checkpoint."""
    from ..base.checkpoint import Checkpoint

    names = list(arguments.inputs)
    if arguments.base:
        return Checkpoint(Path(arguments.base)), names
    first = _checkpoint(Path(names[0]))
    if first is None:
        return None, names
    if len(names) == 1:
        first.close()
        raise UsageError(f"{first.path} is a checkpoint; name the LoRA files after it.")
    return first, names[1:]


def _checkpoint(path: Path) -> Checkpoint | None:
    """Return the base model in a file or folder.

    None where there is none, and where the file cannot be read: the error is reported when the file is resized.
    """
    from ..base.checkpoint import Checkpoint
    from ..base.checkpoint_keys import looks_like_checkpoint
    from ..base.store import is_model_folder
    from ..files.reader import SafeFile

    if not is_file(path) and not is_folder(path):
        return None
    if is_model_folder(path) or (is_file(path) and path.suffix.lower() == ".gguf"):
        return Checkpoint(path)
    if not is_file(path):
        return None
    try:
        file = SafeFile(path)
    except ResizeError:
        return None
    if looks_like_checkpoint(file.header.entries):
        return Checkpoint(file)
    file.close()
    return None


COMMAND = Command("resize", _DESCRIPTION, _add_options, run, RECIPES_HELP)
