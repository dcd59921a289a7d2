"""A written file compared with what was computed, before it gets its name."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..adapters.forms.form import Form, relative_distance
from ..adapters.forms.lora import LowRank
from ..adapters.read.adapter import read_written_form
from ..adapters.write.layout import NewLayer
from ..errors import REPORT_AT, OutputError
from ..files.reader import SafeFile
from ..linalg.arrays import Arrays
from ..linalg.casts import Single
from ..linalg.factor import Pair, Spectrum, Stored
from ..linalg.finite import without_float_warnings
from ..linalg.lazy import materialise
from ..progress import in_order
from .job import ResizeJob
from .layer_values import is_float8, write_spec
from .rounding import ALLOWED, NEGLIGIBLE, UNBALANCED
from .runtime import Runtime
from .selection import Selection

_SAMPLES = 4
_PROBES = 96
"""Layers that are compared by one vector. All 986 layers of a large SDXL LoRA would cost 12 to 18 % of the run, 96 of
them below 2 %; of files with fewer layers all are compared."""


def check_deltas(path: Path, job: ResizeJob, runtime: Runtime) -> None:
    """Read layers back and compare their deltas with those that were computed. Raises OutputError for the first that
    differs by more than rounding explains.

    Layers in fp8, and four of the others, are compared in full, in factor space. LoRA layers whose singular vectors are
    known are compared by their product with one random vector: all of them, or in a large file 96. Those are spread
    over the file. (All bytes of the file are compared with those that were computed by `files.writer`.)
    """
    selection = job.selection
    strong = [new for new in selection.layout.layers if selection.analysis.layers[new.index].alive]
    sample = {new.index for new in _spread(strong, _SAMPLES)}
    probed = {new.index for new in _spread([new for new in strong if _has_vectors(selection, new)], _PROBES)}
    layers = [new for new in strong if new.index in sample | probed or is_float8(new)]
    negligible = NEGLIGIBLE * selection.norm * abs(selection.recipe.rescale)

    def error(new: NewLayer) -> float:
        with without_float_warnings():
            found = _read_back(file, new)
            if new.index in sample or is_float8(new):
                return _difference(found, selection, new, runtime.arrays)
            return _probed_difference(found, selection, new)

    with SafeFile(path) as file:
        for new, off in zip(layers, in_order(runtime.pool, error, layers, runtime.ahead), strict=True):
            if not off <= max(_tolerance(new), negligible / _written_norm(selection, new)):
                raise OutputError(
                    f"{job.path}: layer {new.layer.stem} read back differs by {off:.2g} from what was computed; "
                    f"nothing was kept. Check the disk and the memory of this machine, and report it: {REPORT_AT}"
                )


def _spread(layers: Sequence[NewLayer], most: int) -> list[NewLayer]:
    """Return all of them, or `most` at even distances."""
    count = len(layers)
    return [layers[i * count // most] for i in range(most)] if count > most else list(layers)


def _written_norm(selection: Selection, new: NewLayer) -> float:
    return selection.kept_norm(new.index) * abs(selection.recipe.rescale) or 1.0


def _has_vectors(selection: Selection, new: NewLayer) -> bool:
    solved = selection.decomposition(new.index)
    is_plain = selection.recipe.is_exact and isinstance(new.layer.form, LowRank)
    return is_plain and isinstance(solved, Spectrum) and bool(solved.p.size)


def _probed_difference(found: Form, selection: Selection, new: NewLayer) -> float:
    """Return ``|F x - D x| / ||D||_F`` of random signs x: near the relative error in the Frobenius norm.

    F is the delta read back from the file, D the kept part of the source's delta.
    """
    form, spectrum = new.layer.form, selection.decomposition(new.index)
    assert isinstance(form, LowRank)
    assert isinstance(found, LowRank)
    assert isinstance(spectrum, Spectrum)
    x = _signs(new.layer.stem, form.size[1])
    kept = selection.kept(new.index)
    inner = spectrum.p[:, kept] @ (spectrum.q[kept] @ (materialise(form.pair.down) @ x))
    wanted = np.float32(selection.recipe.rescale) * (materialise(form.pair.up) @ inner)
    written = np.float32(found.pair.scale) * (materialise(found.pair.up) @ (materialise(found.pair.down) @ x))
    return float(np.linalg.norm((written - wanted).astype(np.float64))) / _written_norm(selection, new)


def _signs(name: str, count: int) -> Single:
    """Return `count` random numbers of 1 and -1 for a layer, float32: the mean of ``|A x|^2`` is ``||A||_F^2``.

    They are the bits of a hash, because importing numpy's generators takes longer than all the rest of the check.
    """
    digest = hashlib.shake_128(name.encode()).digest(-(-count // 8))
    bits = np.unpackbits(np.frombuffer(digest, np.uint8), count=count)
    return 1 - 2 * bits.astype(np.float32)


def _difference(found: Form, selection: Selection, new: NewLayer, arrays: Arrays) -> float:
    """Return how far a layer that was read back is from the one that was computed, relative, Frobenius."""
    form, spec = new.layer.form, write_spec(selection, new, arrays, gain=1.0)
    if selection.recipe.method == "svd" or not isinstance(form, LowRank) or not isinstance(found, LowRank):
        return form.error(found, spec)
    up, down = (np.ascontiguousarray(values) for values in form.values(spec).values())
    return relative_distance(found.pair, Pair(Stored(up, "F32"), Stored(down, "F32")))


def _tolerance(new: NewLayer) -> float:
    """Return the largest change that rounding may make to a layer: a bound by dtype, however badly the numbers fit."""
    if "diff" in new.tensors and new.tensors["diff"].dtype == "F16":
        return UNBALANCED
    return max(ALLOWED[spec.dtype] for spec in new.tensors.values())


def _read_back(file: SafeFile, new: NewLayer) -> Form:
    """Return the layer as other programs read it."""
    specs = {**new.tensors, **({"alpha": new.alpha} if new.alpha else {})}
    return read_written_form(file, new.stem, {role: spec.name for role, spec in specs.items()})
