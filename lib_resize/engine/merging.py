"""Several files as one LoRA, each with its strength or the tags of a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..adapters.layer import Adapter
from ..adapters.merge.merge import Strength, merge, with_leading_ranks
from ..adapters.merge.onto_base import merge_onto_base, overlap_warnings, requires_base
from ..adapters.merge.prompt_strengths import PromptStrength, block_weight_warnings
from ..base.checkpoint import Checkpoint
from ..files.reader import SafeFile
from ..prompts.sources import Member, Source
from .base_weights import ground_of
from .reading import read_part


def merged(source: Source, files: Sequence[SafeFile], base: Checkpoint | None) -> Adapter:
    """Return the merge of a source; see `reading.read_source`."""
    parts = adapters = [read_part(file) for file in files]
    if base is not None and (len(adapters) > 1 or requires_base(adapters[0])):
        adapters = [merge_onto_base(one, ground_of(base)) for one in adapters]
    found = merge(
        [_cut(adapter, member) for adapter, member in zip(adapters, source.members, strict=True)],
        [_weight_of(member) for member in source.members],
        source.name,
    )
    warnings = [
        warning
        for adapter, member in zip(adapters, source.members, strict=True)
        for warning in (*block_weight_warnings(adapter, member.tags), *_warnings(member))
    ]
    warnings += overlap_warnings(parts, adapters)
    return replace(found, notes=tuple(dict.fromkeys((*found.notes, *warnings))))


def _cut(adapter: Adapter, member: Member) -> Adapter:
    dyn = member.tags[0].dyn if member.tags else None
    return adapter if dyn is None else with_leading_ranks(adapter, dyn)


def _weight_of(member: Member) -> Strength:
    return PromptStrength(member.tags) if member.tags else member.weight


def _warnings(member: Member) -> list[str]:
    return [f"<{tag.kind}:{tag.name}>: {remark}" for tag in member.tags for remark in tag.warnings]
