"""A LoRA file as data: the layers that can be resized, and the tensors that are copied unchanged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ..files.reader import SafeFile
from ..linalg.casts import Single
from ..names.family import Family
from .forms.form import Form
from .keys.suffixes import ParsedKey, suffix_of


class NamedLayer(Protocol):
    """Anything that has the names of a layer."""

    @property
    def stem(self) -> str:
        """The name in the file."""
        ...

    @property
    def canonical(self) -> str | None:
        """The canonical id in the family; None if unknown."""
        ...


@dataclass(frozen=True)
class LayerNames:
    """The names of a layer without factors, such as a norm."""

    stem: str
    canonical: str | None


@dataclass(frozen=True)
class Layer:
    """One delta and the tensors that belong to it."""

    stem: str
    """The layer's name in the file."""
    form: Form
    """How its delta is stored. Its tensors are read from the file when they are needed."""
    parts: Mapping[str, ParsedKey]
    """Role -> key of the tensors that make it, alpha included."""
    magnitude: ParsedKey | None = None
    """DoRA's magnitudes, which are copied unchanged."""
    canonical: str | None = None
    """Its canonical id; None where the family or the layer is unknown."""
    cancels: Callable[[float], bool] | None = field(default=None, compare=False)
    """In a merge: whether a sum of this Frobenius norm may be nothing but rounding errors of its terms."""
    lost: float = 0.0
    """Frobenius norm of the part of the delta that the pair does not hold, as after an extraction."""

    @property
    def size(self) -> tuple[int, int]:
        """(n, m) of the delta."""
        return self.form.size

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return self.form.rank

    @property
    def carries_alpha(self) -> bool:
        """Whether a scale may be moved into an alpha key.

        Readers of kohya's suffixes use the alpha; readers of other key formats partly ignore it.
        """
        return "bare_up" not in self.parts and self.suffix("up") == ".lora_up.weight"

    def suffix(self, role: str) -> str:
        """Return the suffix that the file uses, or would use, for a role."""
        if role in self.parts:
            return self.parts[role].suffix
        if self.stem.startswith("base_model.model."):
            return _PEFT.get(role, suffix_of(role))
        return suffix_of(role)


_PEFT = {"up": ".lora_B.weight", "down": ".lora_A.weight"}


@dataclass(frozen=True)
class Copied:
    """One tensor that is copied byte for byte."""

    key: str
    why: str
    """Name of its kind in the registry."""
    stem: str
    source: int = 0
    """Index of the adapter's file that holds it."""
    gain: float | None = None
    """Factor of the difference of a vector, in addition to a recipe's rescale.

    None for tensors that are copied unchanged.

    Such a difference acts times the strength of the LoRA. For the bias of an up, the factor is the scale of its layer:
    that scale is folded into the new factors, so readers no longer apply it.
    """
    made: Single | None = field(default=None, compare=False)
    """The values of a tensor that is in no file."""
    dtype: str | None = None
    """safetensors dtype of `made`; None for that of the style."""

    @property
    def is_vector(self) -> bool:
        """Whether it is the difference of a bias, or of the weight of a norm."""
        return self.gain is not None


@dataclass(frozen=True)
class Adapter:
    """One LoRA, or several merged."""

    name: str
    """The stem of the file name, or the name of a merge."""
    files: Sequence[SafeFile]
    metadata: Mapping[str, str]
    layers: tuple[Layer, ...]
    copied: tuple[Copied, ...]
    family: Family | None
    notes: tuple[str, ...] = ()
    """Notes for the user about how it was read."""
    weights: tuple[float | str, ...] = (1.0,)
    """Strength of each file in a merge; as text if it differs between layers."""
    together: tuple[tuple[int, ...], ...] = field(default=())
    """Groups of layers, by index, that a host applies only if all are present."""
    converted: bool = False
    """Whether some layers have another kind here than in the file."""
    extracted: bool = False
    """Whether it is the difference of its files, which are checkpoints."""
    models: tuple[Path, ...] = ()
    """For files that are parts of models: the folder or file of the model that each belongs to."""

    @property
    def paths(self) -> list[Path]:
        return [file.path for file in self.files]

    @property
    def titles(self) -> list[str]:
        """The names of its files in records: the path inside of the model if it has several files."""
        models = self.models or self.paths
        return [
            path.name if path == model else f"{model.name}/{path.relative_to(model).as_posix()}"
            for path, model in zip(self.paths, models, strict=True)
        ]

    @property
    def bytes(self) -> int:
        """Size of all its files, in bytes."""
        return sum(file.header.file_bytes for file in self.files)

    def close(self) -> None:
        """Close its files."""
        for file in self.files:
            file.close()
