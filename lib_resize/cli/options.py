"""Options that several subcommands share, and the parsers of their values."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable

from ..errors import UsageError
from ..recipe.grammar import (
    FILLS,
    LIMITS,
    METHOD_NUMBERS,
    METHODS,
    PRESETS,
    SCORES,
    SELECTIONS,
    Recipe,
    parse_recipes,
)
from ..shown import shown

DTYPE_WORDS = ("16", "32", "bf16", "8", "same")
CONVERT_WORDS = ("auto", "lora", "none")


# Values -----------------------------------------------------------------------------------------------------------

_MOST_RANK = 100_000  # more than any layer has
_MOST_SIZE = 1e9


def _number(what: str, least: int, most: int) -> Callable[[str], int]:
    """Return a parser of whole numbers."""

    def parse(text: str) -> int:
        if re.fullmatch("[0-9]{1,20}", text) and least <= int(text) <= most:
            return int(text)
        raise argparse.ArgumentTypeError(f"{shown(text, 40)!r} is not {what}, {least} to {most}")

    return parse


rank = _number("a rank", 1, _MOST_RANK)
rank_or_zero = _number("a rank", 0, _MOST_RANK)
whole_number = _number("a whole number", 0, 2**63 - 1)
positive_number = _number("a number", 1, 10_000)
port = _number("a port", 1, 65535)
_threads = _number("a number of threads", 1, 1024)


def _size(unit: str) -> Callable[[str], float]:
    """Return a parser of positive sizes."""

    def parse(text: str) -> float:
        try:
            size = float(text)
        except ValueError:
            size = 0.0
        if not 0 < size <= _MOST_SIZE:
            raise argparse.ArgumentTypeError(f"{shown(text, 40)!r} is not a size in {unit} above 0")
        return size

    return parse


def mebibytes(text: str) -> str:
    """Check a size in MiB, and return it as text for a recipe."""
    _size("MiB")(text)
    return text


def gibibytes(text: str) -> int:
    """Return a size in GiB as bytes."""
    return int(_size("GiB")(text) * 2**30)


def recipes(text: str) -> tuple[Recipe, ...]:
    """Parse recipes separated by colons."""
    try:
        return parse_recipes(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


# Groups of options ------------------------------------------------------------------------------------------------


def add_recipe_options(parser: argparse.ArgumentParser, default: str) -> None:
    """Add the recipes, the device and the output options: for `resize`, `merge` and `extract`."""
    add = parser.add_argument
    add(
        "-r",
        "--score_recipes",
        "--recipes",
        type=recipes,
        metavar="RECIPES",
        help=f"what to keep (default: {default})",
    )
    add_device(parser)
    add_output_options(parser, dtype="16")


def add_output_options(parser: argparse.ArgumentParser, dtype: str) -> None:
    """Add the options of every command that writes LoRA files."""
    add = parser.add_argument
    add(
        "-t",
        "--output_dtype",
        "--output-dtype",
        choices=DTYPE_WORDS,
        default=dtype,
        help="output dtype: 16 (float16), 32 (float32), bf16 (bfloat16), 8 (float8 e4m3) or same (as the input) "
        f"(default: {dtype})",
    )
    add("-v", "--verbose", action="count", default=0, help="print thresholds and score quantiles; -vv: every layer too")
    add("--dry-run", action="store_true", help="show what would be written, with exact sizes, and write nothing")
    add(
        "--report",
        metavar="FILE.json",
        help="write all results to a JSON file; FILE.jsonl gets one JSON object a line, as the run goes on",
    )
    add("--report-layers", action="store_true", help="include every layer in the report")
    add("--overwrite", action="store_true", help="replace earlier results; the source is never replaced")
    add_threads(parser)
    add_nice(parser)


def add_batch_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that work on many files: `resize` and `upsample`."""
    add = parser.add_argument
    add(
        "-o",
        "--output_folder",
        "--output-folder",
        metavar="DIR",
        help="folder for the results (default: next to each source)",
    )
    add_no_sidecars(parser)
    add_key_format_options(parser)
    add("--suffix", help="file name suffix of the results, in place of the recipe")
    add("--skip-existing", action="store_true", help="skip results that exist already")
    add("--continue-on-error", action="store_true", help="continue after a file fails; the exit status is still 1")


def add_key_format_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--naming`` and ``--convert``."""
    parser.add_argument(
        "--naming",
        choices=("keep", "kohya"),
        default="keep",
        help="key format of the output: keep the source's (default), or kohya, which every host loads",
    )
    parser.add_argument(
        "--convert",
        choices=CONVERT_WORDS,
        default="auto",
        help="lora: convert every layer to LoRA where possible; none: keep the kind of each layer; "
        "auto (default): keep it, except LoHa where LoRA is smaller at equal quality",
    )


def add_no_sidecars(parser: argparse.ArgumentParser) -> None:
    """Add ``--no-sidecars``."""
    parser.add_argument("--no-sidecars", action="store_true", help="do not copy previews and descriptions")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``."""
    parser.add_argument(
        "-d",
        "--device",
        default="cpu",
        help="cpu (default); a torch device such as cuda, cuda:1 or mps, for the work that it does faster; "
        "or auto: cuda if there is one",
    )


def add_lora_folders(parser: argparse.ArgumentParser) -> None:
    """Add ``--lora-dir`` and ``--lbw-presets``."""
    add = parser.add_argument
    add("--lora-dir", action="append", default=[], metavar="DIR", help="a folder of LoRAs; can be repeated")
    add("--lbw-presets", metavar="FILE", help="a file of block weight presets, in the format of LoRA Block Weight")


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Add ``--threads``."""
    parser.add_argument("--threads", type=_threads, metavar="N", help="worker threads (default: one per core)")


def add_nice(parser: argparse.ArgumentParser) -> None:
    """Add ``--nice``."""
    parser.add_argument("--nice", action="store_true", help="run at low CPU priority")


# Help on recipes --------------------------------------------------------------------------------------------------


def _rows(table: dict[str, str]) -> str:
    return "\n".join(f"  {name:14} {text}" for name, text in table.items())


RECIPES_HELP = f"""\
A recipe is a list of items separated by commas, with exactly one selection. Colons separate several recipes.
Scores, with weights, such as fro_ckpt=0.8,params=0.2 (log10 of a dimension's strength minus the weighted references):
{_rows(SCORES)}
Selections:
{_rows(SELECTIONS)}
Limits:
{_rows(LIMITS)}
Only with rank=: the method, the fill, and their numbers:
{_rows(METHODS)}
{_rows(FILLS)}
{_rows(METHOD_NUMBERS)}
rescale=X multiplies the strength of the LoRA. Presets:
{_rows(PRESETS)}"""
"""The words of recipes, for the end of a command's help."""
