"""Several LoRAs as one, exactly: the factors of equal layers are put side by side, so deltas add up.

Layers meet under their canonical names, so spellings, ranks and sets of layers may differ. What is not linear in
its factors (DoRA), or would need a sum that we do not make (weight, bias and norm differences), is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import LayerError, UnsupportedError
from ..files.header import DTYPE_BYTES
from ..files.stamp import agreed
from ..linalg.factor import Joined, Pair
from .layer import Adapter, Copied, Layer
from .read import groups_together
from .registry import EMBEDDING
from .suffixes import Part


@dataclass(frozen=True)
class _Term:
    """One file's contribution to a layer."""

    layer: Layer
    weight: float


def merge(adapters: Sequence[Adapter], weights: Sequence[float], name: str) -> Adapter:
    """The adapter whose deltas are ``sum_i weights[i] * delta_i``.

    Raises UnsupportedError for parts that cannot be added, LayerError where sizes differ.
    """
    _check(adapters)
    family = adapters[0].family
    if len({adapter.family.name if adapter.family else None for adapter in adapters}) > 1:
        families = ", ".join(f"{a.name}: {a.family.name if a.family else 'unknown'}" for a in adapters)
        raise UnsupportedError(f"merge {name}: the LoRAs are made for different model families ({families}).")
    terms: dict[str, list[_Term]] = {}
    for adapter, weight in zip(adapters, weights, strict=True):
        for layer in adapter.layers:
            terms.setdefault(layer.canonical or layer.stem, []).append(_Term(layer, weight))
    respell = _spellings_differ(terms)
    layers = tuple(_joined(key, found, respell) for key, found in terms.items())
    return Adapter(
        name=name,
        files=tuple(file for adapter in adapters for file in adapter.files),
        metadata=agreed([adapter.metadata for adapter in adapters]),
        layers=layers,
        copied=tuple(_embeddings(adapters)),
        family=family,
        notes=tuple(sorted({note for adapter in adapters for note in adapter.notes})),
        weights=tuple(weights),
        together=groups_together(layers, family),
    )


def _check(adapters: Sequence[Adapter]) -> None:
    for adapter in adapters:
        for copied in adapter.copied:
            if copied.why not in (EMBEDDING.name, "alpha without factors"):
                raise UnsupportedError(
                    f"{adapter.paths[0]}: {copied.key} ({copied.why}) cannot be added to other LoRAs by joining "
                    f"factors, so this file cannot be merged. Resize it alone."
                )


def _spellings_differ(terms: dict[str, list[_Term]]) -> bool:
    names = [{(term.layer.stem, term.layer.up.suffix) for term in found} for found in terms.values()]
    return any(len(found) > 1 for found in names) or len({suffix for found in names for _, suffix in found}) > 1


def _joined(key: str, terms: list[_Term], respell: bool) -> Layer:
    first = terms[0].layer
    for term in terms[1:]:
        if term.layer.size != first.size:
            raise LayerError(f"layer {key}: sizes {first.size} and {term.layer.size} differ; these LoRAs do not fit.")
    gains = tuple(term.weight * term.layer.pair.scale for term in terms)
    pair = Pair(
        up=Joined(tuple(term.layer.pair.up for term in terms), gains, axis=1),
        down=Joined(tuple(term.layer.pair.down for term in terms), (1.0,) * len(terms), axis=0),
    )
    stem = key if respell else first.stem
    return Layer(
        stem=stem,
        pair=pair,
        up=Part(f"{stem}.lora_up.weight", stem, "up", ".lora_up.weight") if respell else first.up,
        down=Part(f"{stem}.lora_down.weight", stem, "down", ".lora_down.weight") if respell else first.down,
        up_shape=(first.up_shape[0], pair.rank, *first.up_shape[2:]),
        down_shape=(pair.rank, *first.down_shape[1:]),
        dtypes=(_widest(terms, 0), _widest(terms, 1)),
        alpha=None if respell else first.alpha,
        canonical=first.canonical,
    )


def _widest(terms: Sequence[_Term], side: int) -> str:
    return max((term.layer.dtypes[side] for term in terms), key=lambda dtype: DTYPE_BYTES[dtype])


def _embeddings(adapters: Sequence[Adapter]) -> list[Copied]:
    """Embeddings of all files; of two with one name the first stays."""
    found: dict[str, Copied] = {}
    start = 0
    for adapter in adapters:
        for copied in adapter.copied:
            if copied.why == EMBEDDING.name:
                found.setdefault(copied.key, Copied(copied.key, copied.why, copied.stem, start + copied.source))
        start += len(adapter.files)
    return list(found.values())
