"""Norms of stored weights, measured in groups on a device."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ..linalg.arrays import TorchArrays
from ..linalg.device_norms import fits_device, norms_on_device
from .norm_cache import NormPair
from .partner_norms import NormTask, checked
from .weight_reader import WeightReader
from .weights import Partner


def measured_on_device(
    reader: WeightReader, missing: Sequence[Partner], arrays: TorchArrays, task: NormTask
) -> dict[int, NormPair]:
    """Return the norms of the weights that fit the device, by place in the list: all, or those before it failed.

    Raises ``LayerError`` where a weight holds NaN or infinite values.
    """
    chosen = [i for i, one in enumerate(missing) if fits_device(_shape(one), arrays)]
    shapes = [_shape(missing[i]) for i in chosen]
    found: dict[int, NormPair] = {}
    try:
        for group in norms_on_device(
            shapes, lambda place: reader.partner_matrix(missing[chosen[place]]), arrays, spectral=task.spectral
        ):
            for place, fro, spn in group:
                found[chosen[place]] = checked(fro, reader, missing[chosen[place]]), spn
            task.progress.step(len(group))
    except RuntimeError as error:
        task.failed(error)
    return found


def _shape(one: Partner) -> tuple[int, int]:
    """Return the shape (rows, columns) in which `WeightReader.partner_matrix` returns a weight."""
    return sum(part.shape[0] for part in one.parts), one.width or prod(one.parts[0].shape[1:])
