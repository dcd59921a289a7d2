"""Decide whether a path may be written, for results, reports, plots and demo files alike.

A path may be written if nothing is there, or if it is a plain file that this program wrote (recognised by its content)
and the caller allows to replace such files. Everything else is refused: files of other programs, inputs of the run
under any name, links, devices, pipes, folders and write-protected files.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import OutputError, ResizeError
from .atomic import in_plain_words
from .header import read_header
from .metadata import has_resize_record


@dataclass(frozen=True)
class FileKind:
    """A kind of file that this program writes."""

    name: str
    """Name with its article, for messages: "a report of Resize LoRA"."""
    is_ours: Callable[[Path], bool]
    """Returns whether the content of a plain file shows that this program wrote it. May raise ``OSError``."""


def _is_result(path: Path) -> bool:
    try:
        return has_resize_record(read_header(path).metadata)
    except ResizeError:
        return False


RESULT = FileKind("a result of Resize LoRA", _is_result)


class Inputs:
    """The files that a run reads. Symbolic links, hard links and other forms of a path are the same file."""

    def __init__(self, paths: Iterable[Path] = ()) -> None:
        self._known: set[object] = set()
        self.add(*paths)

    def add(self, *paths: Path) -> None:
        """Add files; missing ones are ignored."""
        self._known.update(found for path in paths if (found := _identity(path)) is not None)

    def __contains__(self, path: Path) -> bool:
        identity = _identity(path)
        return identity is not None and identity in self._known


def _identity(path: Path) -> object | None:
    """Return a value that all paths of one file have in common; None where there is no file."""
    with contextlib.suppress(OSError, ValueError):
        found = path.stat()
        # Some network drives have no inode numbers.
        return (found.st_dev, found.st_ino) if found.st_ino else os.path.normcase(os.path.realpath(path))
    return None


def check_target(path: Path, kind: FileKind, *, overwrite: bool, inputs: Inputs | None = None) -> None:
    """Raise ``OutputError`` unless a file of this kind may be written at `path`."""
    with in_plain_words(path):
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return
    reason = _reason(path, found, kind, overwrite, inputs)
    if reason is not None:
        raise OutputError(f"{path}: {reason}")


def _reason(path: Path, found: os.stat_result, kind: FileKind, overwrite: bool, inputs: Inputs | None) -> str | None:
    if inputs is not None and path in inputs:
        return "this is an input of this run, and inputs are never replaced. Choose another name."
    if stat.S_ISDIR(found.st_mode):
        return "there is a folder of this name. Choose another name."
    if not stat.S_ISREG(found.st_mode):
        return f"there is {_special(found)} here, which is never replaced. Choose another name."
    if not overwrite:
        return "this file exists already. Choose another name, or allow overwriting (--overwrite)."
    if not _is_ours(path, kind):
        return f"this file exists already and is not {kind.name}, so it is not replaced. Choose another name."
    if not found.st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH):
        return "this file is write-protected, so it is not replaced. Choose another name, or allow writing to it."
    return None


def _special(found: os.stat_result) -> str:
    if stat.S_ISLNK(found.st_mode):
        return "a link"
    return "a pipe" if stat.S_ISFIFO(found.st_mode) else "a device or a socket"


def _is_ours(path: Path, kind: FileKind) -> bool:
    try:
        return kind.is_ours(path)
    except (OSError, ValueError):
        return False


def check_folder(folder: Path) -> None:
    """Raise ``OutputError`` where no file can be created in a folder, which need not exist yet."""
    place = folder.absolute()
    with in_plain_words(folder):
        while not _exists(place) and place != place.parent:
            place = place.parent
    if not place.is_dir():
        raise OutputError(f"{folder}: there is a file where a folder should be ({place}). Choose another folder.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise OutputError(
            f"{folder}: no permission to write in {place}. Check its permissions or choose another folder."
        )


def _exists(place: Path) -> bool:
    """Return whether something exists at a path. Raises ``OSError`` for a name that no disk can hold."""
    try:
        os.lstat(place)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
