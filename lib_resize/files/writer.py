"""Write safetensors files as a stream: hashed on the way, checked at the end, whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import DamagedFileError, FileError, OutputError
from .atomic import AtomicFile, check_room
from .header import (
    LEGACY_HASH,
    MODEL_HASH,
    PLACEHOLDERS,
    TensorSpec,
    describe,
    encode,
    file_order,
    frame,
    read_header,
)
from .steady import SteadyFile

_LEGACY_START, _LEGACY_STOP = 0x100000, 0x110000

Chunk: TypeAlias = "bytes | bytearray | memoryview | NDArray[Any]"


@dataclass(frozen=True)
class WrittenFile:
    """A finished file: where it is, its size, and ``sshs_model_hash`` (SHA-256 of the tensor region, hex)."""

    path: Path
    bytes: int
    model_hash: str


def file_bytes(specs: Sequence[TensorSpec], metadata: Mapping[str, str]) -> int:
    """Exact size in bytes of the file that ``write_safetensors`` makes of this, hashes included."""
    return len(encode(specs, {**metadata, **PLACEHOLDERS})) + sum(spec.nbytes for spec in specs)


def write_safetensors(
    path: str | os.PathLike[str],
    specs: Sequence[TensorSpec],
    metadata: Mapping[str, str],
    chunks: Iterable[Chunk],
    *,
    overwrite: bool = False,
    check: Callable[[Path], None] | None = None,
    sources: Sequence[str | os.PathLike[str]] = (),
) -> WrittenFile:
    """Write a safetensors file, one tensor at a time; the final name appears only when all is done.

    ``specs`` are in ``file_order``; ``chunks`` yields the data of each, in the same order, little endian and
    C-contiguous, and may compute them on the way. The two ``sshs_*`` fields are filled in here. All bytes are read
    back from the disk and compared; then ``check`` gets the finished temporary and refuses it by raising.
    ``sources`` are the files being read: none of them is ever replaced, not even with ``overwrite``.

    Raises ``OutputError`` if the file cannot be written or a chunk does not fit its spec; what ``chunks`` or
    ``check`` raise passes unchanged. After any exception the folder is as it was.
    """
    final = Path(path)
    _refuse_sources(final, sources)
    if list(specs) != file_order(specs):
        raise ValueError("the tensors to write are not in file order; sort them with file_order first")
    job = _WritePlan(specs, describe(specs), metadata)
    with AtomicFile(final, overwrite=overwrite) as draft:
        draft.open()
        check_room(final.parent, job.size)
        hashes = _write_tensors(draft, job, chunks)
        header = job.header(hashes)
        draft.rewrite_start(header)
        draft.finish()
        _compare_with_disk(draft, header, hashes[MODEL_HASH])
        if check is not None:
            check(draft.path)
        draft.publish()
    return WrittenFile(final, job.size, hashes[MODEL_HASH])


@dataclass(frozen=True)
class _WritePlan:
    """What is to be written, with the tensors' part of the header made once: it is needed four times."""

    specs: Sequence[TensorSpec]
    members: str
    metadata: Mapping[str, str]

    def header(self, hashes: Mapping[str, str]) -> bytes:
        return frame(self.members, {**self.metadata, **hashes})

    def legacy_header(self) -> bytes:
        return frame(self.members, {key: text for key, text in self.metadata.items() if key.startswith("ss_")})

    @property
    def size(self) -> int:
        return len(self.header(PLACEHOLDERS)) + sum(spec.nbytes for spec in self.specs)


def _refuse_sources(final: Path, sources: Sequence[str | os.PathLike[str]]) -> None:
    for source in sources:
        try:
            same = final.samefile(source)
        except OSError:  # one of the two does not exist
            continue
        if same:
            raise OutputError(f"{final}: this is the source file itself, which is never replaced. Choose another name.")


def _write_tensors(draft: AtomicFile, job: _WritePlan, chunks: Iterable[Chunk]) -> dict[str, str]:
    """Write everything with placeholders for the hashes, and return the hashes."""
    hashes = _Hashes(job.legacy_header())
    draft.write(job.header(PLACEHOLDERS))
    stream = iter(chunks)
    for spec in job.specs:
        data = _bytes_of(spec, next(stream, None))
        hashes.update(data)
        draft.write(data)
    if next(stream, None) is not None:
        raise OutputError(f"{draft.final}: more data came than the {len(job.specs)} tensors have. Please report this.")
    return hashes.fields()


def _bytes_of(spec: TensorSpec, chunk: Chunk | None) -> memoryview:
    """The chunk as flat bytes. Raises ``OutputError`` if it is missing or does not fit the tensor."""
    if chunk is None:
        raise OutputError(f"tensor {spec.name!r}: the data ended before it. Please report this.")
    if isinstance(chunk, np.ndarray):
        if not chunk.flags.c_contiguous:
            raise OutputError(f"tensor {spec.name!r}: its array is not C-contiguous. Please report this.")
        # memoryview itself cannot cast complex or empty arrays
        view = chunk.reshape(-1).view(np.uint8).data
    else:
        view = memoryview(chunk)
    if view.nbytes != spec.nbytes:
        shape = "x".join(map(str, spec.shape)) or "scalar"
        raise OutputError(
            f"tensor {spec.name!r}: got {view.nbytes} bytes, but {spec.dtype} {shape} has {spec.nbytes}. "
            "Please report this."
        )
    return view.cast("B") if view.nbytes else memoryview(b"")


def _compare_with_disk(draft: AtomicFile, header: bytes, data_hash: str) -> None:
    """Raise ``OutputError`` where any byte of the finished temporary is not the one that was meant."""
    try:
        disk = SteadyFile(draft.path)
        try:
            is_same = disk.read(0, len(header)) == header and disk.sha256(len(header)) == data_hash
        finally:
            disk.close()
    except FileError as error:
        raise OutputError(f"{draft.final}: the written file cannot be read back; nothing was kept. {error}") from error
    if not is_same:
        raise OutputError(
            f"{draft.final}: the bytes on the disk are not the ones that were written; nothing was kept. "
            "Check the disk and the memory of this machine."
        )


class _Hashes:
    """Both hashes that WebUIs know a LoRA by, from one pass over the tensor region.

    ``sshs_model_hash`` is SHA-256 of the tensor region. ``sshs_legacy_hash`` begins the SHA-256 of the 64 KiB
    at 1 MiB of a file whose metadata are the ``ss_*`` fields alone (kohya-ss/sd-scripts); that file is never
    made, its header ``legacy_header`` and the tensor region simply pass by a window.
    """

    def __init__(self, legacy_header: bytes) -> None:
        self._model = hashlib.sha256()
        self._legacy = hashlib.sha256()
        self._position = 0
        self._pass_window(memoryview(legacy_header))

    def update(self, data: memoryview) -> None:
        self._model.update(data)
        self._pass_window(data)

    def _pass_window(self, data: memoryview) -> None:
        start = max(_LEGACY_START - self._position, 0)
        stop = _LEGACY_STOP - self._position
        if start < stop:
            self._legacy.update(data[start:stop])
        self._position += len(data)

    def fields(self) -> dict[str, str]:
        return {MODEL_HASH: self._model.hexdigest(), LEGACY_HASH: self._legacy.hexdigest()[:8]}


def verify(path: str | os.PathLike[str], specs: Sequence[TensorSpec]) -> None:
    """Reopen a written file with the safetensors library: every tensor there, with its shape, and no other.

    Old versions of the library do not know all dtypes; such files are compared by our own reader. Raises
    ``OutputError`` naming the first difference.
    """
    path = Path(path)
    found = _shapes_by_library(path) or _shapes_by_header(path)
    expected = {spec.name: spec.shape for spec in specs}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise OutputError(
                f"{path}: the written file was read back and differs: tensor {name!r} is {found.get(name)}, "
                f"written was {expected.get(name)}. Check the disk and the memory of this machine."
            )


def _shapes_by_library(path: Path) -> dict[str, tuple[int, ...]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as opened:
            names = opened.keys()
            return {name: tuple(opened.get_slice(name).get_shape()) for name in names}
    except SafetensorError:
        return {}


def _shapes_by_header(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        return {name: entry.shape for name, entry in read_header(path).entries.items()}
    except DamagedFileError as error:
        raise OutputError(f"the written file cannot be read back. {error}") from error
