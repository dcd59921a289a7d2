"""``resize-lora archive``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..shown import json_text, mib, shown
from .archives import find_archive, large, of_run, recover_and_print
from .command import Command
from .output import complain
from .replacing import day_count
from .report import aligned

if TYPE_CHECKING:
    from ..archive.entries import Entry
    from ..archive.place import Archive

_DESCRIPTION = """\
List the originals that `resize --replace` put in the archive, or delete them for good. Without --yes, purge prints how
much it would delete, and deletes nothing."""


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("action", choices=("list", "purge"), help="what to do")
    add("--run", dest="of_run", metavar="ID", help="only the files of a run")
    add("--older-than", type=day_count, metavar="DAYS", help="only files that were replaced more than so many days ago")
    add("--all", action="store_true", help="purge: all files of the archive")
    add("--yes", action="store_true", help="purge: delete")
    add("--json", action="store_true", help="print JSON")
    add("--archive", metavar="DIR", help="the archive (default: the one above the current folder)")


def run(arguments: argparse.Namespace) -> int:
    """List or purge an archive."""
    from ..archive.entries import entries
    from ..archive.purging import older_than

    archive = find_archive(arguments.archive, [])
    recover_and_print(archive, to_stderr=arguments.json)
    chosen = entries(archive)
    if arguments.of_run:
        chosen = of_run(chosen, arguments.of_run)
    if arguments.older_than is not None:
        chosen = older_than(chosen, arguments.older_than)
    if arguments.action == "purge":
        return _purge(archive, chosen, arguments)
    _list(archive, chosen, arguments.json)
    return 0


def _list(archive: Archive, chosen: Sequence[Entry], as_json: bool) -> None:
    size = sum(entry.bytes_before for entry in chosen if entry.is_there)
    if as_json:
        found = {"archive": str(archive.folder), "bytes": size, "entries": [_as_json(entry) for entry in chosen]}
        print(json_text(found, indent=1))
        return
    if chosen:
        head = ["LoRA", "MiB", "smaller", "replaced", "run", ""]
        print(aligned([head, *(_row(entry) for entry in chosen)]))
    print(shown(f"{_files(len(chosen))}, {large(size)}, in {archive.folder}"))


def _row(entry: Entry) -> list[str]:
    day = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.replaced))
    there = "" if entry.is_there else "the original is missing"
    return [shown(str(entry.home)), mib(entry.bytes_before), mib(entry.bytes_after), day, shown(entry.run, 40), there]


def _as_json(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "run": entry.run,
        "name": entry.name,
        "path": str(entry.home),
        "original": str(entry.original),
        "is_there": entry.is_there,
        "bytes_before": entry.bytes_before,
        "bytes_after": entry.bytes_after,
        "sha256_before": entry.sha256_before,
        "sha256_after": entry.sha256_after,
        "replaced": entry.replaced,
        "facts": dict(entry.facts),
    }


def _purge(archive: Archive, chosen: Sequence[Entry], arguments: argparse.Namespace) -> int:
    from ..archive.purging import purge

    if not (arguments.of_run or arguments.all or arguments.older_than is not None):
        raise UsageError("archive purge needs --run, --older-than or --all.")
    if not arguments.yes:
        size = sum(entry.bytes_before for entry in chosen if entry.is_there)
        complain(f"{_files(len(chosen))} with {large(size)} would be deleted for good. Add --yes to delete them.")
        return 2
    files, size = purge(archive, chosen)
    if arguments.json:
        print(json_text({"archive": str(archive.folder), "files": files, "bytes": size}))
    else:
        print(shown(f"{_files(files)} deleted, {large(size)} freed, in {archive.folder}"))
    return 0


def _files(count: int) -> str:
    return "1 original" if count == 1 else f"{count} originals"


COMMAND = Command("archive", _DESCRIPTION, _add_options, run)
