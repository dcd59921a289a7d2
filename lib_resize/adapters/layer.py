"""A LoRA file as data: the layers that can be resized, and the keys that go along unchanged."""

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
    """What has a layer's names."""

    @property
    def stem(self) -> str:
        """As the file spells it."""
        ...

    @property
    def canonical(self) -> str | None:
        """In the family's own words."""
        ...


@dataclass(frozen=True)
class LayerNames:
    """The names of a layer without factors, such as a norm."""

    stem: str
    canonical: str | None


@dataclass(frozen=True)
class Layer:
    """One delta and what belongs to it."""

    stem: str
    """The layer's name as the file spells it."""
    form: Form
    """How its delta is stored; numbers are views of the file."""
    parts: Mapping[str, ParsedKey]
    """Role -> key of the tensors that make it, alpha included."""
    magnitude: ParsedKey | None = None
    """DoRA's magnitudes: kept as they are."""
    canonical: str | None = None
    """Its name in the family's own words; None where the family or the layer is unknown."""
    cancels: Callable[[float], bool] | None = field(default=None, compare=False)
    """In a merge, whether a sum of this Frobenius norm is no more than what rounding of its terms leaves."""
    lost: float = 0.0
    """Frobenius norm of what the pair does not hold of the delta that it stands for, as an extraction leaves it."""

    @property
    def size(self) -> tuple[int, int]:
        """(n, m) of the delta."""
        return self.form.size

    @property
    def rank(self) -> int:
        """How many dimensions it has."""
        return self.form.rank

    @property
    def carries_alpha(self) -> bool:
        """Whether a scale may be moved into an alpha key beside up and down: readers of kohya's suffixes take it from
        there, those of the other spellings partly ignore it."""
        return "bare_up" not in self.parts and self.suffix("up") == ".lora_up.weight"

    def suffix(self, role: str) -> str:
        """How the file spells a role, or would spell it."""
        if role in self.parts:
            return self.parts[role].suffix
        if self.stem.startswith("base_model.model."):
            return _PEFT.get(role, suffix_of(role))
        return suffix_of(role)


_PEFT = {"up": ".lora_B.weight", "down": ".lora_A.weight"}


@dataclass(frozen=True)
class Copied:
    """One tensor that goes along byte for byte."""

    key: str
    why: str
    """The kind that the registry gave it."""
    stem: str
    source: int = 0
    """Which of the adapter's files holds it."""
    gain: float | None = None
    """For differences of vectors, which act times the strength of the LoRA: what they are multiplied by, besides a
    recipe's rescale. For the bias of an up it is its layer's scale, which is folded into the new factors, so that
    readers no longer apply it. None for tensors that are copied as they are."""
    made: Single | None = field(default=None, compare=False)
    """The numbers of a tensor that no file holds."""
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
    """The file's stem, or the names of a merge."""
    files: Sequence[SafeFile]
    metadata: Mapping[str, str]
    layers: tuple[Layer, ...]
    copied: tuple[Copied, ...]
    family: Family | None
    notes: tuple[str, ...] = ()
    """What the user should know of how it was read."""
    weights: tuple[float | str, ...] = (1.0,)
    """Strength of each file in a merge, in words where it differs between layers."""
    together: tuple[tuple[int, ...], ...] = field(default=())
    """Groups of layers, by index, that a host applies only together."""
    converted: bool = False
    """Whether some of its layers have another form here than in the file."""
    extracted: bool = False
    """It is the difference of its files, which are checkpoints, and no merge of LoRAs."""
    models: tuple[Path, ...] = ()
    """Where files are parts of models: the folder or file of the model that each belongs to."""

    @property
    def paths(self) -> list[Path]:
        return [file.path for file in self.files]

    @property
    def titles(self) -> list[str]:
        """What its files are called in records: in a model of several, with the path inside of it."""
        models = self.models or self.paths
        return [
            path.name if path == model else f"{model.name}/{path.relative_to(model).as_posix()}"
            for path, model in zip(self.paths, models, strict=True)
        ]

    @property
    def bytes(self) -> int:
        """Size of all its files."""
        return sum(file.header.file_bytes for file in self.files)

    def close(self) -> None:
        """Gives the files back."""
        for file in self.files:
            file.close()
