"""``resize-lora library``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..files.walk import is_folder
from ..shown import json_text, shown_lines
from . import report
from .command import Command
from .options import add_nice, add_threads
from .output import Bars, complain_of_folder, set_priority

if TYPE_CHECKING:
    from ..studies.survey import Survey

_DESCRIPTION = """\
Show what a folder of LoRAs contains, how much each preset would free, and which files are float32, of a larger rank
than they need, exact duplicates, partly empty or damaged. Nothing is written. Only some layers of each file are
decomposed, so the figures are estimates, marked with ~."""


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", metavar="DIR", help="the folder, or its URL; links are followed")
    add("--exact", action="store_true", help="decompose all layers, not only a sample")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print everything as JSON")
    form.add_argument("--csv", action="store_true", help="print one row a file as CSV")
    add_threads(parser)
    add_nice(parser)


def run(arguments: argparse.Namespace) -> int:
    """Survey a folder of LoRAs."""
    from ..remote.stores import is_url
    from ..studies.survey import SurveyOptions, survey

    folder, remote = Path(arguments.folder), is_url(arguments.folder)
    if remote:
        from ..remote.library import survey_store
    elif not arguments.folder.strip() or not is_folder(folder):
        raise UsageError(f"{folder} is not a folder; name one that holds LoRA files.")
    set_priority(arguments.nice)
    with Bars(None) as bars:

        def print_headers(found: Survey) -> None:
            if not (arguments.json or arguments.csv):
                bars.write(report.survey_headers(found))

        options = SurveyOptions(
            arguments.exact, arguments.threads, on_headers=print_headers, on_skip=complain_of_folder
        )
        found = survey_store(arguments.folder, options, bars) if remote else survey(folder, options, bars)
    _print(found, arguments)
    return 0


def _print(found: Survey, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(json_text(found.as_json(), indent=1))
    elif arguments.csv:
        print(found.as_csv(), end="")
    else:
        print(shown_lines(report.survey_text(found)))


COMMAND = Command("library", _DESCRIPTION, _add_options, run)
