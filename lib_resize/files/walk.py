"""Walk folders and expand patterns. Standard library only.

All of the package walks folders with this module. Links are followed, but no folder is entered twice: a link to a
parent folder, or two links to one folder, change nothing. A folder that cannot be read is skipped, and `on_skip` is
called.
"""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

Skip = Callable[[OSError], None]
"""A function that gets the error of a folder that cannot be read; ``error.filename`` is its path."""


def ignore(_error: OSError) -> None:
    """Do nothing about a folder that cannot be read."""


def is_folder(path: Path) -> bool:
    """Return whether a folder exists; False for a name that no disk can hold."""
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises for long names


def is_file(path: Path) -> bool:
    """Return whether a plain file exists, links followed; False for a name that no disk can hold."""
    return os.path.isfile(path)  # noqa: PTH113 - see is_folder


def exists(path: Path) -> bool:
    """Return whether something exists, links followed; False for a name that no disk can hold."""
    return os.path.exists(path)  # noqa: PTH110 - see is_folder


@dataclass(frozen=True)
class FolderContents:
    """A folder and the files in it."""

    path: Path
    real: str
    """Its path with all links resolved."""
    names: tuple[str, ...]
    """The names of everything in it that is not a folder."""


def walk(root: Path, *, leave_out: Collection[str] = (), on_skip: Skip = ignore) -> list[FolderContents]:
    """List `root` and all folders below it, each once, sorted by name; empty if `root` is missing.

    A folder that can be reached with and without a link is listed by its path without one. `leave_out` has the names of
    folders to skip.
    """
    seen: set[str] = set()
    found: list[FolderContents] = []
    waiting = [root]
    while waiting:
        links: list[Path] = []
        for start in waiting:
            found += _below(start, seen, links, leave_out, on_skip)
        waiting = sorted(links)  # only after all folders that need no link
    return sorted(found, key=_order)


def _below(
    start: Path, seen: set[str], links: list[Path], leave_out: Collection[str], on_skip: Skip
) -> Iterator[FolderContents]:
    """Yield the folders from `start` down; collect links to folders in `links` instead of following them."""
    stack = [start]
    while stack:
        folder = stack.pop()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        names: list[str] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if not _is_folder(entry):
                        names.append(entry.name)
                    elif entry.name not in leave_out:
                        (links if entry.is_symlink() else stack).append(folder / entry.name)
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                on_skip(error)
            continue
        yield FolderContents(folder, real, tuple(sorted(names, key=str.casefold)))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _order(found: FolderContents) -> tuple[str, ...]:
    return tuple(part.casefold() for part in found.path.parts)


def matching(pattern: str, on_skip: Skip = ignore) -> list[Path]:
    """List the files and folders that match a pattern, each once, sorted by name, with the rules of `glob.glob`.

    Unlike `glob.glob`, ``**`` enters no folder twice.
    """
    first, *parts = Path(pattern).parts or ("",)
    start = Path(first)
    if not start.anchor:
        start, parts = Path(), [first, *parts]
    folded = [part for i, part in enumerate(parts) if part != "**" or parts[i - 1 : i] != ["**"]]
    found = dict.fromkeys(_matching(start, tuple(folded), on_skip))
    return sorted(found, key=lambda path: tuple(part.casefold() for part in path.parts))


def _matching(folder: Path, parts: tuple[str, ...], on_skip: Skip) -> Iterator[Path]:
    if not parts:
        yield folder
        return
    head, rest = parts[0], parts[1:]
    if head == "**":
        for found in walk(folder, on_skip=on_skip):
            if _is_hidden(found.path, folder):
                continue
            yield from (
                _matching(found.path, rest, on_skip)
                if rest
                else (found.path / name for name in found.names if name[0] != ".")
            )
    elif glob.has_magic(head):
        for name in sorted(names_in(folder, on_skip)):
            if fnmatch.fnmatch(name, head) and (not name.startswith(".") or head.startswith(".")):
                yield from _matching(folder / name, rest, on_skip)
    elif os.path.lexists(folder / head):
        yield from _matching(folder / head, rest, on_skip)


def _is_hidden(path: Path, below: Path) -> bool:
    return any(part.startswith(".") for part in path.parts[len(below.parts) :])


def names_in(folder: Path, on_skip: Skip = ignore) -> list[str]:
    """List all names in a folder; empty where it does not exist or cannot be read."""
    try:
        return [item.name for item in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        on_skip(error)
        return []
