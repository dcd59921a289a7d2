"""The one dear step: every layer decomposed, and what the base model says of it. Choices after it are cheap."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

from ..adapters.forms.form import Decomposition, Form, without_data
from ..adapters.forms.lora import LowRank, decompose_together
from ..adapters.layer import Adapter, Layer
from ..adapters.merge.onto_base import BaseModel, BaseWeight
from ..adapters.merge.rotations import WeightInfo
from ..adapters.write.convert import is_convertible, is_loha, with_converted_layers
from ..base.checkpoint import Checkpoint
from ..base.pairing import Partner
from ..errors import LayerError, UnsupportedError
from ..linalg.arrays import Arrays
from ..linalg.factor import Factor
from ..linalg.finite import check_finite, in_range, without_float_warnings
from ..linalg.lazy import Transposed
from ..progress import Progress, in_order
from ..recipe.grammar import Recipe
from ..recipe.scores import BaseFacts, LayerFacts


@dataclass(frozen=True)
class Runtime:
    """What the work is done with."""

    arrays: Arrays
    pool: ThreadPoolExecutor
    progress: Progress

    @property
    def ahead(self) -> int:
        """How many results may wait."""
        return 4 * self.pool._max_workers


@dataclass(frozen=True)
class Analysis:
    """A LoRA, decomposed."""

    adapter: Adapter
    spectra: tuple[Decomposition, ...]
    layers: tuple[LayerFacts, ...]
    """One each for `adapter.layers`."""
    base_name: str | None = None
    others: Mapping[str, Analysis] = field(default_factory=dict)
    """The same LoRA with layers converted, by the word of `Style.convert` that it stands for."""
    weights: Mapping[int, Callable[[], Factor]] = field(default_factory=dict)
    """What reads the base weight of a layer, by index: of those that cannot be written or measured without."""

    @property
    def zero(self) -> list[str]:
        """Names of the layers that are zero."""
        return [facts.name for facts in self.layers if not facts.alive]


def analyse(
    adapter: Adapter,
    checkpoint: Checkpoint | None,
    recipes: Sequence[Recipe],
    runtime: Runtime,
    *,
    convert: str = "auto",
) -> Analysis:
    """Decomposes all layers, and measures what the recipes need of the base model. `convert` as in `Style`.

    Raises LayerError with the layer's name where one cannot be decomposed, UnsupportedError where one needs a base
    model that is not there.
    """
    return with_conversion(_analysed(adapter, checkpoint, recipes, runtime), convert, checkpoint, recipes, runtime)


_CONVERTED: Mapping[str, Callable[[Layer], bool]] = {"auto": is_loha, "lora": is_convertible}


def needs_conversion(analysis: Analysis, convert: str) -> bool:
    """Whether a style asks for a form that was not analysed."""
    wanted = _CONVERTED.get(convert)
    return wanted is not None and convert not in analysis.others and any(map(wanted, analysis.adapter.layers))


def with_conversion(
    analysis: Analysis, convert: str, checkpoint: Checkpoint | None, recipes: Sequence[Recipe], runtime: Runtime
) -> Analysis:
    """The same with the form that a style asks for, if there is one."""
    if not needs_conversion(analysis, convert):
        return analysis
    other = _analysed(with_converted_layers(analysis.adapter, _CONVERTED[convert]), checkpoint, recipes, runtime)
    return replace(analysis, others={**analysis.others, convert: other})


def _analysed(adapter: Adapter, checkpoint: Checkpoint | None, recipes: Sequence[Recipe], runtime: Runtime) -> Analysis:
    weights = _weights(adapter, checkpoint)
    spectra = _decompose_all(adapter, weights, runtime)
    analysis = Analysis(adapter, spectra, tuple(_facts(adapter, spectra)), weights=weights)
    return analysis if checkpoint is None else with_base_norms(analysis, checkpoint, recipes, runtime)


Weights = Mapping[int, Callable[[], Factor]]


def _weights(adapter: Adapter, checkpoint: Checkpoint | None) -> Weights:
    """Base weights of the layers whose delta is not known without, and of those that are normalised with it."""
    found: dict[int, Callable[[], Factor]] = {}
    for i, layer in enumerate(adapter.layers):
        if layer.form.needs_base or (layer.magnitude is not None and checkpoint is not None):
            weight = checkpoint and weight_of(checkpoint, layer)
            if weight:
                found[i] = weight
            elif layer.form.needs_base:
                raise UnsupportedError(_baseless(adapter, layer, checkpoint))
    return found


def weight_of(checkpoint: Checkpoint, layer: Layer) -> Callable[[], Factor] | None:
    """What reads a layer's weight in a base model, (n, m); None where it has none."""
    weight = _partner(checkpoint, layer)
    return partial(_as_out_by_in, checkpoint, weight) if weight else None


def ground_of(checkpoint: Checkpoint) -> BaseModel:
    """A base model, for what rests on it."""
    place_of = partial(_place, checkpoint)
    return BaseModel(checkpoint.path.name, checkpoint.family, partial(weight_of, checkpoint), place_of)


def _place(checkpoint: Checkpoint, canonical: str | None, stem: str) -> BaseWeight | None:
    found = checkpoint.named(canonical, stem)
    if found is None or 0 in found.matrix:
        return None
    kernel = () if found.transposed else found.parts[0].shape[2:]
    info = WeightInfo(found.matrix, kernel, checkpoint.has_bias(found))
    return BaseWeight(info, partial(_as_out_by_in, checkpoint, found))


def _as_out_by_in(checkpoint: Checkpoint, weight: Partner) -> Factor:
    matrix = checkpoint.whole(weight)
    return Transposed(matrix) if weight.transposed else matrix


def _baseless(adapter: Adapter, layer: Layer, checkpoint: Checkpoint | None) -> str:
    told = (
        f"{adapter.paths[0]}: layer {layer.stem} is {layer.form.kind}, whose delta depends on the base model's weights"
    )
    if checkpoint is None:
        return f"{told}. Name the checkpoint that it was trained on first, or after --base."
    return f"{told}, and {checkpoint.path.name} has no such layer. Give the right checkpoint."


def needs_base(adapter: Adapter) -> bool:
    """Whether it has a layer whose delta is not known without the base model's weights (GLoRA)."""
    return any(layer.form.needs_base for layer in adapter.layers)


def reattached(analysis: Analysis, adapter: Adapter, checkpoint: Checkpoint | None = None) -> Analysis:
    """The analysis of an adapter whose file was closed and opened again; `checkpoint` for those that need one."""
    others = {
        word: reattached(other, with_converted_layers(adapter, _CONVERTED[word]), checkpoint)
        for word, other in analysis.others.items()
    }
    return replace(analysis, adapter=adapter, others=others, weights=_weights(adapter, checkpoint))


def without_tensors(analysis: Analysis) -> Analysis:
    """The same with nothing of its files in memory: enough to plan, not to write."""
    adapter = analysis.adapter
    layers = tuple(
        replace(layer, form=without_data(layer.form), cancels=layer.cancels and _is_settled) for layer in adapter.layers
    )
    others = {word: without_tensors(other) for word, other in analysis.others.items()}
    return replace(analysis, adapter=replace(adapter, layers=layers), others=others, weights={})


def with_base_norms(
    analysis: Analysis, checkpoint: Checkpoint, recipes: Sequence[Recipe], runtime: Runtime
) -> Analysis:
    """The same LoRA with what the recipes need of a base model; nothing is decomposed again."""
    adapter = analysis.adapter
    asked = {name for recipe in recipes for name in recipe.weights}
    pairs = {i: weight for i, layer in enumerate(adapter.layers) if (weight := _partner(checkpoint, layer))}
    base = _base_facts(checkpoint, pairs, "spn_ckpt" in asked, runtime)
    if "subspace" in asked:
        base = _with_subspace(checkpoint, pairs, base, adapter, analysis.spectra, runtime)
    layers = tuple(replace(facts, base=base.get(i)) for i, facts in enumerate(analysis.layers))
    others = {word: with_base_norms(other, checkpoint, recipes, runtime) for word, other in analysis.others.items()}
    return replace(analysis, layers=layers, base_name=checkpoint.path.name, others=others)


def _is_settled(_: float) -> bool:
    """In place of what compares the numbers of a merge, once that is done."""
    return False


def _decompose_all(adapter: Adapter, weights: Weights, runtime: Runtime) -> tuple[Decomposition, ...]:
    batches = list(_batches(adapter.layers))
    found: dict[int, Decomposition] = {}

    def work(batch: list[int]) -> list[Decomposition]:
        return _decompose(
            [adapter.layers[i] for i in batch], adapter, runtime.arrays, _base_of(batch, weights, adapter)
        )

    runtime.progress.start("analyse", len(adapter.layers))
    for batch, spectra in zip(batches, in_order(runtime.pool, work, batches, runtime.ahead), strict=True):
        found.update((i, _uncancelled(adapter.layers[i], solved)) for i, solved in zip(batch, spectra, strict=True))
        runtime.progress.step(len(batch))
    return tuple(found[i] for i in range(len(adapter.layers)))


def _uncancelled(layer: Layer, solved: Decomposition) -> Decomposition:
    """The spectrum of a merged layer; all zero where its terms cancel and no more than their rounding is left."""
    if layer.cancels is None or not layer.cancels(math.sqrt(solved.s @ solved.s)):
        return solved
    return replace(solved, s=0.0 * solved.s)  # type: ignore[type-var]


def _base_of(batch: list[int], weights: Weights, adapter: Adapter) -> Factor | None:
    return weights[batch[0]]() if adapter.layers[batch[0]].form.needs_base else None


def _batches(layers: Sequence[Layer]) -> Iterator[list[int]]:
    """Low-rank pairs of one rank together, in the order of the file: for small ranks the calls cost more than the
    numbers. Layers of other kinds come one by one."""
    open_batches: dict[int, list[int]] = {}
    for i, layer in enumerate(layers):
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


def _facts(adapter: Adapter, spectra: Sequence[Decomposition]) -> Iterator[LayerFacts]:
    companions = {copied.stem for copied in adapter.copied}
    for layer, spectrum in zip(adapter.layers, spectra, strict=True):
        form = layer.form
        yield LayerFacts(
            name=layer.stem,
            s=spectrum.s,
            parameters_per_rank=form.parameters_per_rank,
            is_conv=form.is_conv,
            min_kept=int(layer.stem in companions),
            residual_norm=layer.lost,
            parameters_per_squared_rank=form.parameters_per_squared_rank,
            nested=form.nested,
            stored_ranks=form.stored_ranks(spectrum),
        )


def _partner(checkpoint: Checkpoint, layer: Layer) -> Partner | None:
    return checkpoint.partner(layer.canonical, layer.stem, layer.size)


def _base_facts(
    checkpoint: Checkpoint, pairs: dict[int, Partner], spectral: bool, runtime: Runtime
) -> dict[int, BaseFacts]:
    norms = checkpoint.norms(
        pairs.values(), spectral=spectral, arrays=runtime.arrays, pool=runtime.pool, progress=runtime.progress
    )
    return {i: BaseFacts(*norms[weight]) for i, weight in pairs.items()}


def _with_subspace(
    checkpoint: Checkpoint,
    pairs: dict[int, Partner],
    base: dict[int, BaseFacts],
    adapter: Adapter,
    spectra: Sequence[Decomposition],
    runtime: Runtime,
) -> dict[int, BaseFacts]:
    def measure(i: int) -> BaseFacts:
        layer, weight = adapter.layers[i], pairs[i]
        try:
            with without_float_warnings():
                along = layer.form.base_alignment(
                    spectra[i], checkpoint.whole(weight), runtime.arrays, transposed=weight.transposed
                )
            check_finite(f"its weight {weight.key} in {checkpoint.path.name} has", along)
        except LayerError as error:
            raise LayerError(f"{adapter.name}: layer {layer.stem}: {error}") from error
        return replace(base[i], subspace=along)

    runtime.progress.start("read base", len(pairs))
    return dict(
        zip(pairs, _counted(in_order(runtime.pool, measure, pairs, runtime.ahead), runtime.progress), strict=True)
    )


def _counted(results: Iterable[BaseFacts], progress: Progress) -> Iterator[BaseFacts]:
    for result in results:
        progress.step()
        yield result
