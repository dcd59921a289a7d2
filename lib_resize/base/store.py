"""The files of a base model: one file, several shards, a folder of components, or a GGUF file.

A store knows shapes and dtypes from the headers alone, and reads one tensor, or rows of one, at a time.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from ..errors import DamagedFileError, UnsupportedError
from ..files.reader import SafeFile, fingerprint
from ..linalg.factor import Stored
from .norms_file import NormsStore, is_norms_file

COMPONENTS = ("unet", "transformer", "prior", "text_encoder", "text_encoder_2", "text_encoder_3")
"""Folders of a diffusers pipeline with weights that a LoRA can change."""
_DENOISERS = ("unet", "transformer", "prior")
_INDEX = ".safetensors.index.json"
_SUFFIX = ".safetensors"
_VARIANTS = ("", ".fp32", ".bf16", ".fp16", ".non_ema")


class Store(Protocol):
    """A base model's tensors by key."""

    @property
    def path(self) -> Path:
        """The path that was opened."""
        ...

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of all tensors, by key."""
        ...

    @property
    def files(self) -> Sequence[SafeFile]:
        """Its safetensors files; empty for other formats."""
        ...

    def dtype(self, key: str) -> str:
        """Return the safetensors dtype in which `read` returns a tensor; another word where it cannot be read."""
        ...

    def read(self, key: str, rows: tuple[int, int] | None = None) -> Stored:
        """Read a tensor, or a half-open range of its rows, as a matrix (rows, columns).

        The memory is freed when nobody refers to the matrix any more.
        """
        ...

    def position(self, key: str) -> int:
        """Return the place of a tensor in the order in which tensors are read fastest."""
        ...

    def fingerprint(self) -> str:
        """Return a key for the contents: 64 hex digits."""
        ...

    def close(self) -> None:
        """Close all files."""
        ...


class SafeStore:
    """Safetensors files as one store; the keys of each file get a prefix."""

    def __init__(self, path: Path, files: Mapping[SafeFile, str]) -> None:
        self.path = path
        self._files = files
        self._sources = {prefix + key: (file, key) for file, prefix in files.items() for key in file.header.entries}
        self.shapes = {key: file.header.entries[own].shape for key, (file, own) in self._sources.items()}
        self._order = {key: place for place, key in enumerate(self._sources)}

    @property
    def files(self) -> Sequence[SafeFile]:
        return tuple(self._files)

    def dtype(self, key: str) -> str:
        file, own = self._sources[key]
        return file.header.entries[own].dtype

    def read(self, key: str, rows: tuple[int, int] | None = None) -> Stored:
        file, own = self._sources[key]
        bits = file.bits(own, rows)
        return Stored(bits.reshape(bits.shape[0] if bits.shape else 1, -1), self.dtype(key))

    def position(self, key: str) -> int:
        return self._order[key]

    def fingerprint(self) -> str:
        """Return the fingerprint of a single file, or a digest of those of all files."""
        each = [f"{prefix} {fingerprint(file)}" for file, prefix in self._files.items()]
        return _digest(each) if len(each) > 1 else each[0].split()[-1]

    def close(self) -> None:
        for file in self._files:
            file.close()


def _digest(each: list[str]) -> str:
    return hashlib.sha256("\n".join(sorted(each)).encode()).hexdigest()


def is_model_folder(path: Path) -> bool:
    """Return whether a folder is a diffusers pipeline, or one component of it, and not a folder of LoRAs."""
    if not path.is_dir():
        return False
    inside = any((path / name).is_dir() and _weights_in(path / name) for name in _DENOISERS)
    return inside or ((path / "config.json").is_file() and bool(_weights_in(path)) and not _is_adapter(path))


def open_store(path: Path | SafeFile) -> Store:
    """Open a file or a folder.

    Raises what ``SafeFile`` raises, ``UnsupportedError`` for a folder without weights, and ``DamagedFileError`` where
    shards are missing.
    """
    if isinstance(path, SafeFile):
        return SafeStore(path.path, {path: ""})
    if path.is_dir():
        return _open_folder(path)
    if path.suffix.lower() == ".gguf":
        from .gguf_store import GgufStore

        return GgufStore(path)
    if is_norms_file(path.name):
        return NormsStore(path)
    return SafeStore(path, _opened([path.with_name(name) for name in _siblings(path)]))


_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors", re.IGNORECASE)


def _siblings(path: Path) -> list[str]:
    """Return the names of all shards where a file is one of them; else its own name."""
    found = _SHARD.fullmatch(path.name)
    if found is None or int(found["count"]) > _MOST_SHARDS:
        return [path.name]
    names = [
        f"{found['stem']}-{number + 1:05}-of-{found['count']}{path.suffix}" for number in range(int(found["count"]))
    ]
    missing = next((name for name in names if not path.with_name(name).is_file()), None)
    if missing is not None:
        raise DamagedFileError(
            f"{path}: this file is a shard, and {missing} is missing next to it. Download the missing files."
        )
    return names


_MOST_SHARDS = 1000


def _opened(paths: Sequence[Path]) -> dict[SafeFile, str]:
    """Open all files, or none: after an error all are closed."""
    files: dict[SafeFile, str] = {}
    try:
        for path in paths:
            files[SafeFile(path)] = ""
    except BaseException:
        for file in files:
            file.close()
        raise
    return files


def _open_folder(path: Path) -> SafeStore:
    places = {path / name: f"{name}." for name in COMPONENTS if (path / name).is_dir()} or {path: ""}
    files: dict[SafeFile, str] = {}
    try:
        for folder, prefix in places.items():
            for name in _weights_in(folder):
                files[SafeFile(folder / name)] = prefix
    except BaseException:
        for file in files:
            file.close()
        raise
    if not files:
        raise UnsupportedError(
            f"{path}: no {_SUFFIX} file in it or in its folders {', '.join(COMPONENTS)}; a base model was expected."
        )
    return SafeStore(path, files)


def _weights_in(folder: Path) -> list[str]:
    """Return the names of the files that make up one component: the shards of an index, or one file.

    Of several variants (half precision, without EMA) the plain one is preferred.
    """
    indices = {index.name.removesuffix(_INDEX): index for index in sorted(folder.glob(f"*{_INDEX}"))}
    if indices:
        return _shards(indices[min(indices, key=_variant)])
    single = [found.name for found in sorted(folder.glob(f"*{_SUFFIX}"))]
    return [min(single, key=lambda name: _variant(name.removesuffix(_SUFFIX)))] if single else []


def _variant(stem: str) -> tuple[int, str]:
    """Return a sort key by preference; the variant is what follows the first dot."""
    word = stem.partition(".")[1] + stem.partition(".")[2]
    return (_VARIANTS.index(word) if word in _VARIANTS else len(_VARIANTS)), stem


def _shards(index: Path) -> list[str]:
    try:
        names = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFileError(
            f"{index}: cannot be read as an index of shards ({error!r}). Download the folder again."
        ) from error
    wrong = sorted(str(name) for name in names if not isinstance(name, str) or Path(name).name != name)
    missing = wrong or sorted(name for name in names if not (index.parent / name).is_file())
    if missing:
        raise DamagedFileError(
            f"{index}: names the shard {missing[0]}, which is missing next to it. Download the missing files."
        )
    return sorted(names)


def _is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file()
