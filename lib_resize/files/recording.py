"""Copy a file of this program with a figure in its record: other metadata, tensors byte for byte."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import FileError, OutputError
from .atomic import in_plain_words
from .effect_record import EffectRecord
from .moving import sha256_of
from .own_record import with_effect
from .restamping import WrittenTensors


@dataclass(frozen=True)
class StagedCopy:
    """A complete copy that waits to replace its file."""

    staged: Path
    was: str
    """SHA-256 of the file, hex."""
    new: str
    """SHA-256 of the copy, hex."""


def copy_with_effect(path: Path, staged: Path, effect: EffectRecord) -> StagedCopy | None:
    """Write a copy of a file to `staged`, with a figure in its record; it gets the permissions of the file.

    Return None where the file has this figure already; nothing is written then. Raises OutputError where the file is
    not one of this program, whole and unchanged, or where the copy cannot be written; `staged` does not exist then.
    """
    try:
        tensors = WrittenTensors.of(path)
        metadata = with_effect(tensors.metadata, effect)
        if metadata is None:
            raise OutputError(f"{path}: was not made by Resize LoRA.")
        if metadata == tensors.metadata:
            return None
        return _written(tensors, staged, metadata)
    except FileError as error:
        raise OutputError(str(error)) from error


def _written(tensors: WrittenTensors, staged: Path, metadata: Mapping[str, str]) -> StagedCopy:
    path = tensors.path
    try:
        was = sha256_of(path)
        tensors.write(staged, metadata, lambda: None)
        with in_plain_words(staged):
            shutil.copymode(path, staged)
            os.utime(staged)  # hosts compare times, and must see a newer file
            new = sha256_of(staged)
        if was is None or new is None:
            raise OutputError(f"{path}: disappeared while its figure was written.")
        return StagedCopy(staged, was, new)
    except BaseException as error:
        with contextlib.suppress(OSError):
            staged.unlink(missing_ok=True)
        if isinstance(error, OutputError):  # it names the file, not the copy
            raise OutputError(str(error).replace(str(staged), str(path))) from error
        raise
