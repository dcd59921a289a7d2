"""From an open file to an `Adapter`: each key is in a layer, or copied, or the file is refused."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping

from ..errors import DamagedFileError, LayerError, UnsupportedError
from ..files.header import Entry
from ..files.reader import SafeFile
from ..linalg.casts import STORAGE
from ..linalg.factor import Pair, Stored
from ..names.families import Family, attention_group
from ..names.spelling import canonical, identify
from .cloneofsimo import NOTE, named
from .fused import held_twice
from .layer import Adapter, Copied, Layer
from .registry import Kind, kind_of
from .scales import Config, find_configs, outer_scale
from .suffixes import Part, part

Groups = Mapping[str, Mapping[str, Part]]
"""stem -> role -> part."""


def kinds_of(keys: Iterable[str]) -> dict[str, tuple[Kind, Mapping[str, Part]]]:
    """stem -> its kind and its parts by role, in the order of the file. Names alone are looked at."""
    groups: dict[str, dict[str, Part]] = defaultdict(dict)
    for key in keys:
        found = part(key)
        role = found.role if found.role not in groups[found.stem] else f"{found.role} again ({found.suffix})"
        groups[found.stem][role] = found
    return {stem: (kind_of(stem, parts), parts) for stem, parts in groups.items()}


def read_adapter(file: SafeFile) -> Adapter:
    """Reads a LoRA. Nothing but the header and the alphas is looked at yet; layers are views of the file.

    Raises UnsupportedError for kinds that are refused or where nothing can be resized, DamagedFileError for
    layers without partner, LayerError for shapes that make no sense.
    """
    notes: set[str] = set()
    source, file = file, named(file)
    if file is not source:
        notes.add(NOTE)
    stems = kinds_of(file.header.entries)
    _refuse(file, stems)
    pairs = {stem: parts for stem, (kind, parts) in stems.items() if kind.verdict == "resize"}
    if not pairs:
        raise UnsupportedError(f"{file.path}: no low-rank pair (up and down) found, so there is nothing to resize.")
    _check_complete(file, pairs)
    configs = find_configs(file.path, file.header.metadata, list(pairs))
    family = identify({stem: _delta_size(file, parts) for stem, parts in pairs.items()}, _told(file.header.metadata))
    layers = tuple(_layer(file, stem, parts, family, configs, notes) for stem, parts in pairs.items())
    twice = held_twice(layers, family)
    if twice:
        notes.add(
            f"{len(twice)} layers are in the file twice (first {twice[0]}), in two spellings or in pieces and whole; "
            f"hosts use one of them, and all are resized"
        )
    return Adapter(
        name=file.path.stem,
        files=(file,),
        metadata=file.header.metadata,
        layers=layers,
        copied=tuple(_copied(stems, layers)),
        family=family,
        notes=tuple(sorted(notes)),
        together=groups_together(layers, family),
    )


def _told(metadata: Mapping[str, str]) -> list[str]:
    """What trainers write of the base model."""
    return [metadata.get(key, "") for key in ("ss_base_model_version", "modelspec.architecture")]


def groups_together(layers: Iterable[Layer], family: Family | None) -> tuple[tuple[int, ...], ...]:
    """Indices of layers that a host applies only together; groups that are not complete are left out."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, layer in enumerate(layers):
        group = attention_group(layer.canonical, family) if family and layer.canonical else None
        if group is not None:
            groups[group].append(index)
    return tuple(tuple(group) for group in groups.values() if len(group) == 4)


def _refuse(file: SafeFile, stems: Mapping[str, tuple[Kind, Mapping[str, Part]]]) -> None:
    refused: dict[str, list[str]] = defaultdict(list)
    for stem, (kind, _) in stems.items():
        if kind.verdict == "refuse":
            refused[kind.name].append(stem)
    if refused:
        found = "; ".join(f"{name} ({len(found)} layers, first {found[0]})" for name, found in refused.items())
        raise UnsupportedError(
            f"{file.path}: holds {found}. LoRA and LoCon can be resized, this cannot; the file stays as it is."
        )


def _check_complete(file: SafeFile, pairs: Groups) -> None:
    for stem, parts in pairs.items():
        for role, other in (("up", "down"), ("down", "up")):
            if role not in parts:
                raise DamagedFileError(
                    f"{file.path}: layer {stem} has {other} but no {role} (only {', '.join(sorted(parts))}); "
                    f"the file is incomplete. Download or save it again."
                )
        again = [role for role in parts if " again (" in role]
        if again:
            raise DamagedFileError(f"{file.path}: layer {stem} has {again[0]}: two tensors for one place.")


def _delta_size(file: SafeFile, parts: Mapping[str, Part]) -> tuple[int, int]:
    up, down = (file.header.entries[parts[role].key].shape for role in ("up", "down"))
    return (up[0] if up else 0), math.prod(down[1:])


def _layer(
    file: SafeFile,
    stem: str,
    parts: Mapping[str, Part],
    family: Family | None,
    configs: list[Config],
    notes: set[str],
) -> Layer:
    up, down = parts["up"], parts["down"]
    up_entry, down_entry = file.header.entries[up.key], file.header.entries[down.key]
    _check_shapes(file, stem, up_entry, down_entry)
    rank = down_entry.shape[0]
    return Layer(
        stem=stem,
        pair=Pair(
            up=_stored(file, up, up_entry, (up_entry.shape[0], rank)),
            down=_stored(file, down, down_entry, (rank, math.prod(down_entry.shape[1:]))),
            scale=_scale(file, stem, parts, rank, configs, notes),
        ),
        up=up,
        down=down,
        up_shape=up_entry.shape,
        down_shape=down_entry.shape,
        dtypes=(up_entry.dtype, down_entry.dtype),
        alpha=parts.get("alpha"),
        magnitude=parts.get("magnitude"),
        canonical=canonical(stem, family) if family else None,
    )


def _stored(file: SafeFile, tensor: Part, entry: Entry, shape: tuple[int, int]) -> Stored:
    return Stored(file.bits(tensor.key).reshape(shape), entry.dtype)


def _check_shapes(file: SafeFile, stem: str, up: Entry, down: Entry) -> None:
    def fault(what: str) -> LayerError:
        return LayerError(f"{file.path}: layer {stem}: up is {up.shape}, down is {down.shape}: {what}.")

    for entry in (up, down):
        if entry.dtype not in STORAGE:
            raise fault(f"numbers of dtype {entry.dtype}; floating point was expected")
    if len(up.shape) < 2 or len(down.shape) < 2 or math.prod(up.shape[2:]) != 1:
        raise fault("expected (out, rank) and (rank, in), or the same of a convolution")
    if up.shape[1] != down.shape[0]:
        raise fault(f"ranks {up.shape[1]} and {down.shape[0]} differ; the file is damaged or not a LoRA")
    if 0 in up.shape or 0 in down.shape:
        raise fault("a layer without dimensions; hosts refuse such a file, and so do we")


def _scale(
    file: SafeFile, stem: str, parts: Mapping[str, Part], rank: int, configs: list[Config], notes: set[str]
) -> float:
    if "scale" in parts:
        notes.add("the file's own .scale keys are folded into its layers")
        return file.scalar(parts["scale"].key)
    if "alpha" in parts:
        return file.scalar(parts["alpha"].key) / rank
    outer = outer_scale(configs, stem, rank)
    if outer is None:
        return 1.0
    if outer[0] != 1.0:
        notes.add(f"scale {outer[0]:.6g} from {outer[1]} is folded in, so that hosts which ignore it now apply it")
    return outer[0]


_TAKEN = frozenset({"up", "down", "alpha", "scale"})
_WHY = {"magnitude": "DoRA magnitude", "up_bias": "bias of up", "diff_b": "bias difference"}


def _copied(stems: Mapping[str, tuple[Kind, Mapping[str, Part]]], layers: Iterable[Layer]) -> Iterable[Copied]:
    scales = {layer.stem: layer.pair.scale for layer in layers}
    for stem, (kind, parts) in stems.items():
        for role, tensor in parts.items():
            if kind.verdict == "copy":
                yield Copied(tensor.key, kind.name, stem)
            elif role not in _TAKEN:
                gain = scales[stem] if role == "up_bias" else None
                yield Copied(tensor.key, _WHY.get(role, "unknown"), stem, gain=gain)
