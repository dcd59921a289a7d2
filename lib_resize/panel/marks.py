"""Recognise written files by their content: a file that was replaced under the same name is another file.

Standard library only.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PIECE = 1 << 20


@dataclass(frozen=True)
class Mark:
    """Size, time and content of a file when it was written."""

    path: Path
    bytes: int
    modified: int
    """Nanoseconds since 1970."""
    sha256: str

    def to_json(self) -> dict[str, Any]:
        return {"path": str(self.path), "bytes": self.bytes, "modified": self.modified, "sha256": self.sha256}

    def looks_unchanged(self) -> bool:
        """Return whether size and time are the same. Does not read the file."""
        return stamp_at(self.path) == (self.bytes, self.modified)

    def looks_replaced(self) -> bool:
        """Return whether a file has the path, with another size or time. Does not read the file."""
        return stamp_at(self.path) not in (None, (self.bytes, self.modified))

    def is_unchanged(self) -> bool:
        """Return whether the content is the same. Reads the file; its time may differ, as after a copy."""
        found = stamp_at(self.path)
        if found is None or found[0] != self.bytes:
            return False
        try:
            return _sha256(self.path) == self.sha256
        except OSError:
            return False


def mark_of(path: Path) -> Mark:
    """Return the mark of a file as it is now. Raises OSError."""
    found = stamp_at(path)
    if found is None:
        raise FileNotFoundError(f"{path}: not a regular file")
    return Mark(path, *found, _sha256(path))


def mark_at(path: Path, file: Path, sha256: str) -> Mark:
    """Return the mark that a complete `file` of known content will have once it is moved to `path`. Raises OSError."""
    found = stamp_at(file)
    if found is None:
        raise FileNotFoundError(f"{file}: not a regular file")
    return Mark(path, *found, sha256)


def read_mark(document: Mapping[str, Any]) -> Mark:
    """Return a mark from its JSON form. Raises ValueError, KeyError and TypeError."""
    path, sha256 = Path(document["path"]), document["sha256"]
    if not path.is_absolute() or not isinstance(sha256, str):
        raise ValueError("not a mark")
    return Mark(path, int(document["bytes"]), int(document["modified"]), sha256)


def stamp_at(path: Path) -> tuple[int, int] | None:
    """Return size and time of a regular file; None for anything else, links included."""
    try:
        found = os.lstat(path)
    except (OSError, ValueError):
        return None
    return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def model_hash(path: Path) -> str:
    """Return the SHA-256 of a safetensors file without its header, as written files record it. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()
