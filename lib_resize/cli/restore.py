"""``resize-lora restore``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import OutputError, UsageError
from ..shown import shown
from .archives import find_archive, large, of_run, recover_and_print
from .command import Command
from .output import complain

if TYPE_CHECKING:
    from ..archive.entries import Entry

_DESCRIPTION = """\
Move originals back that `resize --replace` put in the archive: byte for byte, with their descriptions. The smaller
files are deleted. A file that was changed since is never overwritten."""


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("paths", nargs="*", metavar="PATH", help="replaced LoRA files, or folders of them")
    add("--run", dest="of_run", metavar="ID", help="all files of a run; `archive list` shows the ids")
    add("--all", action="store_true", help="all files of the archive")
    add("--archive", metavar="DIR", help="the archive (default: the one above the files or the current folder)")


def run(arguments: argparse.Namespace) -> int:
    """Restore originals."""
    from ..archive.entries import entries
    from ..archive.restoring import restore

    if sum(map(bool, (arguments.paths, arguments.of_run, arguments.all))) != 1:
        raise UsageError("choose one of these: the files or folders to restore, a run with --run, or --all.")
    paths = [Path(path) for path in arguments.paths]
    archive = find_archive(arguments.archive, paths)
    recover_and_print(archive)
    known = entries(archive)
    chosen = (
        known if arguments.all else of_run(known, arguments.of_run) if arguments.of_run else _of_paths(known, paths)
    )
    done = size = failed = 0
    for entry in chosen:
        try:
            restored = restore(archive, entry)
        except OutputError as error:
            failed += 1
            complain(str(error))
            continue
        done, size = done + 1, size + entry.bytes_before
        print(shown(f"{restored.path}: restored, {large(entry.bytes_before)}"))
        for kept in restored.changed:
            print(shown(f"{restored.path}: a description was changed since and stays; its earlier version is {kept}"))
    print(f"{done} restored, {large(size)}; {failed} failed.")
    return int(failed > 0)


def _of_paths(known: Sequence[Entry], paths: Sequence[Path]) -> list[Entry]:
    """Return the entries of files and folders. Raises UsageError for one that has none."""
    from ..archive.entries import plain_path
    from ..files.file_names import SUFFIX

    found: dict[str, Entry] = {}
    for path in paths:
        homes = {plain_path(path), plain_path(path.with_name(path.name + SUFFIX)) if path.name else path}
        folder = path.resolve()
        mine = [entry for entry in known if entry.home in homes or folder in entry.home.parents]
        if not mine:
            raise UsageError(f"{path}: the archive has no original of this file or folder.")
        found.update({entry.id: entry for entry in mine})
    return list(found.values())


COMMAND = Command("restore", _DESCRIPTION, _add_options, run)
