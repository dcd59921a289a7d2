"""``resize-lora extract``."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..files.target import Inputs
from ..recipe.grammar import Recipe, parse_recipes
from .command import Command
from .options import RECIPES_HELP, add_recipe_options, mebibytes, rank, rank_or_zero
from .output import run_and_print, run_options

if TYPE_CHECKING:
    from ..extraction.models import ExtractOptions

_DESCRIPTION = """\
Extract the difference of two checkpoints of one model family as a LoRA: BASE with the LoRA is nearly TUNED. Layers are
read one at a time. The part that the ranks cannot hold is reported; biases and norms, which a LoRA does not have, are
counted."""
_DEFAULT_RECIPE = "rank=64"


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("tuned", metavar="TUNED", help="the checkpoint that the LoRA should reproduce")
    add("base", metavar="BASE", help="the checkpoint to which the LoRA is applied")
    add("-o", "--output", metavar="FILE", help="the new file, or a folder for it (default: next to TUNED)")
    add("--rank", type=rank, metavar="N", help="the same rank in every layer (default: 64)")
    add("--size", type=mebibytes, metavar="MB", help="keep the strongest dimensions that fit in this many MiB")
    add("--conv-rank", type=rank_or_zero, metavar="N", help="rank of convolutions larger than 1x1; 0 omits them")
    add("--max-rank", type=rank, metavar="N", help="dimensions to compute for each layer (default: 128 with a recipe)")
    add("--no-te", action="store_true", help="only the UNet, without text encoders")
    add(
        "--all-layers",
        action="store_true",
        help="include the first and last convolution, time and label embedding, and the text projection",
    )
    add("--biases", action="store_true", help="include biases and the UNet's norms, which not all hosts load")
    add_recipe_options(parser, "--rank 64")


def run(arguments: argparse.Namespace) -> int:
    """Extract the difference of two checkpoints as a LoRA."""
    from ..base.checkpoint import Checkpoint
    from ..extraction.extract import extract
    from .work import output_of, settings_of

    recipes = _recipes(arguments)
    folder, target = output_of(arguments.output, len(recipes))
    with contextlib.ExitStack() as stack:
        tuned = Checkpoint(Path(arguments.tuned))
        stack.callback(tuned.close)
        base = Checkpoint(Path(arguments.base))
        stack.callback(base.close)
        inputs = Inputs((*tuned.paths, *base.paths))
        settings = replace(settings_of(arguments, recipes), output=folder, target=target, inputs=inputs)
        chosen = _extract_options(arguments, recipes)
        work = lambda bars: extract(tuned, base, chosen, settings, bars)  # noqa: E731
        return run_and_print(work, 1, inputs, run_options(arguments))


def _recipes(arguments: argparse.Namespace) -> tuple[Recipe, ...]:
    texts = [f"rank={arguments.rank}"] if arguments.rank else []
    texts += [f"fro_lora=1,size={arguments.size}"] if arguments.size else []
    if len(texts) + bool(arguments.score_recipes) > 1:
        raise UsageError("use only one of --rank, --size and -r.")
    conv = f",max_conv_rank={arguments.conv_rank}" if arguments.conv_rank else ""
    return arguments.score_recipes or parse_recipes((texts or [_DEFAULT_RECIPE])[0] + conv)


def _extract_options(arguments: argparse.Namespace, recipes: Sequence[Recipe]) -> ExtractOptions:
    """Return options with as many dimensions as any of the recipes could keep."""
    from ..extraction.models import DEFAULT_RANK, ExtractOptions

    most = [int(recipe.value) if recipe.selection == "rank" else recipe.max_rank for recipe in recipes]
    count = arguments.max_rank or max(DEFAULT_RANK if one is None else one for one in most)
    return ExtractOptions(count, arguments.conv_rank, not arguments.no_te, arguments.all_layers, arguments.biases)


COMMAND = Command("extract", _DESCRIPTION, _add_options, run, RECIPES_HELP)
