"""The report file of a run: an object for each outcome as it comes, and the sums at the end.

``x.jsonl`` has one object a line and grows during the run. With any other name it is one JSON list, which is written
at the end, also when the run is stopped. No outcome is kept in memory.
"""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import OutputError, UsageError
from ..files.atomic import AtomicFile, in_plain_words
from ..files.file_names import MODEL_SUFFIXES
from ..files.target import FileKind, Inputs, check_folder, check_target
from ..shown import json_text
from .report import Totals, as_json

if TYPE_CHECKING:
    from ..engine.settings import Outcome

_BEGINNING = re.compile(rb'\s*(\[\s*)?\{"resize_lora": "')
_SYNC_EVERY = 5.0  # seconds: what a power failure may lose


def _is_report(path: Path) -> bool:
    with open(path, "rb") as stream:
        return _BEGINNING.match(stream.read(64)) is not None


REPORT = FileKind("a report of Resize LoRA", _is_report)


class Ledger:
    """A report, as a context manager: it is written when the block ends, also after an error."""

    def __init__(self, path: Path, inputs: Inputs | None = None, *, layers: bool = False) -> None:
        self._path = path
        self._inputs = inputs or Inputs()
        self._layers = layers
        self._totals = Totals()
        self._draft = AtomicFile(path, overwrite=True)
        self._pages: _List | _Lines = (_Lines if path.suffix.lower() == ".jsonl" else _List)(self._draft, self._check)
        self._error: OutputError | None = None

    def __enter__(self) -> Ledger:
        """Raise UsageError if the report cannot be written, before any work is done."""
        try:
            self._check_name()
            self._check()
            self._draft.open()
        except OutputError as error:
            raise UsageError(f"--report {error}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raise OutputError if the report could not be written."""
        with self._draft:
            if self._error is None:
                self._end(stopped=kind is not None)
        if self._error is not None:
            raise OutputError(f"--report {self._error}") from self._error

    @property
    def path(self) -> Path:
        """The path of the report. It has another name if another program's file took the name during the run."""
        return self._draft.final

    def add(self, outcome: Outcome) -> None:
        """Add an outcome. A report that cannot be written does not end the run; `__exit__` raises then."""
        self._totals.add(outcome)
        self._write(as_json(outcome, layers=self._layers))

    def _end(self, *, stopped: bool) -> None:
        end = {"stopped": True} if stopped else {}
        self._write({"totals": self._totals.as_json(), **end})
        try:
            self._pages.close()
        except OutputError as error:
            self._error = self._error or error

    def _write(self, fields: dict[str, Any]) -> None:
        if self._error is None:
            try:
                self._pages.add(json_text({"resize_lora": __version__, **fields}).encode("utf-8"))
            except OutputError as error:
                self._error = error

    def _check_name(self) -> None:
        if self._path.suffix.lower() in MODEL_SUFFIXES:
            raise OutputError(
                f"{self._path}: this is the name of a model file. Use a name that ends in .json or .jsonl."
            )
        folder = self._path.absolute().parent
        check_folder(folder)
        if not folder.is_dir():
            raise OutputError(f"{self._path}: the folder does not exist. Name a file in an existing folder.")

    def _check(self) -> None:
        check_target(self._path, REPORT, overwrite=True, inputs=self._inputs)


class _List:
    """A JSON list, written to its final name when it is complete."""

    def __init__(self, draft: AtomicFile, check: Callable[[], None]) -> None:
        self._draft = draft
        self._check = check
        self._begun = False

    def add(self, text: bytes) -> None:
        self._draft.write((b",\n" if self._begun else b"[\n") + text)
        self._begun = True

    def close(self) -> None:
        self._draft.write(b"\n]\n")
        self._draft.finish()
        _publish(self._draft, self._check)


class _Lines:
    """One object a line. The first line is written to the final name, and the others are appended."""

    def __init__(self, draft: AtomicFile, check: Callable[[], None]) -> None:
        self._draft = draft
        self._check = check
        self._fd = -1
        self._synced = time.monotonic()

    def add(self, text: bytes) -> None:
        if self._fd < 0:
            self._draft.write(text + b"\n")
            self._draft.finish()
            _publish(self._draft, self._check)
            with in_plain_words(self._draft.final):
                flags = os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
                self._fd = os.open(self._draft.final, flags)
            return
        with in_plain_words(self._draft.final):
            view = memoryview(text + b"\n")
            while len(view):
                view = view[os.write(self._fd, view) :]
            if time.monotonic() - self._synced > _SYNC_EVERY:
                os.fsync(self._fd)
                self._synced = time.monotonic()

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with in_plain_words(self._draft.final):
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)


def _publish(draft: AtomicFile, check: Callable[[], None]) -> None:
    """Publish the report under its name, or a similar free one if another program's file took it during the run."""
    try:
        check()
        draft.overwrite = os.path.lexists(draft.final)
        draft.publish()
    except OutputError:
        draft.final, draft.overwrite = _free(draft.final), False
        draft.publish()


def _free(path: Path) -> Path:
    numbered = (path.with_name(f"{path.stem}_{number}{path.suffix}") for number in itertools.count(2))
    return next(one for one in numbered if not os.path.lexists(one))
