"""``resize-lora merge``."""

from __future__ import annotations

import argparse
import contextlib
from dataclasses import replace
from pathlib import Path

from ..errors import UsageError
from ..files.target import Inputs
from ..prompts.lookup import LoraFolders, presets_of
from ..prompts.sources import Source, of_members, of_prompt
from ..prompts.tags import check_bakeable, parse_prompt
from ..recipe.grammar import ALL_RANKS, parse_recipes
from .command import Command
from .options import (
    RECIPES_HELP,
    add_key_format_options,
    add_lora_folders,
    add_no_sidecars,
    add_recipe_options,
)
from .output import run_options

_DESCRIPTION = """\
Merge several LoRAs into one, exactly: "style.safetensors:0.6" "char.safetensors:0.4", or all LoRAs of a prompt, with
its strengths for text encoder, UNet and blocks: --prompt "<lora:style:0.6> <lora:char:0.4:lbw=OUTD>". A recipe then
resizes the result; without one, only rounding is lost."""


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("inputs", nargs="*", metavar="FILE[:STRENGTH]", help="the LoRA files; not with --prompt")
    add("--prompt", metavar="TEXT", help="a prompt, or its LoRA tags; the LoRAs are searched for in --lora-dir")
    add_lora_folders(parser)
    add("-o", "--output", metavar="FILE", help="the new file, or a folder for it (default: next to the first LoRA)")
    add("--base", metavar="FILE", help="a checkpoint, for recipes that compare with one")
    add_no_sidecars(parser)
    add_key_format_options(parser)
    add_recipe_options(parser, "all ranks")


def run(arguments: argparse.Namespace) -> int:
    """Merge LoRAs into one file."""
    from ..base.checkpoint import Checkpoint
    from .work import output_of, run_sources, settings_of

    recipes = arguments.score_recipes or parse_recipes(ALL_RANKS)
    source = _source(arguments)
    with contextlib.ExitStack() as stack:
        base = Checkpoint(Path(arguments.base)) if arguments.base else None
        if base is not None:
            stack.callback(base.close)
        settings = settings_of(arguments, recipes, base)
        folder, target = output_of(arguments.output, len(recipes))
        sidecars = settings.sidecars and not arguments.prompt
        inputs = Inputs([Path(arguments.lbw_presets)] if arguments.lbw_presets else [])
        settings = replace(settings, output=folder, target=target, sidecars=sidecars, inputs=inputs)
        return run_sources([source], settings, run_options(arguments))


def _source(arguments: argparse.Namespace) -> Source:
    """Return the merge of files, or of a prompt. Raises UsageError, and PromptError for what cannot be baked."""
    if bool(arguments.inputs) == (arguments.prompt is not None):
        raise UsageError("merge needs either LoRA files with strengths, or --prompt with --lora-dir.")
    if arguments.inputs:
        _refuse_prompt_options(arguments)
        return of_members(arguments.inputs)
    tags = parse_prompt(arguments.prompt, presets_of(arguments.lbw_presets)).tags
    check_bakeable(tags)
    return of_prompt(tags, LoraFolders([Path(name) for name in arguments.lora_dir]).find)


def _refuse_prompt_options(arguments: argparse.Namespace) -> None:
    if arguments.lora_dir:
        raise UsageError("--lora-dir is only for --prompt; give LoRA files by their paths.")
    if arguments.lbw_presets:
        raise UsageError("--lbw-presets is only for --prompt; a LoRA file has one strength here.")


COMMAND = Command("merge", _DESCRIPTION, _add_options, run, RECIPES_HELP)
