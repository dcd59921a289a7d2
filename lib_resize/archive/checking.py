"""Verify the file that will replace another one: whole, with true hashes, and made from that very file."""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import closing
from pathlib import Path

from ..errors import FileError, OutputError
from ..files.header import MODEL_HASH, read_header
from ..files.metadata import RECORD
from ..files.moving import sha256_of
from ..files.steady import SteadyFile


def verified(staged: Path, sources: Collection[str]) -> str:
    """Return the SHA-256 of a staged file, hex.

    It must be a whole result of Resize LoRA, its ``sshs_model_hash`` must be that of its tensors on the disk, and its
    record must name one of `sources` (SHA-256, hex) as the file that it was made from. Raises OutputError.
    """
    try:
        header = read_header(staged)
        with closing(SteadyFile(staged)) as file:
            tensors = file.sha256(header.data_start)
        found = sha256_of(staged)
    except (FileError, OSError) as error:
        raise OutputError(f"{staged}: the new file cannot be read back, so nothing was replaced. {error}") from error
    if header.metadata.get(MODEL_HASH) != tensors or found is None:
        raise OutputError(
            f"{staged}: the tensors of the new file are not the ones that were written, so nothing was replaced. "
            "Check the disk and the memory of this machine."
        )
    if _source_of(header.metadata.get(RECORD, "")) not in sources:
        raise OutputError(
            f"{staged}: the new file was not made by Resize LoRA from this source, so nothing was replaced. "
            "Resize the file again."
        )
    return found


def _source_of(record: str) -> str | None:
    try:
        document = json.loads(record)
    except (ValueError, RecursionError):
        return None
    source = document.get("source_sha256") if isinstance(document, dict) else None
    return source if isinstance(source, str) else None
