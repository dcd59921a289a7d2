"""``resize-lora cluster``."""

from __future__ import annotations

import argparse

from ..shown import json_text
from .command import Command

_DESCRIPTION = """\
Make the manifest (one JSON object a line) and the summary of an output folder again, from the markers that
`resize --shard` and `resize --cluster` leave in it. They are in its folder .resize-lora."""


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("action", choices=("report",), help="what to do")
    add("output", metavar="OUT", help="the output folder: a URL or a path")
    add("--json", action="store_true", help="print the summary as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Make the report of an output."""
    from ..remote.manifest import MANIFEST, SUMMARY, write_report
    from .remote_output import sums

    tally = write_report(arguments.output)
    if arguments.json:
        print(json_text(tally.as_json(), indent=1))
    else:
        print(sums(tally))
        print(f"{MANIFEST} and {SUMMARY} are in {arguments.output}.")
    return 0


COMMAND = Command("cluster", _DESCRIPTION, _add_options, run)
