"""The tensors of a GGUF file, by the library ``gguf`` (an optional extra), turned back into float32 one at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DamagedFileError, UnsupportedError
from ..linalg.casts import Single
from ..linalg.factor import Stored

_SAMPLE = 512
_SHAPE = "comfy.gguf.orig_shape."


class GgufStore:
    """A GGUF file of a diffusion model, as ComfyUI-GGUF and stable-diffusion.cpp write them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = _library(path)
        reader = _opened(self._library, path)
        self._tensors: dict[str, Any] = {tensor.name: tensor for tensor in reader.tensors}
        self.shapes: Mapping[str, tuple[int, ...]] = {
            name: _shape(reader, name, tensor) for name, tensor in self._tensors.items()
        }
        self._order = {name: place for place, name in enumerate(self._tensors)}

    files = ()

    def dtype(self, key: str) -> str:
        """Numbers come out as float32, however they are packed."""
        return "F32" if key in self._tensors else ""

    def read(self, key: str, rows: tuple[int, int] | None = None) -> Stored:
        values = self._numbers(key).reshape(self.shapes[key][0], -1)
        return Stored(np.ascontiguousarray(values if rows is None else values[rows[0] : rows[1]]), "F32")

    def position(self, key: str) -> int:
        return self._order[key]

    def fingerprint(self) -> str:
        """Names, shapes, kinds and 512 bytes from the middle of every tensor."""
        digest = hashlib.sha256()
        for name, tensor in self._tensors.items():
            raw = tensor.data.reshape(-1).view(np.uint8)
            middle = max(0, (raw.size - _SAMPLE) // 2)
            digest.update(f"{name} {self.shapes[name]} {int(tensor.tensor_type)} ".encode())
            digest.update(raw[middle : middle + _SAMPLE].tobytes())
        return digest.hexdigest()

    def close(self) -> None:
        """Lets go of the memory map."""
        self._tensors = {}

    def _numbers(self, key: str) -> Single:
        tensor = self._tensors[key]
        try:
            found = self._library.quants.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as error:
            raise UnsupportedError(
                f"{self.path}: {key} is quantised as {tensor.tensor_type.name}, which the library gguf cannot read "
                f"back. Name a checkpoint of another quantisation, or a safetensors file."
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


def _opened(library: Any, path: Path) -> Any:
    try:
        return library.GGUFReader(str(path))
    except (OSError, ValueError, KeyError, IndexError, OverflowError) as error:
        raise DamagedFileError(f"{path}: cannot be read as GGUF ({error}). Download or copy it again.") from error


def _shape(reader: Any, name: str, tensor: Any) -> tuple[int, ...]:
    """As torch has it: GGUF tells dimensions from the last to the first, and convolutions may lie flattened."""
    told = reader.get_field(_SHAPE + name)
    if told is not None:
        return tuple(int(told.parts[index][0]) for index in told.data)
    return tuple(int(size) for size in reversed(tensor.shape))
