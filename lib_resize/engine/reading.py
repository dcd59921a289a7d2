"""The LoRA that a source names: one file, or several that are merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..adapters.layer import Adapter
from ..adapters.merge.merge import Strength, merge, with_leading_ranks
from ..adapters.merge.onto_base import merge_onto_base, overlap_warnings, requires_base
from ..adapters.merge.prompt_strengths import PromptStrength, block_weight_warnings
from ..adapters.read.adapter import read_adapter
from ..base.checkpoint import Checkpoint
from ..base.checkpoint_keys import looks_like_checkpoint
from ..errors import UnsupportedError
from ..files.reader import SafeFile
from ..prompts.sources import Member, Source
from .base_weights import ground_of


def read_source(source: Source, files: Sequence[SafeFile], base: Checkpoint | None = None) -> Adapter:
    """Return the LoRA of a source, merged if it has several members; `files` are those of its members.

    Kinds whose delta depends on the base model are merged only with `base`. Raises what `read_lora` and `merge` raise.
    """
    if source.is_plain:
        return read_lora(files[0])
    parts = adapters = [read_part(file) for file in files]
    if base is not None and (len(adapters) > 1 or requires_base(adapters[0])):
        adapters = [merge_onto_base(one, ground_of(base)) for one in adapters]
    merged = merge(
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
    return replace(merged, notes=tuple(dict.fromkeys((*merged.notes, *warnings))))


def read_lora(file: SafeFile) -> Adapter:
    """Return the LoRA in a file. Raises UnsupportedError for a base model, and what `read_adapter` raises."""
    _refuse_base_model(file)
    return read_adapter(file)


def read_part(file: SafeFile) -> Adapter:
    """Return a part of a merge, which may have only layers that depend on the base model. Raises as `read_lora`."""
    _refuse_base_model(file)
    return read_adapter(file, allow_base_dependent=True)


def _refuse_base_model(file: SafeFile) -> None:
    if looks_like_checkpoint(file.header.entries):
        raise UnsupportedError(
            f"{file.path}: this is a base model, not a LoRA. To compare with it, name it first or after --base."
        )


def _cut(adapter: Adapter, member: Member) -> Adapter:
    dyn = member.tags[0].dyn if member.tags else None
    return adapter if dyn is None else with_leading_ranks(adapter, dyn)


def _weight_of(member: Member) -> Strength:
    return PromptStrength(member.tags) if member.tags else member.weight


def _warnings(member: Member) -> list[str]:
    return [f"<{tag.kind}:{tag.name}>: {remark}" for tag in member.tags for remark in tag.warnings]
