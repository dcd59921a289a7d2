"""The metadata of a new file: the source's own, with rank, alpha, names and a record of the resize."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .. import __version__
from ..adapters.layer import Adapter
from ..adapters.write.layout import OutputLayout
from ..files.effect_record import EffectRecord
from ..files.metadata import LayerFact, MergedSource, MetadataFacts, ResizeRecord, updated_metadata
from ..files.writer import file_bytes
from .job import ResizeJob
from .selection import Selection

_UNKNOWN_HASH = "0" * 64


def size(selection: Selection, stem: str) -> int:
    """Return the exact bytes of the file with the name `stem`."""
    return file_bytes(selection.layout.specs, metadata(selection, stem))


def metadata(selection: Selection, stem: str, hashes: Sequence[str] = ()) -> dict[str, str]:
    """Return the metadata of the file with the name `stem`.

    `hashes` are the SHA-256 of the adapter's files, hex; without them placeholders of the same length are used, so the
    size of a file is known before its sources are hashed.
    """
    adapter = selection.adapter
    ranks = {layer.rank for layer in adapter.layers}
    facts = MetadataFacts(
        output_name=None if selection.style.keep_name else stem,
        record=_record(selection, list(hashes) or [_UNKNOWN_HASH] * len(adapter.files)),
        layers=_layers(selection.layout),
        source_rank=ranks.pop() if len(ranks) == 1 else None,
        base_model_version=adapter.family.base_model_version if adapter.family else None,
        network_module="networks.lora" if adapter.converted else None,
    )
    return updated_metadata(adapter.metadata, facts)


def with_effect(job: ResizeJob, effect: EffectRecord) -> ResizeJob:
    """Return the job with a figure of its images in the file's record, and its size with that."""
    selection = replace(job.selection, effect=effect)
    return replace(job, selection=selection, plan=replace(job.plan, bytes_after=size(selection, job.path.stem)))


def _layers(layout: OutputLayout) -> dict[str, LayerFact]:
    return {
        new.stem: LayerFact(new.rank, new.alpha_value if new.alpha else None, new.layer.form.is_conv)
        for new in layout.layers
    }


def _record(selection: Selection, hashes: Sequence[str]) -> ResizeRecord:
    adapter = selection.adapter
    merged = _merged(adapter, hashes)
    return ResizeRecord(
        version=__version__,
        source=adapter.name if merged else adapter.titles[0],
        source_sha256="" if merged else hashes[0],
        recipe=str(selection.recipe),
        threshold=selection.choice.threshold,
        retention=selection.recorded_retention,
        merged=merged,
        extracted=adapter.extracted,
        fit=selection.fit,
        effect=selection.effect,
    )


def _merged(adapter: Adapter, hashes: Sequence[str]) -> Sequence[MergedSource]:
    """Return the sources of a merge; none for a single file at strength 1."""
    if len(adapter.titles) == 1 and adapter.weights == (1.0,):
        return ()
    return [MergedSource(*one) for one in zip(adapter.titles, hashes, adapter.weights, strict=True)]
