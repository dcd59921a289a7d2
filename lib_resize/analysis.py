"""The one dear step: every layer decomposed, and what the base model says of it. Choices after it are cheap."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from .adapters.fused import row_cuts
from .adapters.layer import Adapter, Layer
from .base.checkpoint import Checkpoint
from .base.pairing import Partner
from .errors import LayerError
from .linalg.arrays import Arrays
from .linalg.blocks import Block, blocks_of, decompose_blocks
from .linalg.factor import Spectrum, decompose
from .linalg.norms import subspace_norms
from .progress import Progress, in_order
from .recipe.grammar import Recipe
from .recipe.scores import BaseFacts, LayerFacts


@dataclass(frozen=True)
class Bench:
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
    spectra: tuple[Spectrum, ...]
    layers: tuple[LayerFacts, ...]
    """One each for `adapter.layers`."""
    base_name: str | None = None

    @property
    def zero(self) -> list[str]:
        """Names of the layers that are zero."""
        return [facts.name for facts in self.layers if not facts.s[0] > 0]


def analyse(adapter: Adapter, checkpoint: Checkpoint | None, recipes: Sequence[Recipe], bench: Bench) -> Analysis:
    """Decomposes all layers, and measures what the recipes need of the base model.

    Raises LayerError with the layer's name where one cannot be decomposed.
    """
    spectra = _decompose_all(adapter, bench)
    analysis = Analysis(adapter, spectra, tuple(_facts(adapter, spectra)))
    return analysis if checkpoint is None else beside(analysis, checkpoint, recipes, bench)


def beside(analysis: Analysis, checkpoint: Checkpoint, recipes: Sequence[Recipe], bench: Bench) -> Analysis:
    """The same LoRA with what the recipes need of a base model; nothing is decomposed again."""
    adapter = analysis.adapter
    asked = {name for recipe in recipes for name in recipe.weights}
    pairs = {i: weight for i, layer in enumerate(adapter.layers) if (weight := _partner(checkpoint, layer))}
    base = _base_facts(checkpoint, pairs, "spn_ckpt" in asked, bench)
    if "subspace" in asked:
        base = _with_subspace(checkpoint, pairs, base, adapter, analysis.spectra, bench)
    layers = tuple(replace(facts, base=base.get(i)) for i, facts in enumerate(analysis.layers))
    return replace(analysis, layers=layers, base_name=checkpoint.path.name)


def _decompose_all(adapter: Adapter, bench: Bench) -> tuple[Spectrum, ...]:
    batches = list(_batches(adapter.layers))
    found: dict[int, Spectrum] = {}

    def work(batch: list[int]) -> list[Spectrum]:
        return _decompose([adapter.layers[i] for i in batch], adapter, bench.arrays)

    bench.progress.start("analyse", len(adapter.layers))
    for batch, spectra in zip(batches, in_order(bench.pool, work, batches, bench.ahead), strict=True):
        found.update(zip(batch, spectra, strict=True))
        bench.progress.step(len(batch))
    return tuple(found[i] for i in range(len(adapter.layers)))


def _batches(layers: Sequence[Layer]) -> Iterator[list[int]]:
    """Layers of one rank together, in the order of the file: for small ranks the calls cost more than the numbers."""
    open_batches: dict[int, list[int]] = {}
    for i, layer in enumerate(layers):
        rank = layer.pair.rank
        batch = open_batches.setdefault(rank, [])
        batch.append(i)
        if len(batch) >= max(1, min(16, 16384 // rank**2)):
            yield open_batches.pop(rank)
    yield from open_batches.values()


def _decompose(layers: Sequence[Layer], adapter: Adapter, arrays: Arrays) -> list[Spectrum]:
    blocks = [_blocks(layer, adapter) for layer in layers]
    try:
        if len(layers) == 1 and blocks[0]:
            return [decompose_blocks(layers[0].pair, blocks[0], arrays)]
        if not any(blocks):
            return decompose([layer.pair for layer in layers], arrays)
    except LayerError as error:
        if len(layers) == 1:
            raise LayerError(f"{adapter.name}: layer {layers[0].stem}: {error}") from error
    return [_decompose([layer], adapter, arrays)[0] for layer in layers]


def _blocks(layer: Layer, adapter: Adapter) -> tuple[Block, ...]:
    """The pieces of a fused layer that was trained in pieces."""
    cuts = row_cuts(layer, adapter.family)
    return blocks_of(layer.pair.up, cuts) if cuts else ()


def _facts(adapter: Adapter, spectra: Sequence[Spectrum]) -> Iterator[LayerFacts]:
    companions = {copied.stem for copied in adapter.copied}
    for layer, spectrum in zip(adapter.layers, spectra, strict=True):
        yield LayerFacts(
            name=layer.stem,
            s=spectrum.s,
            parameters=layer.parameters,
            is_conv=layer.is_conv,
            least=int(layer.stem in companions),
        )


def _partner(checkpoint: Checkpoint, layer: Layer) -> Partner | None:
    return checkpoint.partner(layer.canonical, layer.stem, layer.size)


def _base_facts(
    checkpoint: Checkpoint, pairs: dict[int, Partner], spectral: bool, bench: Bench
) -> dict[int, BaseFacts]:
    norms = checkpoint.norms(
        pairs.values(), spectral=spectral, arrays=bench.arrays, pool=bench.pool, progress=bench.progress
    )
    return {i: BaseFacts(*norms[weight]) for i, weight in pairs.items()}


def _with_subspace(
    checkpoint: Checkpoint,
    pairs: dict[int, Partner],
    base: dict[int, BaseFacts],
    adapter: Adapter,
    spectra: Sequence[Spectrum],
    bench: Bench,
) -> dict[int, BaseFacts]:
    def measure(i: int) -> BaseFacts:
        weight = pairs[i]
        along = subspace_norms(
            adapter.layers[i].pair,
            spectra[i],
            checkpoint.whole(weight),
            bench.arrays,
            transposed=weight.transposed,
        )
        return replace(base[i], subspace=along)

    bench.progress.start("read base", len(pairs))
    return dict(zip(pairs, _counted(in_order(bench.pool, measure, pairs, bench.ahead), bench.progress), strict=True))


def _counted(results: Iterable[BaseFacts], progress: Progress) -> Iterator[BaseFacts]:
    for result in results:
        progress.step()
        yield result
