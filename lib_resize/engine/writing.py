"""The file of a job: written as a stream, whole or not at all, and checked before it gets its name."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..adapters.layer import Copied
from ..adapters.write.layout import NewLayer, OutputLayout
from ..errors import LayerError
from ..files.header import TensorSpec
from ..files.target import RESULT, Inputs, check_target
from ..files.writer import Chunk, verify, write_safetensors
from ..linalg.casts import LARGEST, Bits, Single, largest_magnitude, round_to, singles
from ..linalg.finite import check_finite
from ..plans import Plan
from ..progress import in_order
from .checking import check_deltas
from .job import ResizeJob
from .layer_values import storage_arrays
from .runtime import Runtime
from .selection import Selection
from .stamping import metadata

_GROUP = 1 << 18  # numbers written: fewer, larger steps, so that workers seldom wait for one another


def execute(
    job: ResizeJob, runtime: Runtime, hashes: Sequence[str], *, overwrite: bool = False, inputs: Inputs | None = None
) -> Plan:
    """Write the file of a job, whole or not at all, and check it. Return its plan with the bytes that were written.

    Errors of fp8 layers are measured before, by `measuring`, since they are part of the metadata.
    `hashes` are the SHA-256 of the adapter's files, hex. With `overwrite` it replaces a result of an earlier run, but
    none of the `inputs`. Raises OutputError where the file cannot be written or does not hold what it should.
    """
    inputs = inputs or Inputs(job.analysis.adapter.paths)
    check_target(job.path, RESULT, overwrite=overwrite, inputs=inputs)
    if job.selection.is_estimated:
        raise ValueError("measure the errors of fp8 layers before the file is written")

    def check(path: Path) -> None:
        verify(path, job.layout.specs)
        check_deltas(path, job, runtime)
        check_target(job.path, RESULT, overwrite=overwrite, inputs=inputs)  # another program may have made a file there

    written = write_safetensors(
        job.path,
        job.layout.specs,
        metadata(job.selection, job.path.stem, hashes),
        _chunks(job.selection, runtime),
        overwrite=overwrite,
        check=check,
        sources=job.analysis.adapter.paths,
    )
    return replace(job.plan, bytes_after=written.bytes)


def _chunks(selection: Selection, runtime: Runtime) -> Iterator[Chunk]:
    """Yield the data of every tensor in the order of the file; layers are computed a little ahead."""
    layout = selection.layout
    alphas = {new.alpha.name: new.alpha_value for new in layout.layers if new.alpha is not None}
    computed = _computed(selection, runtime)
    ready: dict[str, Bits] = {}
    for spec in layout.specs:
        if spec.name in alphas:
            yield np.array(alphas[spec.name], np.float32)
        elif spec.name in layout.copied:
            yield _copy(spec, layout.copied[spec.name], selection)
        else:
            while spec.name not in ready:
                ready.update(next(computed))
            yield ready.pop(spec.name)


def _computed(selection: Selection, runtime: Runtime) -> Iterator[dict[str, Bits]]:
    """Yield the tensors of all layers, some layers at a time, in the order of the file."""
    layers = _in_file_order(selection.layout)
    runtime.progress.start("write", len(selection.layout.layers))
    if runtime.placement.may_use_device:
        layers = yield from _from_device(selection, layers, runtime)
    groups = list(_groups(layers))
    results = in_order(
        runtime.pool, lambda group: storage_arrays(selection, group, runtime.arrays), groups, runtime.ahead
    )
    for group, tensors in zip(groups, results, strict=True):
        runtime.progress.step(len(group))
        yield tensors


def _from_device(
    selection: Selection, layers: Sequence[NewLayer], runtime: Runtime
) -> Generator[dict[str, Bits], None, list[NewLayer]]:
    """Yield the tensors of all layers if a device computes some of them; return the layers that are left."""
    from .device_work import makes_factors, stored_tensors  # a run on the CPU does without

    if not makes_factors(selection, layers, runtime):
        return list(layers)
    for new, tensors in stored_tensors(selection, layers, runtime):
        yield storage_arrays(selection, [new], runtime.arrays) if tensors is None else tensors
        runtime.progress.step()
    return []


def _copy(spec: TensorSpec, copied: Copied, selection: Selection) -> Chunk:
    """Return a tensor unchanged, or multiplied by what the recipe does to its layer's scale."""
    gain = 1.0 if copied.gain is None else copied.gain * selection.recipe.rescale
    if copied.made is not None:
        return _fitted(spec, copied.made * np.float32(gain))
    file = selection.adapter.files[copied.source]
    kind, bits = file.header.entries[copied.key].dtype, file.bits(copied.key)
    if kind in LARGEST:
        check_finite(f"{file.path}: {copied.key}", singles(bits, kind))
    if gain == 1.0:
        return bits
    if kind not in LARGEST:
        raise LayerError(f"{file.path}: {copied.key} has the dtype {kind}, which cannot be scaled with its layer.")
    return _fitted(spec, np.asarray(singles(bits, kind) * np.float32(gain)))


def _fitted(spec: TensorSpec, values: Single) -> Bits:
    """Round to the tensor's dtype. Raises LayerError where a number does not fit."""
    if not largest_magnitude(values) <= LARGEST[spec.dtype]:
        raise LayerError(
            f"{spec.name} would hold {largest_magnitude(values):.3g}, more than {spec.dtype} can. "
            "Use a smaller strength."
        )
    return round_to(values, spec.dtype)


def _in_file_order(layout: OutputLayout) -> list[NewLayer]:
    owner = {spec.name: new for new in layout.layers for spec in new.tensors.values()}
    ordered = {id(owner[spec.name]): owner[spec.name] for spec in layout.specs if spec.name in owner}
    return list(ordered.values())


def _groups(layers: Sequence[NewLayer]) -> Iterator[list[NewLayer]]:
    """Yield neighbours that are computed in one go."""
    group: list[NewLayer] = []
    size = 0
    for new in layers:
        group.append(new)
        size += new.numbers
        if size >= _GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group
