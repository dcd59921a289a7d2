"""The header and the norms of a checkpoint as a small JSON file, in place of the checkpoint, where norms are enough.

``base.json`` of `resize-lora base export` has the name of the checkpoint, its fingerprint, the shape and dtype of each
tensor, and the Frobenius and spectral norm of each weight that a LoRA layer could change. Recipes that need the weights
themselves are refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DamagedFileError, FileError, UnsupportedError
from ..linalg.factor import Stored
from .norm_cache import VERSION, NormTable, checked_norms

FORMAT = "resize-lora-base"
SUFFIX = ".json"


class NormsStore:
    """A norms file as a `store.Store` whose tensors cannot be read.

    Raises ``FileError`` where it cannot be read, and ``DamagedFileError`` where it is no such file.
    """

    files = ()

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            data = path.read_bytes()
        except OSError as error:
            raise FileError(f"{path}: cannot be read: {error.strerror}. Try again.") from error
        fields = _document(data, str(path))
        try:
            self.shapes: Mapping[str, tuple[int, ...]] = {
                key: tuple(map(int, shape)) for key, (_, shape) in fields["tensors"].items()
            }
            self._dtypes = {key: str(dtype) for key, (dtype, _) in fields["tensors"].items()}
            self.norms: NormTable = {key: checked_norms(*pair) for key, pair in fields["norms"].items()}
            self._fingerprint = str(fields["fingerprint"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _no_norms(str(path)) from error
        self._order = {key: place for place, key in enumerate(self.shapes)}

    def dtype(self, key: str) -> str:
        """Return the dtype of a tensor in the checkpoint."""
        return self._dtypes[key]

    def read(self, key: str, rows: tuple[int, int] | None = None) -> Stored:  # noqa: ARG002 - as in `store.Store`
        """Raise ``UnsupportedError``: there are no weights here."""
        raise UnsupportedError(
            f"{self.path}: this file has the norms of a base model only, and {key} itself is needed. "
            "Give the checkpoint with --base."
        )

    def position(self, key: str) -> int:
        """Return the place of a tensor in the checkpoint."""
        return self._order[key]

    def fingerprint(self) -> str:
        """Return the fingerprint of the checkpoint."""
        return self._fingerprint

    def close(self) -> None:
        """Do nothing: no file is open."""


def is_norms_file(name: str) -> bool:
    """Return whether a base model of this file name has norms only."""
    return name.lower().endswith(SUFFIX)


def norms_identity(data: bytes, source: str) -> str:
    """Return the SHA-256 of a norms file, hex. Raises ``DamagedFileError`` where it is none."""
    _document(data, source)
    return hashlib.sha256(data).hexdigest()


def norms_document(
    name: str, fingerprint: str, tensors: Mapping[str, tuple[str, tuple[int, ...]]], norms: NormTable
) -> bytes:
    """Return the bytes of a norms file. `tensors` maps each key to its dtype and shape."""
    fields = {
        "format": FORMAT,
        "norms_version": VERSION,
        "name": name,
        "fingerprint": fingerprint,
        "tensors": {key: [dtype, list(shape)] for key, (dtype, shape) in tensors.items()},
        "norms": {key: list(pair) for key, pair in sorted(norms.items())},
    }
    return (json.dumps(fields, separators=(",", ":")) + "\n").encode()


def _document(data: bytes, source: str) -> dict[str, Any]:
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _no_norms(source) from error
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise _no_norms(source)
    if fields.get("norms_version") != VERSION:
        raise UnsupportedError(
            f"{source}: its norms are of version {fields.get('norms_version')!r}, {VERSION} is expected. "
            "Make it again with `resize-lora base export`."
        )
    return fields


def _no_norms(source: str) -> DamagedFileError:
    return DamagedFileError(
        f"{source}: this is not a norms file of a base model. Make one with `resize-lora base export CHECKPOINT`."
    )
