"""Write safetensors files as a stream: hash while writing, verify at the end, publish atomically."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import REPORT_AT, DamagedFileError, FileError, OutputError
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

_BLOCK = 1 << 20  # bytes: a file has thousands of small tensors, and each call would wait for the interpreter's lock
_LEGACY_START, _LEGACY_STOP = 0x100000, 0x110000
_PLEASE_REPORT = f"Please report it: {REPORT_AT}"

Chunk: TypeAlias = "bytes | bytearray | memoryview | NDArray[Any]"


@dataclass(frozen=True)
class WrittenFile:
    """A finished file: its path, its size in bytes, and ``sshs_model_hash`` (SHA-256 of the tensor region, hex)."""

    path: Path
    bytes: int
    model_hash: str


def file_bytes(specs: Sequence[TensorSpec], metadata: Mapping[str, str]) -> int:
    """Return the exact size in bytes of the file that ``write_safetensors`` writes, hashes included."""
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
    """Write a safetensors file, one tensor at a time. The final name appears only when the file is complete.

    `specs` are in ``file_order``. `chunks` yields the data of each tensor in the same order, little endian and
    C-contiguous; it can be a generator that computes them. The two ``sshs_*`` metadata fields are filled in here. All
    bytes are read back from the disk and compared. Then `check` gets the path of the finished temporary file, and
    refuses it by raising. `sources` are the files being read: they are never replaced, not even with `overwrite`.

    Raises ``OutputError`` if the file cannot be written or a chunk does not fit its spec, and ``ValueError`` if the
    specs are not in order; what `chunks` or `check` raise passes unchanged. After any exception the folder is
    unchanged.
    """
    final = Path(path)
    _refuse_sources(final, sources)
    if list(specs) != file_order(specs):
        raise ValueError("the tensors to write are not in file order; sort them with file_order first")
    plan = _WritePlan(specs, describe(specs), metadata)
    with AtomicFile(final, overwrite=overwrite) as draft:
        draft.open()
        check_room(final.parent, plan.size)
        hashes = _write_tensors(draft, plan, chunks)
        header = plan.header(hashes)
        draft.rewrite_start(header)
        draft.finish()
        _compare_with_disk(draft, header, hashes[MODEL_HASH])
        if check is not None:
            check(draft.path)
        draft.publish()
    return WrittenFile(final, plan.size, hashes[MODEL_HASH])


@dataclass(frozen=True)
class _WritePlan:
    """The contents of a file to write. The tensors' part of the header is encoded once and used four times."""

    specs: Sequence[TensorSpec]
    members: str
    metadata: Mapping[str, str]

    def header(self, hashes: Mapping[str, str]) -> bytes:
        """Return the bytes before the tensor region, with these values of the hash fields."""
        return frame(self.members, {**self.metadata, **hashes})

    def legacy_header(self) -> bytes:
        """Return the bytes before the tensor region for ``sshs_legacy_hash``; see `_Hashes`."""
        return frame(self.members, {key: text for key, text in self.metadata.items() if key.startswith("ss_")})

    @property
    def size(self) -> int:
        """Size of the file, in bytes."""
        return len(self.header(PLACEHOLDERS)) + sum(spec.nbytes for spec in self.specs)


def _refuse_sources(final: Path, sources: Sequence[str | os.PathLike[str]]) -> None:
    for source in sources:
        try:
            same = final.samefile(source)
        except OSError:  # one of the two does not exist
            continue
        if same:
            raise OutputError(f"{final}: this is the source file, which is never replaced. Choose another name.")


def _write_tensors(draft: AtomicFile, plan: _WritePlan, chunks: Iterable[Chunk]) -> dict[str, str]:
    """Write the file with placeholders for the hashes; return the hashes as metadata fields."""
    hashes = _Hashes(plan.legacy_header())
    draft.write(plan.header(PLACEHOLDERS))
    stream = iter(chunks)
    block: list[memoryview] = []
    waiting = 0
    for spec in plan.specs:
        block.append(_bytes_of(spec, next(stream, None)))
        waiting += spec.nbytes
        if waiting >= _BLOCK:
            _append(block, draft, hashes)
            block, waiting = [], 0
    _append(block, draft, hashes)
    if next(stream, None) is not None:
        raise OutputError(f"{draft.final}: got more data than its {len(plan.specs)} tensors hold. {_PLEASE_REPORT}")
    return hashes.fields()


def _append(block: Sequence[memoryview], draft: AtomicFile, hashes: _Hashes) -> None:
    """Hash and write the data of a block."""
    data = memoryview(b"".join(block))
    hashes.update(data)
    draft.write(data)


def _bytes_of(spec: TensorSpec, chunk: Chunk | None) -> memoryview:
    """Return a chunk as flat bytes. Raises ``OutputError`` if it is missing or does not fit the tensor."""
    if chunk is None:
        raise OutputError(f"tensor {spec.name!r}: no data for it. {_PLEASE_REPORT}")
    if isinstance(chunk, np.ndarray):
        if not chunk.flags.c_contiguous:
            raise OutputError(f"tensor {spec.name!r}: its array is not C-contiguous. {_PLEASE_REPORT}")
        # memoryview cannot cast complex or empty arrays
        view = chunk.reshape(-1).view(np.uint8).data
    else:
        view = memoryview(chunk)
    if view.nbytes != spec.nbytes:
        shape = "x".join(map(str, spec.shape)) or "scalar"
        raise OutputError(
            f"tensor {spec.name!r}: got {view.nbytes} bytes, but {spec.dtype} {shape} has {spec.nbytes}. "
            f"{_PLEASE_REPORT}"
        )
    return view.cast("B") if view.nbytes else memoryview(b"")


def _compare_with_disk(draft: AtomicFile, header: bytes, data_hash: str) -> None:
    """Raise ``OutputError`` unless the finished temporary file holds exactly the bytes that were written."""
    try:
        disk = SteadyFile(draft.path)
        try:
            is_same = disk.read(0, len(header)) == header and disk.sha256(len(header)) == data_hash
        finally:
            disk.close()
    except FileError as error:
        raise OutputError(f"{draft.final}: the written file cannot be read back, so it was removed. {error}") from error
    if not is_same:
        raise OutputError(
            f"{draft.final}: the bytes on the disk are not the ones that were written, so the file was removed. "
            "Check the disk and the memory of this machine."
        )


class _Hashes:
    """Both hashes by which WebUIs identify a LoRA, from one pass over the tensor region.

    ``sshs_model_hash`` is the SHA-256 of the tensor region. ``sshs_legacy_hash`` is the first 8 digits of the SHA-256
    of the 64 KiB at 1 MiB of a file whose metadata are the ``ss_*`` fields alone (kohya-ss/sd-scripts). That file is
    never written: `legacy_header` and the tensor region pass through a window instead.
    """

    def __init__(self, legacy_header: bytes) -> None:
        self._model = hashlib.sha256()
        self._legacy = hashlib.sha256()
        self._position = 0
        self._pass_window(memoryview(legacy_header))

    def update(self, data: memoryview) -> None:
        """Add the next bytes of the tensor region."""
        self._model.update(data)
        self._pass_window(data)

    def _pass_window(self, data: memoryview) -> None:
        start = max(_LEGACY_START - self._position, 0)
        stop = _LEGACY_STOP - self._position
        if start < stop:
            self._legacy.update(data[start:stop])
        self._position += len(data)

    def fields(self) -> dict[str, str]:
        """Return both hashes as metadata fields."""
        return {MODEL_HASH: self._model.hexdigest(), LEGACY_HASH: self._legacy.hexdigest()[:8]}


def verify(path: str | os.PathLike[str], specs: Sequence[TensorSpec]) -> None:
    """Reopen a written file with the safetensors library, and compare the names and shapes of its tensors with `specs`.

    Old versions of the library do not know all dtypes; such files are read with ``read_header``. Raises
    ``OutputError`` that names the first difference.
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
