"""The command ``resize-lora``: arguments only. numpy is imported when a subcommand runs, torch when a device asks."""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from .. import __version__
from ..errors import Cancelled, FileError, ResizeError, UsageError, internal
from ..linalg.threads import ask_for_one_blas_thread
from ..recipe.grammar import (
    DEFAULT_WITH_BASE,
    DEFAULT_WITHOUT_BASE,
    FILLS,
    LIMITS,
    METHOD_NUMBERS,
    METHODS,
    PRESETS,
    SCORES,
    SELECTIONS,
    parse_recipes,
)
from ..shown import shown

DTYPE_WORDS = ("16", "32", "bf16", "8", "same")
CONVERT_WORDS = ("auto", "lora", "none")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status: 0, 1 where a file failed, 2 for a bad command, 130 for Ctrl-C."""
    _speak_any_language()
    parsed = _parser().parse_args(arguments)
    ask_for_one_blas_thread()
    from . import commands

    try:
        return int(getattr(commands, parsed.command)(parsed))
    except (KeyboardInterrupt, Cancelled):
        _complain("stopped; finished files stay, nothing is half written.")
        return 130
    except BrokenPipeError:
        _stop_writing()
        return 1
    except Exception as error:
        return _failed(error, parsed.command)


def _failed(error: Exception, command: str) -> int:
    """Says what went wrong, and returns the exit status."""
    if isinstance(error, (OSError, MemoryError)):
        name = getattr(error, "filename", None)
        error = FileError(f"{name or command}: {getattr(error, 'strerror', None) or error or 'out of memory'}.")
    elif not isinstance(error, ResizeError):
        error = internal(command, error)
    _complain(str(error))
    return 2 if isinstance(error, UsageError) else 1


def _complain(message: str) -> None:
    print(f"resize-lora: {shown(message)}", file=sys.stderr)


def entry() -> int:
    """The command as a process of its own, which may set up the interpreter for itself."""
    sys.setswitchinterval(5e-4)  # workers come back from numpy often, and shall not wait long for one that runs Python
    for name in ("SIGTERM", "SIGHUP"):  # a report is written too where the terminal goes, or the system shuts down
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is signal.SIG_DFL:  # not under nohup
            signal.signal(getattr(signal, name), signal.default_int_handler)
    gc.set_threshold(100_000)  # many small objects are made, and hardly a cycle
    status = main()
    gc.freeze()  # the system takes all memory back at once; to search it for cycles first is wasted time
    return status


def _speak_any_language() -> None:
    """A name that the terminal cannot show must not stop the work."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _stop_writing() -> None:
    """Whoever read our output has left, as `head` does; what is still in the buffer must not complain at the end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="resize-lora", description="Makes LoRA files small without changing what they draw."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_resize(commands.add_parser("resize", help="make smaller files", **_described(_RESIZE, _RECIPES)))
    _add_upsample(commands.add_parser("upsample", help="raise the rank, and change nothing", **_described(_UPSAMPLE)))
    _add_merge(commands.add_parser("merge", help="make one LoRA of several", **_described(_MERGE, _RECIPES)))
    _add_extract(
        commands.add_parser("extract", help="make a LoRA of two checkpoints", **_described(_EXTRACT, _RECIPES))
    )
    _add_inspect(commands.add_parser("inspect", help="look at a file", **_described(_INSPECT)))
    _add_library(commands.add_parser("library", help="what a folder holds, and what could go", **_described(_LIBRARY)))
    _add_demo(commands.add_parser("demo", help="see it work on files made for the purpose", **_described(_DEMO)))
    _add_ui(commands.add_parser("ui", help="the panel in a browser, without a WebUI", **_described(_UI)))
    return parser


def _described(description: str, epilog: str | None = None) -> dict[str, Any]:
    return {
        "description": description,
        "epilog": epilog,
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


_RESIZE = """\
Resizes LoRA files. A checkpoint may stand first: it is known by its content, and dimensions are then compared
with its layers. Folders are searched through; "style.safetensors:0.6,char.safetensors:0.4" merges first."""

_UPSAMPLE = """\
Gives every layer a larger rank and leaves its delta as it is: down gets new directions, orthonormal to the old ones,
and up zeros for them. For programs that want all LoRAs of one rank, and for training that goes on at a larger one."""

_MERGE = """\
Makes one LoRA of several, exactly: "style.safetensors:0.6" "char.safetensors:0.4", or all that a prompt names, with
its strengths for text encoder, UNet and blocks: --prompt "<lora:style:0.6> <lora:char:0.4:lbw=OUTD>". A recipe then
resizes it; without one nothing is lost but rounding."""

_EXTRACT = """\
Makes a LoRA of the difference of two checkpoints of one kind: BASE with the LoRA is nearly TUNED. Layers are read one
at a time. What the ranks do not hold is told; biases and norms, which a LoRA has no place for, are counted."""

_INSPECT = """\
Tells what a LoRA file is, how many of its dimensions matter, how small each preset would make it, and what a
host would refuse."""

_LIBRARY = """\
Tells what a folder of LoRAs holds, what each preset would free, and which files are fp32, of too large a rank, exact
duplicates, partly empty or broken. Nothing is written. Spectra are sampled and the figures estimates, marked ~."""

_DEMO = """\
Makes a small SDXL-shaped checkpoint and LoRAs, resizes them by three recipes and prints the table."""

_UI = """\
Serves the panel that AUTOMATIC1111 and Forge show as a tab, for the LoRA folders of ComfyUI, SD.Next and others.
It needs Gradio beside the package: pip install ".[ui]" in the folder of Resize LoRA."""


def _rows(table: dict[str, str]) -> str:
    return "\n".join(f"  {name:14} {text}" for name, text in table.items())


_RECIPES = f"""\
recipes: items separated by commas, several recipes by colons; exactly one selection each.
scores, with weights, such as fro_ckpt=0.8,params=0.2 (log10 of a dimension's strength less the weighted references):
{_rows(SCORES)}
selections:
{_rows(SELECTIONS)}
limits:
{_rows(LIMITS)}
with rank= alone, its method, what fills it up, and their numbers:
{_rows(METHODS)}
{_rows(FILLS)}
{_rows(METHOD_NUMBERS)}
rescale=X multiplies the LoRA's strength. Presets:
{_rows(PRESETS)}"""


def _recipes(text: str) -> object:
    try:
        return parse_recipes(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _add_resize(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("inputs", nargs="+", metavar="FILE", help="[checkpoint] LoRA files, folders, patterns or merges")
    default = f"{DEFAULT_WITH_BASE} with a checkpoint, {DEFAULT_WITHOUT_BASE} without"
    _add_work(parser, default)
    _add_method(parser)
    add("--max-vram", type=_gib, metavar="GIB", help="most memory of the device, such as 1.5; beside a running WebUI")
    add("--base", metavar="FILE", help="the checkpoint, named outright")
    _add_batch(parser)


def _add_merge(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("inputs", nargs="*", metavar="FILE[:STRENGTH]", help="the LoRA files, without --prompt")
    add("--prompt", metavar="TEXT", help="a prompt, or its tags alone; names are looked for in --lora-dir")
    add("--lora-dir", action="append", default=[], metavar="DIR", help="a folder of LoRAs; may be given again")
    add("--lbw-presets", metavar="FILE", help="your presets of block weights, as LoRA Block Weight keeps them")
    add("-o", "--output", metavar="FILE", help="the new file, or a folder for it (default: beside the first LoRA)")
    add("--base", metavar="FILE", help="a checkpoint, for recipes that compare with one")
    add("--no-sidecars", action="store_true", help="do not copy previews and descriptions to the new name")
    _add_spelling(parser)
    _add_work(parser, "all ranks")


def _add_extract(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("tuned", metavar="TUNED", help="the checkpoint that the LoRA is to lead to")
    add("base", metavar="BASE", help="the checkpoint that it starts from")
    add("-o", "--output", metavar="FILE", help="the new file, or a folder for it (default: beside TUNED)")
    add("--rank", type=_rank, metavar="N", help="the same rank in every layer (default: 64)")
    add("--size", type=_megabytes, metavar="MB", help="the strongest dimensions that fit in so many MiB")
    add("--conv-rank", type=_rank_or_none, metavar="N", help="for convolutions larger than 1x1; 0 leaves them out")
    add("--max-rank", type=_rank, metavar="N", help="dimensions to look for in each layer (default: 128 with a recipe)")
    add("--no-te", action="store_true", help="the UNet alone, without text encoders")
    add(
        "--all-layers",
        action="store_true",
        help="also first and last convolution, time and label embedding, and the text projection",
    )
    add("--biases", action="store_true", help="also biases and the UNet's norms, which not all hosts read in a LoRA")
    _add_work(parser, "--rank 64")


def _add_work(parser: argparse.ArgumentParser, default: str) -> None:
    """What `resize` and `merge` share."""
    add = parser.add_argument
    add(
        "-r",
        "--score_recipes",
        "--recipes",
        type=_recipes,
        metavar="RECIPES",
        help=f"what to keep (default: {default})",
    )
    add("-d", "--device", default="cpu", help="cpu (default), cuda, cuda:1, mps: any device of an installed torch")
    _add_output(parser, dtype="16")


def _add_method(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--method", choices=tuple(METHODS), help="how recipes of rank= find their factors (default: svd, exact)")
    add("--niter", type=_whole, metavar="N", help="power iterations of rsvd (default: 2)")
    add("--oversample", type=_whole, metavar="N", help="directions of rsvd beside those it keeps (default: 8)")
    add("--seed", type=_whole, metavar="N", help="of rsvd, projection and sparse (default: 0)")
    add("--pad", action="store_true", help="fill layers up to rank= with zeros, so that all have the same rank")


def _add_upsample(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("inputs", nargs="+", metavar="FILE", help="LoRA files, folders or patterns")
    add("--rank", type=_rank, required=True, metavar="N", help="rank of every layer; none may have more")
    add("--seed", type=_whole, default=0, metavar="N", help="of the new directions (default: 0)")
    _add_output(parser, dtype="same")
    _add_batch(parser)


def _add_batch(parser: argparse.ArgumentParser) -> None:
    """What `resize` and `upsample` share: many files at a time."""
    add = parser.add_argument
    add("-o", "--output_folder", "--output-folder", metavar="DIR", help="folder of the results (default: beside each)")
    add("--no-sidecars", action="store_true", help="do not copy previews and descriptions to the new name")
    _add_spelling(parser)
    add("--suffix", help="ends the new name in place of the recipe")
    add("--skip-existing", action="store_true", help="leave results that are there already, and go on")
    add("--continue-on-error", action="store_true", help="go on after a file that fails; the exit status stays 1")


def _add_output(parser: argparse.ArgumentParser, dtype: str) -> None:
    """What all commands share that write."""
    add = parser.add_argument
    add(
        "-t",
        "--output_dtype",
        "--output-dtype",
        choices=DTYPE_WORDS,
        default=dtype,
        help=f"numbers of the result: float16, float32, bfloat16, float8 (e4m3), or as they were (default: {dtype})",
    )
    add("-v", "--verbose", action="count", default=0, help="thresholds and quantiles; -vv also each layer")
    add("--dry-run", action="store_true", help="say what would be, exact sizes included, and write nothing")
    add("--report", metavar="FILE.json", help="write all figures as JSON; as JSON lines, one a result, to FILE.jsonl")
    add("--report-layers", action="store_true", help="put the figures of every layer into the report too")
    add("--overwrite", action="store_true", help="replace results that are there already; never the source")
    add("--threads", type=_threads, metavar="N", help="workers (default: one a core)")
    add("--nice", action="store_true", help="stand back: other programs go first")


def _add_spelling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--naming",
        choices=("keep", "kohya"),
        default="keep",
        help="kohya: rename layers to the spelling that every host loads",
    )
    parser.add_argument(
        "--convert",
        choices=CONVERT_WORDS,
        default="auto",
        help="lora: write every layer as LoRA that can be; none: keep each layer's kind; "
        "auto (default): keep it, but for LoHa where LoRA makes the better file",
    )


def _number(what: str, least: int, most: int) -> Callable[[str], int]:
    """The parser of a whole number."""

    def parse(text: str) -> int:
        if re.fullmatch("[0-9]{1,20}", text) and least <= int(text) <= most:
            return int(text)
        raise argparse.ArgumentTypeError(f"{shown(text, 40)!r} is not {what}, {least} to {most}")

    return parse


_MOST_RANK = 100_000  # more than any layer has
_rank = _number("a rank", 1, _MOST_RANK)
_rank_or_none = _number("a rank", 0, _MOST_RANK)
_whole = _number("a whole number", 0, 2**63 - 1)
_threads = _number("a number of threads", 1, 1024)
_port = _number("a port", 1, 65535)


def _positive(unit: str) -> Callable[[str], float]:
    """The parser of a size."""

    def parse(text: str) -> float:
        try:
            size = float(text)
        except ValueError:
            size = 0.0
        if not 0 < size <= _MOST_SIZE:
            raise argparse.ArgumentTypeError(f"{shown(text, 40)!r} is not a size in {unit} above 0")
        return size

    return parse


_MOST_SIZE = 1e9


def _megabytes(text: str) -> str:
    _positive("MiB")(text)
    return text


def _gib(text: str) -> int:
    """Bytes."""
    return int(_positive("GiB")(text) * 2**30)


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", metavar="FILE", help="LoRA files, folders or patterns")
    add = parser.add_argument
    add("--json", action="store_true", help="the same as a JSON list")
    add("--spectra", action="store_true", help="singular values by group of layers; of several files also all together")
    add("--plot", metavar="DIR", help="draw spectra, effective ranks, retention over size and bytes into this folder")
    add("--theme", choices=("light", "dark"), default="light", help="colours of the plots (default: light)")
    add("--base", metavar="FILE", help="a checkpoint, whose scores then have curves too; for GLoRA")
    add("--threads", type=_threads, metavar="N", help="workers (default: one a core)")


def _add_library(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", metavar="DIR", help="searched through, links followed")
    add("--exact", action="store_true", help="decompose every layer in place of a sample")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="everything, as JSON")
    form.add_argument("--csv", action="store_true", help="a row for every file, as CSV")
    add("--threads", type=_threads, metavar="N", help="workers (default: one a core)")
    add("--nice", action="store_true", help="stand back: other programs go first")


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keep", metavar="DIR", help="leave the files in this folder (default: a temporary one)")
    parser.add_argument("-v", "--verbose", action="count", default=0, help="as for resize")


def _add_ui(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--lora-dir", action="append", default=[], metavar="DIR", help="a folder of LoRAs; may be given again")
    add("--lbw-presets", metavar="FILE", help="your presets of block weights, as LoRA Block Weight keeps them")
    add("--checkpoint", action="append", default=[], metavar="FILE", help="a base model to compare with")
    add(
        "--host",
        default="127.0.0.1",
        help="address to serve at; 0.0.0.0 lets other machines in, and needs --auth (default: 127.0.0.1)",
    )
    add("--port", type=_port, default=7867, help="default: 7867")
    add("-d", "--device", default="cpu", help="cpu (default), cuda, cuda:1, mps: any device of an installed torch")
    add("--demo", action="store_true", help="serve a few files made for the purpose")
    add(
        "--auth",
        "--api-auth",
        dest="auth",
        metavar="USER:PASSWORD",
        help="who may use the page and the API; several with commas between (default: programs of this machine)",
    )
    add("--api", action="store_true", help="serve the HTTP API /resize-lora/v1 too")
