"""The command ``resize-lora``: the parser, built from the subcommands, and the call of the one that was chosen.

Nothing here imports numpy, so that ``--help`` is fast. A subcommand is a module with a `Command`; to add one, write
the module and name it in `COMMANDS`.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import signal
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import Cancelled, FileError, ResizeError, UsageError, internal
from ..linalg.threads import ask_for_one_blas_thread
from . import archive, demo, extract, fit, inspect, library, merge, resize, restore, ui, upsample
from .command import Command
from .output import complain

COMMANDS: tuple[Command, ...] = (
    resize.COMMAND,
    upsample.COMMAND,
    merge.COMMAND,
    extract.COMMAND,
    fit.COMMAND,
    inspect.COMMAND,
    library.COMMAND,
    restore.COMMAND,
    archive.COMMAND,
    demo.COMMAND,
    ui.COMMAND,
)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    made = argparse.ArgumentParser(prog="resize-lora", description="Shrink LoRA files with little visible change.")
    made.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        added = commands.add_parser(
            command.name,
            help=command.summary,
            description=command.description,
            epilog=command.epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_options(added)
        added.set_defaults(run=command.run)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, 1 if a file failed, 2 for a bad command, 130 after Ctrl-C."""
    _replace_what_cannot_be_encoded()
    parsed = parser().parse_args(arguments)
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


def _failed(error: Exception, command: str) -> int:
    """Print the error and return the exit status."""
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
    gc.set_threshold(100_000)  # there are many small objects, and hardly any cycle
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
