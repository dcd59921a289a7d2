"""Copy a file of this program with a figure in its record: other metadata, tensors byte for byte."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import FileError, OutputError
from .atomic import in_plain_words
from .effect_record import EffectRecord
from .header import MODEL_HASH, TensorSpec, file_order
from .moving import sha256_of
from .own_record import with_effect
from .reader import SafeFile
from .writer import write_safetensors


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
        with SafeFile(path) as file:
            metadata = with_effect(file.header.metadata, effect)
            if metadata is None:
                raise OutputError(f"{path}: was not made by Resize LoRA.")
            if metadata == file.header.metadata:
                return None
            was = file.sha256()
            entries = file.header.entries
            specs = file_order(TensorSpec(name, entry.dtype, entry.shape) for name, entry in entries.items())
            chunks = (file.bytes(spec.name) for spec in specs)
            return _written(path, staged, _NewContents(was, specs, metadata), chunks)
    except FileError as error:
        raise OutputError(str(error)) from error


@dataclass(frozen=True)
class _NewContents:
    was: str
    specs: list[TensorSpec]
    metadata: dict[str, str]


def _written(path: Path, staged: Path, contents: _NewContents, chunks: Iterator[bytes]) -> StagedCopy:
    try:
        written = write_safetensors(staged, contents.specs, contents.metadata, chunks)
        with in_plain_words(staged):
            shutil.copymode(path, staged)
            os.utime(staged)  # hosts compare times, and must see a newer file
            new = sha256_of(staged)
        if new is None or written.model_hash != contents.metadata.get(MODEL_HASH):
            raise OutputError(f"{path}: its tensors are not the ones that its hash names, so it stays.")
    except BaseException as error:
        with contextlib.suppress(OSError):
            staged.unlink(missing_ok=True)
        if isinstance(error, OutputError):  # it names the file, not the copy
            raise OutputError(str(error).replace(str(staged), str(path))) from error
        raise
    return StagedCopy(staged, contents.was, new)
