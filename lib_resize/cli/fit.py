"""``resize-lora fit``."""

from __future__ import annotations

import argparse
import importlib.util
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ..errors import DeviceError
from ..prompts.sources import Member, Source
from ..recipe.grammar import DEFAULT_WITHOUT_BASE, parse_recipes
from .command import Command
from .options import (
    RECIPES_HELP,
    add_key_format_options,
    add_no_sidecars,
    add_recipe_options,
    positive_number,
    whole_number,
)
from .output import run_options

_DESCRIPTION = """\
Resize a LoRA and fit its new factors to images: a pipeline of diffusers makes a few images of your prompt with the
original LoRA, and the factors are computed so that each layer gives what the original's layer gave there. BASE is the
model, as a folder of diffusers or a single file. Ranks and sizes are those of the recipe. If the fitted factors are not
better on one more image, plain truncation is kept. Needs diffusers and transformers: pip install ".[fit]"."""
_LIBRARIES = ("torch", "diffusers", "transformers")


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("base", metavar="BASE", help="the model: a folder of diffusers, or a checkpoint of SD1.5, SD2 or SDXL")
    add("lora", metavar="LORA", help="the LoRA file")
    add("--prompt", action="append", required=True, metavar="TEXT", help="a prompt of the images; can be repeated")
    add("--negative", default="", metavar="TEXT", help="the negative prompt")
    add("--images", type=positive_number, default=4, metavar="N", help="images for the fit (default: 4)")
    add("--steps", type=positive_number, default=4, metavar="N", help="recorded steps of each image (default: 4)")
    add("--sampling-steps", type=positive_number, default=20, metavar="N", help="steps of each image (default: 20)")
    add("--image-size", type=_image_size, metavar="WxH", help="pixels of the images (default: those of the model)")
    add("--seed", type=whole_number, default=0, metavar="N", help="seed of the first image (default: 0)")
    add(
        "--batch",
        type=positive_number,
        default=4,
        metavar="N",
        help="samples at once; fewer need less memory (default: 4)",
    )
    add("-o", "--output", metavar="FILE", help="the new file, or a folder for it (default: next to the LoRA)")
    add_no_sidecars(parser)
    add_key_format_options(parser)
    add_recipe_options(parser, DEFAULT_WITHOUT_BASE)


def _image_size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9][0-9]{1,4})x([1-9][0-9]{1,4})", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a size such as 1024x1024")
    return int(found[1]), int(found[2])


def run(arguments: argparse.Namespace) -> int:
    """Resize a LoRA and fit it to images."""
    _check_libraries(_LIBRARIES)
    recipes = arguments.score_recipes or parse_recipes(DEFAULT_WITHOUT_BASE)
    from ..base.checkpoint import Checkpoint
    from ..engine.settings import check_can_be_fitted
    from ..fitting.paired import FitOptions
    from ..fitting.pipeline import ImageOptions, PipelineFit, open_pipeline
    from ..linalg.arrays import resolved
    from .work import output_of, run_sources, settings_of

    for recipe in recipes:
        check_can_be_fitted(recipe)
    folder, target = output_of(arguments.output, len(recipes))
    wish = ImageOptions(
        prompts=tuple(arguments.prompt),
        negative=arguments.negative,
        images=arguments.images,
        steps=min(arguments.steps, arguments.sampling_steps),
        sampling_steps=arguments.sampling_steps,
        size=arguments.image_size,
        seed=arguments.seed,
    )
    path = Path(arguments.base)
    base = Checkpoint(path) if any(recipe.needs_base for recipe in recipes) else None
    try:
        pipeline = open_pipeline(path, resolved(arguments.device))
        refine = PipelineFit(pipeline, wish, FitOptions(batch=arguments.batch))
        settings = replace(settings_of(arguments, recipes, base), output=folder, target=target, refine=refine)
        return run_sources([Source((Member(Path(arguments.lora)),))], settings, run_options(arguments))
    finally:
        if base is not None:
            base.close()


def _check_libraries(names: Iterable[str]) -> None:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise DeviceError(
            f"fit needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed. "
            f'Install with pip install ".[fit]".'
        )


COMMAND = Command("fit", _DESCRIPTION, _add_options, run, RECIPES_HELP)
