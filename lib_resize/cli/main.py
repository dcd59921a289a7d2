"""The command ``resize-lora``: the parser, built from the subcommands, and the call of the one that was chosen.

The options of a subcommand are added when it is chosen, and nothing else is imported here, so that ``--help`` is fast.
A subcommand is a module with a `Command`; to add one, write the module and name it in `SUMMARIES`.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import __version__

if TYPE_CHECKING:
    from .command import Command

SUMMARIES: dict[str, str] = {
    "resize": "make LoRA files smaller",
    "upsample": "expand the rank, without changing the LoRA",
    "merge": "merge several LoRAs into one",
    "extract": "extract a LoRA from two checkpoints",
    "fit": "make a LoRA smaller, fitted to images",
    "inspect": "show what a LoRA file contains",
    "library": "survey a folder, and show what could be freed",
    "base": "export the norms of a checkpoint",
    "cluster": "report on a run over many machines",
    "restore": "move replaced originals back",
    "archive": "list or delete archived originals",
    "demo": "try it on generated files",
    "ui": "serve the tab as a web page, without a WebUI",
}
"""Subcommand, which is the name of its module too -> one line for the overview of commands."""


def command_named(name: str) -> Command:
    """Import a subcommand."""
    found: Command = importlib.import_module(f".{name}", __package__).COMMAND
    return found


def commands() -> tuple[Command, ...]:
    """Import all subcommands."""
    return tuple(map(command_named, SUMMARIES))


def parser(chosen: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of the whole command line; with `chosen`, of the options of that subcommand only."""
    made = argparse.ArgumentParser(prog="resize-lora", description="Shrink LoRA files with little visible change.")
    made.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subparsers = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in SUMMARIES.items():
        added = subparsers.add_parser(name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter)
        if chosen is None or chosen == name:
            command = command_named(name)
            added.description, added.epilog = command.description, command.epilog
            command.add_options(added)
            added.set_defaults(run=command.run)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, 1 if a file failed, 2 for a bad command, 130 after Ctrl-C."""
    _replace_what_cannot_be_encoded()
    parsed = parser(_chosen(sys.argv[1:] if arguments is None else arguments)).parse_args(arguments)
    from ..errors import Cancelled
    from ..linalg.threads import ask_for_one_blas_thread
    from .output import complain

    ask_for_one_blas_thread()
    try:
        return int(parsed.run(parsed))
    except (KeyboardInterrupt, Cancelled):
        complain("stopped; finished files are complete, and no partial file was left.")
        return 130
    except BrokenPipeError:
        _stop_writing()
        return 1
    except Exception as error:
        return _failed(error, parsed.command)


def _chosen(arguments: Sequence[str]) -> str:
    """Return the subcommand, which is the first word that is no option; empty where there is none."""
    return next((word for word in arguments if not word.startswith("-")), "")


def _failed(error: Exception, command: str) -> int:
    """Print the error and return the exit status."""
    from ..errors import FileError, ResizeError, UsageError, internal
    from .output import complain

    if isinstance(error, (OSError, MemoryError)):
        name = getattr(error, "filename", None)
        error = FileError(f"{name or command}: {getattr(error, 'strerror', None) or error or 'out of memory'}.")
    elif not isinstance(error, ResizeError):
        error = internal(command, error)
    complain(str(error))
    return 2 if isinstance(error, UsageError) else 1


def entry() -> int:
    """Run the command as a process of its own, which may set up the interpreter for itself."""
    sys.setswitchinterval(5e-4)  # workers return from numpy often, and must not wait long for one that runs Python
    for name in ("SIGTERM", "SIGHUP"):  # the report is also written when the terminal closes or the system shuts down
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is signal.SIG_DFL:  # not under nohup
            signal.signal(getattr(signal, name), signal.default_int_handler)
    gc.set_threshold(100_000)  # see `shared_setting.SELDOM`
    status = main()
    gc.freeze()  # the system frees all memory at once; a search for cycles first would be wasted time
    return status


def _replace_what_cannot_be_encoded() -> None:
    """Print ``?`` for characters that the terminal cannot show, so that a file name does not stop the work."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _stop_writing() -> None:
    """Discard what is still in the buffer after the reader of a pipe has closed it, as `head` does."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
