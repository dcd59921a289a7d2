"""A file of this program under another name: its tensors byte for byte, its metadata with what became known later."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import OutputError
from .effect_record import EffectRecord
from .file_names import storable
from .header import MODEL_HASH, TensorSpec, file_order, read_header
from .own_record import with_effect
from .reader import Raw, SafeFile
from .writer import WrittenFile, file_bytes, verify, write_safetensors

OUTPUT_NAME = "ss_output_name"
"""The name of a LoRA in its metadata; see `metadata`."""


@dataclass(frozen=True)
class WrittenTensors:
    """The tensors of a file that this program wrote."""

    path: Path
    specs: Sequence[TensorSpec]
    metadata: Mapping[str, str]

    @classmethod
    def of(cls, path: Path) -> WrittenTensors:
        """Return those of a file. Raises what `read_header` raises."""
        header = read_header(path)
        specs = [TensorSpec(name, one.dtype, one.shape) for name, one in header.entries.items()]
        return cls(path, file_order(specs), header.metadata)

    @property
    def hash(self) -> str:
        """SHA-256 of the tensor region, hex."""
        return self.metadata[MODEL_HASH]

    def stamped(self, name: str | None, effect: EffectRecord | None) -> dict[str, str]:
        """Return the metadata with another name of the LoRA, None for no name, and a figure of images in the record."""
        metadata = {key: text for key, text in self.metadata.items() if key != OUTPUT_NAME}
        if name is not None:
            metadata[OUTPUT_NAME] = storable(name)
        return metadata if effect is None else with_effect(metadata, effect) or metadata

    def bytes(self, metadata: Mapping[str, str]) -> int:
        """Return the size of the file with other metadata."""
        return file_bytes(self.specs, metadata)

    def write(self, target: Path, metadata: Mapping[str, str], step: Callable[[], None]) -> WrittenFile:
        """Write the tensors with other metadata to a new file, whole or not at all; `step` is called before each.

        Raises OutputError, also where the tensors are not those of `hash` any more, FileError where the file cannot be
        read, and what `step` raises.
        """

        def check(path: Path) -> None:
            verify(path, self.specs)
            if read_header(path).metadata[MODEL_HASH] != self.hash:
                raise OutputError(f"{self.path}: its tensors changed since it was written, so it is not copied.")

        def chunk(name: str) -> Raw:
            step()
            return file.bytes(name)

        with SafeFile(self.path) as file:
            chunks = (chunk(spec.name) for spec in self.specs)
            return write_safetensors(target, self.specs, metadata, chunks, check=check, sources=[self.path])
