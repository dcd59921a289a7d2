"""The description of a subcommand, from which the parser and the reference page are built."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """One subcommand of ``resize-lora``."""

    name: str
    description: str
    """One paragraph for the help of the command."""
    add_options: Callable[[argparse.ArgumentParser], None]
    """Adds the command's arguments and options to its parser."""
    run: Callable[[argparse.Namespace], int]
    """Runs the command and returns its exit status. Libraries are imported in here, so that ``--help`` loads none."""
    epilog: str | None = None
    """Text after the list of options."""
