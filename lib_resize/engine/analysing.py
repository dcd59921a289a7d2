"""The expensive step: every layer is decomposed and compared with the base model. Plans made from it are cheap."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..adapters.forms.form import Decomposition, Form, without_data
from ..adapters.forms.lora import LowRank, decompose_together
from ..adapters.layer import Adapter, Layer
from ..adapters.write.convert import is_convertible, is_loha, with_converted_layers
from ..base.checkpoint import Checkpoint
from ..base.weights import Partner
from ..errors import LayerError
from ..linalg.arrays import Arrays
from ..linalg.casts import Double
from ..linalg.factor import Factor
from ..linalg.finite import check_finite, in_range, is_in_range, without_float_warnings
from ..progress import Ahead, Progress, Result, in_order
from ..recipe.grammar import Recipe
from ..recipe.scores import BaseFacts, LayerFacts
from .analysis import Analysis
from .base_weights import Weights, partner_of, weights_of
from .placement import NORMS
from .runtime import Runtime


def analyse(
    adapter: Adapter,
    checkpoint: Checkpoint | None,
    recipes: Sequence[Recipe],
    runtime: Runtime,
    *,
    convert: str = "auto",
) -> Analysis:
    """Decompose all layers, and measure what the recipes need of the base model. `convert` as in `Style`.

    Raises LayerError with the layer's name where one cannot be decomposed, UnsupportedError where one needs a base
    model and there is none.
    """
    return with_conversion(_analysed(adapter, checkpoint, recipes, runtime), convert, checkpoint, recipes, runtime)


_CONVERTED: Mapping[str, Callable[[Layer], bool]] = {"auto": is_loha, "lora": is_convertible}


def needs_conversion(analysis: Analysis, convert: str) -> bool:
    """Return whether a style needs a conversion that is not analysed yet."""
    wanted = _CONVERTED.get(convert)
    return wanted is not None and convert not in analysis.others and any(map(wanted, analysis.adapter.layers))


def with_conversion(
    analysis: Analysis, convert: str, checkpoint: Checkpoint | None, recipes: Sequence[Recipe], runtime: Runtime
) -> Analysis:
    """Return the analysis with the conversion that a style needs, if any."""
    if not needs_conversion(analysis, convert):
        return analysis
    other = _analysed(with_converted_layers(analysis.adapter, _CONVERTED[convert]), checkpoint, recipes, runtime)
    return replace(analysis, others={**analysis.others, convert: other})


def _analysed(adapter: Adapter, checkpoint: Checkpoint | None, recipes: Sequence[Recipe], runtime: Runtime) -> Analysis:
    weights = weights_of(adapter, checkpoint)
    with _Decompositions(adapter, weights, runtime) as decompositions:
        if checkpoint is None:
            spectra = decompositions.all()
            return Analysis(adapter, spectra, tuple(_facts(adapter, spectra, {})), weights=weights)
        paired = _paired(adapter, checkpoint, recipes, runtime)  # while the first layers are decomposed
        spectra = decompositions.all()
    base = paired.with_subspaces(adapter, spectra, runtime)
    return Analysis(adapter, spectra, tuple(_facts(adapter, spectra, base)), checkpoint.path.name, weights=weights)


def reattached(analysis: Analysis, adapter: Adapter, checkpoint: Checkpoint | None = None) -> Analysis:
    """Return the analysis with an adapter whose file is open again; `checkpoint` is for kinds that need one."""
    others = {
        word: reattached(other, with_converted_layers(adapter, _CONVERTED[word]), checkpoint)
        for word, other in analysis.others.items()
    }
    return replace(analysis, adapter=adapter, others=others, weights=weights_of(adapter, checkpoint))


def without_tensors(analysis: Analysis) -> Analysis:
    """Return the analysis without any tensor of its files: enough to plan, not to write."""
    adapter = analysis.adapter
    layers = tuple(
        replace(layer, form=without_data(layer.form), cancels=layer.cancels and _is_settled) for layer in adapter.layers
    )
    others = {word: without_tensors(other) for word, other in analysis.others.items()}
    return replace(analysis, adapter=replace(adapter, layers=layers), others=others, weights={})


def with_base_norms(
    analysis: Analysis, checkpoint: Checkpoint, recipes: Sequence[Recipe], runtime: Runtime
) -> Analysis:
    """Return the analysis with what the recipes need of a base model. Nothing is decomposed again."""
    paired = _paired(analysis.adapter, checkpoint, recipes, runtime)
    base = paired.with_subspaces(analysis.adapter, analysis.spectra, runtime)
    layers = tuple(replace(facts, base=base.get(i)) for i, facts in enumerate(analysis.layers))
    others = {word: with_base_norms(other, checkpoint, recipes, runtime) for word, other in analysis.others.items()}
    return replace(analysis, layers=layers, base_name=checkpoint.path.name, others=others)


@dataclass(frozen=True)
class _Paired:
    """The weights that the layers change, by layer index, and their norms."""

    checkpoint: Checkpoint
    weights: Mapping[int, Partner]
    norms: dict[int, BaseFacts]
    subspace: bool
    """Whether the recipes also compare directions."""

    def with_subspaces(
        self, adapter: Adapter, spectra: Sequence[Decomposition], runtime: Runtime
    ) -> dict[int, BaseFacts]:
        """Return all that the recipes need of the base model."""
        return _with_subspace(self, adapter, spectra, runtime) if self.subspace else self.norms


def _paired(adapter: Adapter, checkpoint: Checkpoint, recipes: Sequence[Recipe], runtime: Runtime) -> _Paired:
    """Find the weights that the layers change, and their norms."""
    asked = {name for recipe in recipes for name in recipe.weights}
    pairs = {i: weight for i, layer in enumerate(adapter.layers) if (weight := partner_of(checkpoint, layer))}
    return _Paired(checkpoint, pairs, _base_facts(checkpoint, pairs, "spn_ckpt" in asked, runtime), "subspace" in asked)


def _is_settled(_: float) -> bool:
    """Replace the comparison of a merge's numbers once it is done."""
    return False


class _Decompositions:
    """The decompositions of all layers.

    On the CPU the first begin at once, some batches ahead of the first that is used. Where there is a device, it comes
    first, and the workers do what it leaves.
    """

    def __init__(self, adapter: Adapter, weights: Weights, runtime: Runtime) -> None:
        self._adapter = adapter
        self._weights = weights
        self._runtime = runtime
        self._begun = None if runtime.placement.may_use_device else self._begin(())

    def _begin(self, known: Container[int]) -> Ahead[list[int], _Batch]:
        batches = list(_batches(self._adapter.layers, known))
        return Ahead(self._runtime.pool, self._decomposed, batches, self._runtime.ahead)

    def _decomposed(self, batch: list[int]) -> _Batch:
        layers = [self._adapter.layers[i] for i in batch]
        base = _base_of(batch, self._weights, self._adapter)
        return batch, _decompose(layers, self._adapter, self._runtime.arrays, base)

    def __enter__(self) -> _Decompositions:
        return self

    def __exit__(self, *_: object) -> None:
        if self._begun is not None:
            self._begun.cancel()

    def all(self) -> tuple[Decomposition, ...]:
        """Wait for all; in the order of the layers."""
        layers, progress = self._adapter.layers, self._runtime.progress
        found: dict[int, Decomposition] = {}
        progress.start("analyse", len(layers))
        if self._begun is None:
            found.update((i, _uncancelled(layers[i], solved)) for i, solved in _from_device(layers, self._runtime))
            self._begun = self._begin(found)
        for batch, spectra in self._begun:
            found.update((i, _uncancelled(layers[i], solved)) for i, solved in zip(batch, spectra, strict=True))
            progress.step(len(batch))
        return tuple(found[i] for i in range(len(layers)))


_Batch = tuple[list[int], list[Decomposition]]
"""Indices of layers, and their decompositions."""


def _from_device(layers: Sequence[Layer], runtime: Runtime) -> Iterator[tuple[int, Decomposition]]:
    """Yield the decompositions of the layers that a device computes, if there is one."""
    if not runtime.placement.may_use_device:
        return
    from .device_work import decomposed  # a run on the CPU does without

    for group in decomposed(layers, runtime):
        good = [(i, solved) for i, solved in group if solved is not None and is_in_range(solved.s)]
        yield from good
        runtime.progress.step(len(good))


def _uncancelled(layer: Layer, solved: Decomposition) -> Decomposition:
    """Return the spectrum of a merged layer; all zero where its terms cancel but for rounding."""
    if layer.cancels is None or not layer.cancels(math.sqrt(solved.s @ solved.s)):
        return solved
    return replace(solved, s=0.0 * solved.s)  # type: ignore[type-var]


def _base_of(batch: list[int], weights: Weights, adapter: Adapter) -> Factor | None:
    return weights[batch[0]]() if adapter.layers[batch[0]].form.needs_base else None


def _batches(layers: Sequence[Layer], known: Container[int] = ()) -> Iterator[list[int]]:
    """Group low-rank pairs of one rank, in the order of the file: at small ranks the calls cost more than the
    arithmetic. Layers of other kinds are single, and those that are `known` are left out."""
    open_batches: dict[int, list[int]] = {}
    for i, layer in enumerate(layers):
        if i in known:
            continue
        if not isinstance(layer.form, LowRank):
            yield [i]
            continue
        rank = layer.rank
        batch = open_batches.setdefault(rank, [])
        batch.append(i)
        if len(batch) >= max(1, min(16, 16384 // rank**2)):
            yield open_batches.pop(rank)
    yield from open_batches.values()


def _decompose(layers: Sequence[Layer], adapter: Adapter, arrays: Arrays, base: Factor | None) -> list[Decomposition]:
    try:
        return _solved([layer.form for layer in layers], arrays, base)
    except LayerError as error:
        if len(layers) == 1:
            raise LayerError(f"{adapter.name}: layer {layers[0].stem}: {error}") from error
    return [_decompose([layer], adapter, arrays, base)[0] for layer in layers]


def _solved(forms: Sequence[Form], arrays: Arrays, base: Factor | None) -> list[Decomposition]:
    pairs = [form for form in forms if isinstance(form, LowRank)]
    with without_float_warnings():
        together = len(pairs) == len(forms)
        found = decompose_together(pairs, arrays) if together else [form.decompose(arrays, base) for form in forms]
    return [_in_range(one) for one in found]


def _in_range(solved: Decomposition) -> Decomposition:
    s = in_range("its delta", solved.s)
    return solved if s is solved.s else replace(solved, s=s)  # type: ignore[type-var]


def _facts(adapter: Adapter, spectra: Sequence[Decomposition], base: Mapping[int, BaseFacts]) -> Iterator[LayerFacts]:
    companions = {copied.stem for copied in adapter.copied}
    for i, (layer, spectrum) in enumerate(zip(adapter.layers, spectra, strict=True)):
        form = layer.form
        yield LayerFacts(
            name=layer.stem,
            s=spectrum.s,
            parameters_per_rank=form.parameters_per_rank,
            is_conv=form.is_conv,
            base=base.get(i),
            min_kept=int(layer.stem in companions),
            residual_norm=layer.lost,
            parameters_per_squared_rank=form.parameters_per_squared_rank,
            nested=form.nested,
            stored_ranks=form.stored_ranks(spectrum),
        )


def _base_facts(
    checkpoint: Checkpoint, pairs: dict[int, Partner], spectral: bool, runtime: Runtime
) -> dict[int, BaseFacts]:
    norms = checkpoint.norms(
        pairs.values(),
        spectral=spectral,
        arrays=runtime.placement.arrays_for(NORMS, runtime.arrays),
        pool=runtime.pool,
        progress=runtime.progress,
        failed=runtime.placement.failed,
    )
    return {i: BaseFacts(*norms[weight]) for i, weight in pairs.items()}


def _with_subspace(
    paired: _Paired, adapter: Adapter, spectra: Sequence[Decomposition], runtime: Runtime
) -> dict[int, BaseFacts]:
    checkpoint, pairs = paired.checkpoint, paired.weights

    def measure(i: int) -> BaseFacts:
        layer, weight = adapter.layers[i], pairs[i]
        try:
            with without_float_warnings():
                base_alignment = layer.form.base_alignment(
                    spectra[i], checkpoint.whole(weight), runtime.arrays, transposed=weight.transposed
                )
            check_finite(f"its weight {weight.key} in {checkpoint.path.name}", base_alignment)
        except LayerError as error:
            raise LayerError(f"{adapter.name}: layer {layer.stem}: {error}") from error
        return replace(paired.norms[i], subspace=base_alignment)

    runtime.progress.start("read base", len(pairs))
    known = dict(_counted(_alignments_from_device(adapter, spectra, checkpoint, pairs, runtime), runtime.progress))
    left = [i for i in pairs if not (i in known and np.isfinite(known[i]).all())]
    found = {i: replace(paired.norms[i], subspace=alignment) for i, alignment in known.items()}
    results = _counted(in_order(runtime.pool, measure, left, runtime.ahead), runtime.progress)
    return found | dict(zip(left, results, strict=True))


def _alignments_from_device(
    adapter: Adapter,
    spectra: Sequence[Decomposition],
    checkpoint: Checkpoint,
    pairs: Mapping[int, Partner],
    runtime: Runtime,
) -> Iterator[tuple[int, Double]]:
    """Yield the base alignments of the layers that a device measures, if there is one."""
    if runtime.placement.may_use_device:
        from .device_work import base_alignments  # a run on the CPU does without

        yield from base_alignments(adapter, spectra, checkpoint, pairs, runtime)


def _counted(results: Iterable[Result], progress: Progress) -> Iterator[Result]:
    for result in results:
        progress.step()
        yield result
