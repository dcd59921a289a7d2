"""What the user should know of a plan: unusual layers, and hosts that would not load the new file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ..adapters.keys.registry import LONE_ALPHA, MOST_UNKNOWN_TO_FORGE, UNKNOWN_TO_FORGE
from ..adapters.layer import Adapter
from ..adapters.write.float8 import float8_result
from ..shown import first_of
from .selection import Selection


def notes(selection: Selection, unpaired: Sequence[str]) -> Iterator[str]:
    """Yield all notes. `unpaired` are the layers that the base model lacks."""
    yield from selection.adapter.notes
    for note in _NOTES:
        yield from note(selection)
    if unpaired:
        yield f"{_some(unpaired)} scored without the base model: {selection.analysis.base_name} has no such layers"
    yield from _restored(selection)


def label(adapter: Adapter) -> str:
    """Return the path of a LoRA; of a merge, its paths with weights as on the command line."""
    if len(adapter.files) == 1 and adapter.weights == (1.0,):
        return str(adapter.paths[0])
    files = list(zip(adapter.models or adapter.paths, adapter.weights, strict=True))
    each = list(dict.fromkeys(files)) if adapter.models else files
    return ",".join(f"{path}:{weight if isinstance(weight, str) else f'{weight:g}'}" for path, weight in each)


def _orphans(selection: Selection) -> Iterator[str]:
    keys = [copied.key for copied in selection.adapter.copied if copied.why == LONE_ALPHA.name]
    if keys:
        yield f"{len(keys)} alpha keys without factors left out ({keys[0]}): hosts refuse a file with them"


def _cancelled(selection: Selection) -> Iterator[str]:
    pairs = zip(selection.adapter.layers, selection.analysis.layers, strict=True)
    stems = [layer.stem for layer, facts in pairs if layer.cancels is not None and not facts.alive]
    if stems:
        yield f"{_some(stems)} cancel one another in this merge and are left out"


def _kind_of_file(selection: Selection) -> Iterator[str]:
    if selection.adapter.family is None:
        yield "unknown model family; layer names are kept"
    if any(layer.magnitude for layer in selection.adapter.layers):
        yield "DoRA: the low-rank part is resized, the magnitudes are kept unchanged"


def _float8(selection: Selection) -> Iterator[str]:
    """Report the programs that cannot load fp8 layers."""
    layers = [(new.layer, [spec.dtype for spec in new.tensors.values()]) for new in selection.layout.layers]
    family = selection.adapter.family
    programs = float8_result(layers, family, kohya=selection.style.kohya)
    if programs:
        which = family.name if family else "a transformer"
        yield f"{' and '.join(programs)} cannot load a float8 LoRA of {which} in this key format; use -t 16 there"


def _in_pieces(selection: Selection) -> Iterator[str]:
    solved = zip(selection.adapter.layers, selection.analysis.spectra, strict=True)
    stems = [layer.stem for layer, one in solved if getattr(one, "owner", None) is not None]
    if stems:
        yield f"{_some(stems)} fused, but trained in pieces: each piece is resized by itself and stays separate"


def _kept_whole(selection: Selection) -> Iterator[str]:
    """Report layers from which nothing is removed, because fewer dimensions would not be smaller."""
    pairs = zip(selection.analysis.layers, selection.choice.kept, strict=True)
    names = [
        facts.name
        for facts, kept in pairs
        if facts.stored_ranks is not None and not facts.nested and len(kept) == len(facts.s)
    ]
    if names:
        yield f"{_some(names)} kept in full: factors of that rank would be no smaller"


_FULL = "weight difference"


def _biases_of_converted_layers(selection: Selection) -> Iterator[str]:
    """Report full differences that become up and down, while the difference of their bias stays."""
    biases = {copied.stem for copied in selection.layout.copied.values() if copied.why == "bias difference"}
    full = [new for new in selection.layout.layers if new.layer.form.kind == _FULL and "up" in new.tensors]
    stems = [new.layer.stem for new in full if new.layer.stem in biases]
    if stems:
        yield f"{_some(stems)} converted from full to low-rank: A1111 ignores their bias difference, others apply it"


def _unread_by_forge(selection: Selection) -> Iterator[str]:
    keys = [copied.key for copied in selection.adapter.copied if copied.why in UNKNOWN_TO_FORGE]
    if len(keys) > MOST_UNKNOWN_TO_FORGE:
        most = MOST_UNKNOWN_TO_FORGE
        yield f"Forge ignores LoRAs with more than {most} unknown keys; this file has {len(keys)}"


def _method(selection: Selection) -> Iterator[str]:
    recipe = selection.recipe
    if selection.reduction is not None and recipe.method != "svd":
        yield f"{recipe.method}: the new delta is off by {selection.error:.1%} of the LoRA's norm"


_NOTES: tuple[Callable[[Selection], Iterator[str]], ...] = (
    _orphans,
    _cancelled,
    _kind_of_file,
    _float8,
    _in_pieces,
    _kept_whole,
    _biases_of_converted_layers,
    _unread_by_forge,
    _method,
)


def _restored(selection: Selection) -> Iterator[str]:
    """Report layers that the recipe alone would drop, and that a host needs."""
    layers = selection.analysis.layers
    whole = {index for group in selection.adapter.together for index in group}
    restored = _below_threshold(selection)
    attention = [layers[index].name for index in restored if index in whole]
    companions = [layers[index].name for index in restored if index not in whole]
    if attention:
        yield f"{_some(attention)} kept at rank 1: A1111 applies text encoder attention only whole"
    if companions:
        yield f"{_some(companions)} kept at rank 1: they have other tensors that stay"


def _below_threshold(selection: Selection) -> list[int]:
    choice = selection.choice
    if choice.threshold is None or selection.recipe.min_rank:
        return []
    return [
        index
        for index, (kept, scores) in enumerate(zip(choice.kept, choice.scores, strict=True))
        if len(kept) == 1 and scores[kept[0]] < choice.threshold
    ]


def _some(names: Sequence[str]) -> str:
    """Return a count and the first names; the report has the rank of every layer."""
    return f"{len(names)} layers ({first_of(names, 2)})"
