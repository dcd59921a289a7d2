"""Read the tensors of a GGUF file, unpacked to float32 one at a time by the library ``gguf`` (an optional extra)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DamagedFileError, UnsupportedError
from ..files.steady import SteadyFile
from ..linalg.casts import Single
from ..linalg.factor import Stored
from .gguf_header import PackedTensor, read_gguf_header, torch_shape

_SAMPLE = 512


class GgufStore:
    """A GGUF file of a diffusion model, as ComfyUI-GGUF and stable-diffusion.cpp write it; a `store.Store`.

    Raises ``UnsupportedError`` where the library is not installed or does not know the packing, ``DamagedFileError``
    and ``FileError``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = _library(path)
        self._file = SteadyFile(path)
        try:
            header = read_gguf_header(self._file)
            self._tensors = header.tensors
            self._bytes = {name: self._size_of(name, tensor) for name, tensor in self._tensors.items()}
        except BaseException:
            self._file.close()
            raise
        self.shapes: Mapping[str, tuple[int, ...]] = {
            name: torch_shape(name, tensor, header) for name, tensor in self._tensors.items()
        }
        self._order = {name: place for place, name in enumerate(self._tensors)}

    files = ()

    def dtype(self, key: str) -> str:
        """Return "F32": `read` unpacks to float32. "" for an unknown key."""
        return "F32" if key in self._tensors else ""

    def read(self, key: str, rows: tuple[int, int] | None = None) -> Stored:
        """Read a tensor, or rows of it, as a float32 matrix (rows, columns)."""
        shape = self.shapes[key]
        values = self._unpacked(key).reshape(shape[0] if shape else 1, -1)
        return Stored(np.ascontiguousarray(values if rows is None else values[rows[0] : rows[1]]), "F32")

    def position(self, key: str) -> int:
        """Return the place of a tensor in the file's order."""
        return self._order[key]

    def fingerprint(self) -> str:
        """Return the SHA-256, in hex, of names, shapes, packing types and 512 bytes from the middle of every tensor."""
        digest = hashlib.sha256()
        for name, tensor in self._tensors.items():
            size = self._bytes[name]
            middle = max(0, (size - _SAMPLE) // 2)
            digest.update(f"{name} {self.shapes[name]} {tensor.kind} ".encode())
            digest.update(self._file.read(tensor.start + middle, min(_SAMPLE, size - middle)))
        return digest.hexdigest()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _size_of(self, name: str, tensor: PackedTensor) -> int:
        """Return the size of a tensor, in bytes. Raises where the file is too small for it."""
        block, size = self._packing(name, tensor)
        row = tensor.dimensions[0] if tensor.dimensions else 1
        if row % block:
            raise DamagedFileError(
                f"{self.path}: cannot be read as GGUF: {name[:80]} has rows of {row} numbers in blocks of {block}. "
                "Download or copy the file again."
            )
        nbytes = math.prod(tensor.dimensions) // block * size
        if tensor.start + nbytes > self._file.size:
            raise DamagedFileError(
                f"{self.path}: cannot be read as GGUF: it has {self._file.size} bytes, and {name[:80]} would end at "
                f"{tensor.start + nbytes}. Download or copy the file again."
            )
        return int(nbytes)

    def _packing(self, name: str, tensor: PackedTensor) -> tuple[int, int]:
        """Return how many numbers, and how many bytes, one block of a tensor holds."""
        try:
            block, size = self._library.GGML_QUANT_SIZES[self._library.GGMLQuantizationType(tensor.kind)]
        except (ValueError, KeyError) as error:
            raise UnsupportedError(
                f"{self.path}: {name[:80]} is packed as type {tensor.kind}, which the library gguf does not know. "
                "Update it (pip install -U gguf), or name a safetensors file."
            ) from error
        return int(block), int(size)

    def _unpacked(self, key: str) -> Single:
        tensor = self._tensors[key]
        kind = self._library.GGMLQuantizationType(tensor.kind)
        data = np.empty(self._bytes[key], np.uint8)
        self._file.read_into(data.data, tensor.start)
        rows = math.prod(tensor.dimensions[1:])
        try:
            found = self._library.quants.dequantize(data.reshape(rows, -1) if rows else data, kind)
        except NotImplementedError as error:
            raise UnsupportedError(
                f"{self.path}: {key} is quantised as {kind.name}, which the library gguf cannot unpack. "
                "Name a checkpoint of another quantisation, or a safetensors file."
            ) from error
        return np.asarray(found, np.float32)


def _library(path: Path) -> Any:
    try:
        import gguf
    except ImportError as error:
        raise UnsupportedError(
            f"{path}: reading GGUF needs the library gguf, which is not installed: pip install gguf. "
            f"Or name the model as a safetensors file."
        ) from error
    return gguf
