"""``resize-lora upsample``."""

from __future__ import annotations

import argparse

from ..prompts.sources import expand
from ..recipe.grammar import parse_recipes
from .command import Command
from .options import add_batch_options, add_output_options, rank, whole_number
from .output import complain_of_folder, run_options

_DESCRIPTION = """\
Expand the rank of every layer without changing its delta: down gets new directions, orthonormal to the old ones, and
up gets zeros for them. For programs that need all LoRAs at one rank, and for further training at a larger rank."""


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("inputs", nargs="+", metavar="FILE", help="LoRA files, folders or patterns")
    add("--rank", type=rank, required=True, metavar="N", help="new rank of every layer; no layer may have more")
    add("--seed", type=whole_number, default=0, metavar="N", help="random seed of the new directions (default: 0)")
    add_output_options(parser, dtype="same")
    add_batch_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Expand the rank of LoRA files."""
    from .work import batch_settings, run_sources

    recipes = parse_recipes(f"rank={arguments.rank},extend,seed={arguments.seed}")
    sources = expand(arguments.inputs, complain_of_folder)
    return run_sources(sources, batch_settings(arguments, recipes), run_options(arguments))


COMMAND = Command("upsample", _DESCRIPTION, _add_options, run)
