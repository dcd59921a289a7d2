"""Read an open file as an `Adapter`: each key belongs to a layer, or is copied, or the file is refused."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from ...errors import DamagedFileError, LayerError, UnsupportedError
from ...files.header import Layout
from ...files.metadata import has_resize_record
from ...files.reader import SafeFile
from ...linalg.casts import LARGEST
from ...names.evidence import base_model_hints
from ...names.family import Family
from ...names.family import layers as family_layers
from ..forms import reader_of
from ..forms.form import Form, Tensors
from ..forms.lora import check_upright
from ..keys.registry import BASE_DEPENDENT, CONTROL_MARKER, Kind, kind_of, kind_of_role
from ..keys.suffixes import ParsedKey, parse_key
from ..layer import Adapter, Copied, Layer
from .cloneofsimo import NOTE, with_kohya_names
from .naming import FileNaming, LayerNaming, naming_of
from .scales import ScaleConfig, config_scale, find_configs

Parts = Mapping[str, ParsedKey]
"""Role -> key."""
Stems = Mapping[str, tuple[Kind, Parts]]
"""Stem -> its kind and its keys by role, in the order of the file."""


def stems_of(layout: Layout) -> Stems:
    """Return `layers_by_stem` of the tensors of a file."""
    found: Stems | None = layout.found("stems")
    return layout.keep("stems", layers_by_stem(layout.entries)) if found is None else found


def layers_by_stem(keys: Iterable[str]) -> Stems:
    """Return stem -> its kind and its keys by role, in the order of the file."""
    groups: dict[str, dict[str, ParsedKey]] = defaultdict(dict)
    for key in keys:
        found = parse_key(key)
        role = found.role if found.role not in groups[found.stem] else f"{found.role} again ({found.suffix})"
        groups[found.stem][role] = found
    return {stem: (kind_of(stem, parts), parts) for stem, parts in groups.items()}


def read_adapter(file: SafeFile, *, allow_base_dependent: bool = False) -> Adapter:
    """Read a LoRA.

    Only the header and the alphas are read; tensors of layers are read from the file when they are needed.

    `allow_base_dependent`: also accept a file of layers that can only be merged with the base model.

    Raises UnsupportedError for kinds that are refused or if nothing can be resized, DamagedFileError for incomplete
    layers, LayerError for shapes that do not fit.
    """
    source, file = file, with_kohya_names(file)
    stems = stems_of(file.header.layout)
    _refuse(file, stems)
    resized = {stem: found for stem, found in stems.items() if _is_resized(file, *found)}
    if not resized and not (allow_base_dependent and any(kind.name in BASE_DEPENDENT for kind, _ in stems.values())):
        raise UnsupportedError(f"{file.path}: {_nothing_to_resize(stems)}")
    scales = _Scales(file, find_configs(file.path, file.header.metadata, list(resized)))
    found = [_layer(file, stem, kind, parts, scales) for stem, (kind, parts) in resized.items()]
    names = _naming_of(file, found)
    layers = tuple(_named(layer, name) for layer, name in zip(found, names.layers, strict=True))
    family = names.family
    scales.notes |= {NOTE} if file is not source else set()
    scales.notes.update(names.notes)
    scales.notes.update(_upright(source, layers, family))
    scales.notes.update(scales.without_strength())
    return Adapter(
        name=file.path.stem,
        files=(file,),
        metadata=file.header.metadata,
        layers=layers,
        copied=tuple(_copied(stems, layers)),
        family=family,
        notes=tuple(sorted(scales.notes)),
        together=names.together,
    )


def _upright(file: SafeFile, layers: Iterable[Layer], family: Family | None) -> list[str]:
    if not any(layer.rank > max(layer.size) for layer in layers):
        return []
    table = family_layers(family) if family else {}
    forms = {layer.stem: layer.form for layer in layers}
    shapes = {layer.stem: table[layer.canonical or ""].shape for layer in layers if layer.canonical in table}
    try:
        return check_upright(forms, shapes, ours=has_resize_record(file.header.metadata))
    except LayerError as error:
        raise LayerError(f"{file.path}: {error}") from error


def read_written_form(file: SafeFile, stem: str, keys: Mapping[str, str]) -> Form:
    """Return a layer of a file that this program has written, from its keys by role, with the scale of its alpha."""
    parts = {role: ParsedKey(key, stem, role, key[len(stem) :]) for role, key in keys.items()}
    kind = kind_of(stem, parts)
    return reader_of(kind.name)(Tensors(file, stem, parts, partial(_Scales(file, []).of, stem, parts)))


# Contents of a file


def _is_resized(file: SafeFile, kind: Kind, parts: Parts) -> bool:
    """Return whether a layer is resized. The difference of a vector, such as a norm's, has no rank."""
    if kind.verdict != "resize":
        return False
    return "diff" not in parts or kind.name != "weight difference" or len(_shape(file, parts["diff"])) > 1


def _shape(file: SafeFile, tensor: ParsedKey) -> tuple[int, ...]:
    return file.header.entries[tensor.key].shape


def _refuse(file: SafeFile, stems: Stems) -> None:
    refused: dict[Kind, list[str]] = defaultdict(list)
    for stem, (kind, _) in stems.items():
        if kind.verdict == "refuse":
            refused[kind].append(stem)
        elif kind.name == "Control-LoRA" and CONTROL_MARKER not in file.header.entries:
            refused[_NAMELESS].append(stem)
    if refused:
        found = "; ".join(
            f"{kind.name} ({len(names)} layers, first {names[0]}), which {kind.reason}"
            for kind, names in refused.items()
        )
        raise UnsupportedError(f"{file.path}: holds {found}.")


_NAMELESS = Kind(
    "bare up and down",
    frozenset(),
    "refuse",
    f"would be a Control-LoRA's if the file had the key {CONTROL_MARKER}; it is of an unknown kind",
)


def _nothing_to_resize(stems: Stems) -> str:
    """Return why a file without any layer that can be resized is refused."""
    found: dict[Kind, list[str]] = defaultdict(list)
    for stem, (kind, _) in stems.items():
        found[kind].append(stem)
    if not found or all(kind.name == "unknown" for kind in found):
        return "no layer of a LoRA (up and down, or another known kind) was found, so there is nothing to resize."
    listed = "; ".join(
        f"{kind.name} ({len(names)}, first {names[0]}), which {kind.reason or 'has no rank that could be cut'}"
        for kind, names in found.items()
    )
    return f"there is nothing to resize; it holds {listed}."


# Layers


@dataclass
class _Scales:
    """The scales of the layers of a file, and the notes about them."""

    file: SafeFile
    configs: list[ScaleConfig]
    notes: set[str] = field(default_factory=set)
    zero: list[str] = field(default_factory=list)
    """Stems of the layers whose alpha is 0."""

    def without_strength(self) -> Iterator[str]:
        """Yield a note about layers whose alpha is 0."""
        if self.zero:
            yield (
                f"alpha is 0 in {len(self.zero)} layers (first {self.zero[0]}): hosts ignore them, so they are left "
                f"out; kohya's scripts and LyCORIS read alpha 0 as alpha = rank"
            )

    def of(self, stem: str, parts: Parts, rank: int | None) -> float:
        """Return the scale: ``.scale``, else ``.alpha`` / rank, else that of a configuration, else 1.

        `rank` is None where readers ignore alpha.
        """
        if "scale" in parts:
            self.notes.add("the file's own .scale keys are folded into its layers")
            return self._scalar(stem, parts["scale"])
        if "alpha" in parts:
            if rank is None:
                return 1.0
            if rank == 0:
                raise LayerError(
                    f"{self.file.path}: layer {stem} has rank 0: a layer without dimensions, which hosts refuse. "
                    f"Download or save the file again."
                )
            alpha = self._scalar(stem, parts["alpha"])
            self.zero += [stem] * (alpha == 0.0)
            return alpha / rank
        outer = config_scale(self.configs, stem, rank)
        if outer is None:
            return 1.0
        if outer[0] != 1.0:
            note = f"scale {outer[0]:.6g} from {outer[1]} is folded in, so that hosts which ignore it apply it too"
            self.notes.add(note)
        return outer[0]

    def _scalar(self, stem: str, part: ParsedKey) -> float:
        value = self.file.scalar(part.key)
        if not abs(value) <= LARGEST["F32"]:
            raise LayerError(
                f"{self.file.path}: layer {stem}: {part.key} is {value}; a finite float32 number was expected. The "
                f"file is damaged; download or save it again."
            )
        return value


def _layer(file: SafeFile, stem: str, kind: Kind, parts: Parts, scales: _Scales) -> Layer:
    tensors = Tensors(file, stem, parts, partial(scales.of, stem, parts))
    form = reader_of(kind.name)(tensors)
    again = [role for role in parts if " again (" in role]
    if again:
        raise DamagedFileError(
            f"{file.path}: layer {stem} has {again[0]}: two tensors with one role. Download or save it again."
        )
    spare = sorted((kind.any_of & parts.keys()) - tensors.used)
    if spare:
        raise DamagedFileError(
            f"{file.path}: layer {stem} has {parts[spare[0]].key} and other tensors for the same part of it; hosts "
            f"differ in which they use. Download or save it again."
        )
    own = {*tensors.used, "alpha", "scale"}
    return Layer(
        stem=stem,
        form=form,
        parts=parts if parts.keys() <= own else {role: tensor for role, tensor in parts.items() if role in own},
        magnitude=parts.get("magnitude"),
    )


def _naming_of(file: SafeFile, layers: Sequence[Layer]) -> FileNaming:
    """Return the meaning of the names, which follows from the tensors and from the base model in the metadata."""
    hints = base_model_hints(file.header.metadata)
    found: FileNaming | None = file.header.layout.found("naming", hints)
    if found is None:
        naming = naming_of({layer.stem: layer.size for layer in layers}, hints)
        found = file.header.layout.keep("naming", naming, hints)
    return found


def _named(layer: Layer, name: LayerNaming) -> Layer:
    """Return the layer with its canonical id, and with the kernel that it has in the family."""
    if name.canonical is None:
        return layer
    form = layer.form.with_kernel(name.kernel).with_row_cuts(name.cuts)
    return Layer(layer.stem, form, layer.parts, layer.magnitude, name.canonical)


_WHY = {"magnitude": "DoRA magnitude", "up_bias": "bias of up", "diff_b": "bias difference"}
_VECTORS = frozenset({"diff", "diff_b", "up_bias", "w_norm", "b_norm"})
"""Roles of tensors that readers multiply by the strength of the LoRA and add to a weight or a bias."""


def _copied(stems: Stems, layers: Iterable[Layer]) -> Iterator[Copied]:
    resized = {layer.stem: layer for layer in layers}
    for stem, (kind, parts) in stems.items():
        layer = resized.get(stem)
        for role, tensor in parts.items():
            if layer is None:
                gain = 1.0 if role in _VECTORS and kind.name in _OF_VECTORS else None
                yield Copied(tensor.key, kind.name, stem, gain=gain)
            elif role not in layer.parts:
                gain = layer.form.scale if role == "up_bias" else 1.0 if role == "diff_b" else None
                yield Copied(tensor.key, _WHY.get(role) or kind_of_role(role), stem, gain=gain)


_OF_VECTORS = ("weight difference", "bias difference", "norm")
