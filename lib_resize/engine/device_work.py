"""LoRA layers, base weights and new factors in groups on a device, for the stages that compute them one by one.

Each function yields what the device computed, by layer. What it leaves out, the caller computes: layers of other kinds,
those that are not plain (see `linalg.device_decompose`), and all that is left when the device fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from ..adapters.forms.form import Decomposition, Form
from ..adapters.forms.lora import LARGEST_KEPT, LowRank, without_vectors
from ..adapters.layer import Adapter, Layer
from ..adapters.write.layout import NewLayer
from ..base.checkpoint import Checkpoint
from ..base.weights import Partner
from ..linalg.blocks import blocks_of, in_block_order
from ..linalg.casts import Bits, Double
from ..linalg.device_decompose import Solvers, decompose_on_device
from ..linalg.device_factors import ROUNDED, FactorJob, rounded_factors
from ..linalg.device_subspace import SubspaceJob, fits_device, subspace_norms_on_device
from ..linalg.factor import Spectrum
from .placement import FACTORS, SUBSPACE
from .runtime import Runtime
from .selection import Selection
from .solver_cache import keep_rates, rates_of


def decomposed(layers: Sequence[Layer], runtime: Runtime) -> Iterator[list[tuple[int, Spectrum | None]]]:
    """Decompose LoRA layers, and yield some at a time, by index; None for those that are left to the caller."""
    placement = runtime.placement
    chosen = [i for i, layer in enumerate(layers) if _is_wanted(layer.form, runtime)]
    device = placement.device_for(FACTORS, max((layers[i].rank for i in chosen), default=0))
    if device is None or not chosen:
        return
    hardware = f"{device.name}, {device.library}"
    solvers = Solvers(placement.solvers or runtime.pool, rates_of(hardware, placement.workers))
    pairs = [form.pair for i in chosen if isinstance(form := layers[i].form, LowRank)]
    try:
        for group in decompose_on_device(pairs, device, solvers):
            yield [(chosen[place], _kept(spectrum)) for place, spectrum in group]
    except RuntimeError as error:
        placement.failed(error)
    keep_rates(hardware, placement.workers)


def _is_wanted(form: Form, runtime: Runtime) -> bool:
    """Return whether a layer is a LoRA for the device, without pieces that are decomposed by themselves."""
    if not isinstance(form, LowRank) or runtime.placement.device_for(FACTORS, form.rank) is None:
        return False
    return not form.cuts or not blocks_of(form.pair.up, form.cuts)


def _kept(spectrum: Spectrum | None) -> Spectrum | None:
    if spectrum is None or len(spectrum.s) <= LARGEST_KEPT:
        return spectrum
    return without_vectors(spectrum)


def base_alignments(
    adapter: Adapter,
    spectra: Sequence[Decomposition],
    checkpoint: Checkpoint,
    partners: Mapping[int, Partner],
    runtime: Runtime,
) -> Iterator[tuple[int, Double]]:
    """Yield `Form.base_alignment` of LoRA layers, by index."""
    device = runtime.placement.device_for(SUBSPACE)
    if device is None:
        return
    jobs: dict[int, SubspaceJob] = {}
    for i, partner in partners.items():
        form, spectrum = adapter.layers[i].form, spectra[i]
        if isinstance(form, LowRank) and isinstance(spectrum, Spectrum):
            if not spectrum.effective_rank:
                yield i, np.zeros(len(spectrum.s))
                continue
            job = SubspaceJob(form.pair, spectrum, partial(checkpoint.whole, partner), partner.transposed)
            if fits_device(job, device):
                jobs[i] = job
    try:
        yield from zip(jobs, subspace_norms_on_device(list(jobs.values()), device), strict=True)
    except RuntimeError as error:
        runtime.placement.failed(error)


def makes_factors(selection: Selection, layers: Sequence[NewLayer], runtime: Runtime) -> bool:
    """Return whether a device is to compute new factors of some of the layers."""
    return any(_job(selection, new, runtime) is not None for new in layers)


def stored_tensors(
    selection: Selection, layers: Sequence[NewLayer], runtime: Runtime
) -> Iterator[tuple[NewLayer, dict[str, Bits] | None]]:
    """Yield the new tensors of LoRA layers by key, in the order of the list; None where they are left to the caller."""
    jobs = {new.index: job for new in layers if (job := _job(selection, new, runtime)) is not None}
    device = runtime.placement.device_for(FACTORS, max((job.pair.rank for job in jobs.values()), default=0))
    waiting = iter(layers)
    if device is not None and jobs:
        made = rounded_factors(list(jobs.values()), device)
        try:
            for new in layers:
                found = next(made) if new.index in jobs else None
                yield next(waiting), found and _by_key(new, found)
        except RuntimeError as error:
            runtime.placement.failed(error)
    for new in waiting:
        yield new, None


def _by_key(new: NewLayer, found: tuple[Bits, Bits]) -> dict[str, Bits]:
    form = new.layer.form
    assert isinstance(form, LowRank)
    return {new.tensors[role].name: bits.reshape(-1) for role, bits in zip(form.roles, found, strict=True)}


def _job(selection: Selection, new: NewLayer, runtime: Runtime) -> FactorJob | None:
    """Return what a device computes of a new layer; None where it is not its factors, rounded plainly."""
    form, solved, kept = new.layer.form, selection.decomposition(new.index), selection.kept(new.index)
    if not isinstance(form, LowRank) or not isinstance(solved, Spectrum) or not solved.p.size:
        return None
    if len(kept) != new.rank or runtime.placement.device_for(FACTORS, form.rank) is None:
        return None
    dtypes = (new.tensors[form.roles[0]].dtype, new.tensors[form.roles[1]].dtype)
    if not len(kept) or not set(dtypes) <= set(ROUNDED):
        return None
    gain = new.gain * float(np.sqrt(selection.recipe.rescale))
    return FactorJob(form.pair, solved, in_block_order(solved, kept), gain, dtypes)
