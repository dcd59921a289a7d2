"""The LoRA that a source names: one file, or several that are merged."""

from __future__ import annotations

from collections.abc import Sequence

from ..adapters.layer import Adapter
from ..adapters.read.adapter import read_adapter
from ..base.checkpoint import Checkpoint
from ..base.checkpoint_keys import looks_like_checkpoint
from ..errors import UnsupportedError
from ..files.reader import SafeFile
from ..prompts.sources import Source


def read_source(source: Source, files: Sequence[SafeFile], base: Checkpoint | None = None) -> Adapter:
    """Return the LoRA of a source, merged if it has several members; `files` are those of its members.

    Kinds whose delta depends on the base model are merged only with `base`. Raises what `read_lora` and `merge` raise.
    """
    if source.is_plain:
        return read_lora(files[0])
    from .merging import merged  # a single file does without

    return merged(source, files, base)


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
