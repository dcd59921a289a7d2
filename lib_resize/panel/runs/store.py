"""Runs on the disk: a document each, and a list of finished files that is only appended to.

``<id>.json``  the run at its start, or at its last change of state; written whole
``<id>.log``   a line for each file that was finished since; a crash loses the line that was being written, at most
``<id>.lock``  locked while a program works on the run
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path

from ...files import locks
from ...files.atomic import in_plain_words, write_whole
from ..records import new_id
from .document import RunDocument, RunItem, read_document, read_item

MOST = 200
"""Runs that are kept; the oldest are dropped first. Their files and originals stay."""
_NAME = re.compile(r"([0-9a-f]{16})\.json")
_ENDINGS = (".json", ".log", ".lock")
_WRONG = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


class RunStore:
    """The runs of a folder, which several programs may share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def ids(self) -> list[str]:
        """Return the ids of all runs, in no order."""
        try:
            names = [entry.name for entry in os.scandir(self.folder)]
        except OSError:
            return []
        return [found[1] for name in names if (found := _NAME.fullmatch(name)) is not None]

    def write(self, run: RunDocument) -> None:
        """Write a run whole, with all that its list of finished files says. Raises OutputError."""
        text = json.dumps(run.document(), ensure_ascii=True)
        write_whole(self._file(run.id, ".json"), text.encode(), overwrite=True)
        with contextlib.suppress(OSError):  # its lines are in the document, so that reading them again changes nothing
            self._file(run.id, ".log").unlink()

    def append(self, id: str, index: int, item: RunItem) -> None:
        """Add a finished file. Raises OutputError."""
        text = json.dumps({"index": index, "item": item.document()}, ensure_ascii=True)
        path = self._file(id, ".log")
        with in_plain_words(path):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
            try:
                line = f"\n{text}\n".encode()  # a line that a crash cut off ends here
                if os.write(fd, line) != len(line):
                    raise OSError(28, "No space left on device", str(path))
                os.fsync(fd)
            finally:
                os.close(fd)

    def read(self, id: str) -> RunDocument | None:
        """Return a run with its finished files; None where it is missing or damaged."""
        if _NAME.fullmatch(f"{id}.json") is None:
            return None
        try:
            run = read_document(json.loads(self._file(id, ".json").read_text("ascii")), id)
        except _WRONG:
            return None
        for line in self._lines(id):
            with contextlib.suppress(*_WRONG):  # cut off by a crash
                record = json.loads(line)
                index, item = record["index"], read_item(record["item"])
                if run.items[index].path == item.path:
                    run.items[index] = item
        return run

    def stamp(self, id: str) -> tuple[object, ...]:
        """Return what changes with a run on the disk."""
        return tuple(_stamp(self._file(id, ending)) for ending in _ENDINGS[:2])

    def lock(self, id: str) -> int | None:
        """Lock a run for this program; None where another one works on it. Raises OutputError."""
        path = self._file(id, ".lock")
        with in_plain_words(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            return locks.try_file(path)

    def unlock(self, descriptor: int) -> None:
        """Let another program work on a run."""
        os.close(descriptor)

    def is_locked(self, id: str) -> bool:
        """Return whether a program, which may be this one, works on a run."""
        path = self._file(id, ".lock")
        try:
            found = locks.try_file(path) if path.exists() else -1
        except OSError:
            return False
        if found is not None and found >= 0:
            os.close(found)
        return found is None

    def remove(self, id: str) -> None:
        """Forget a run."""
        for ending in _ENDINGS:
            with contextlib.suppress(OSError):
                self._file(id, ending).unlink()

    def new_id(self) -> str:
        return new_id()

    def _lines(self, id: str) -> list[str]:
        try:
            return self._file(id, ".log").read_text("ascii", "replace").splitlines()
        except OSError:
            return []

    def _file(self, id: str, ending: str) -> Path:
        return self.folder / f"{id}{ending}"


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
