"""The singular values of a LoRA: by group of layers, by block and type, and retention over size for ways of selecting.

Everything here is numbers; `plots` draws them, `cli.report` and the tab show them. The groups are those of the spectral
analysis in "Post-hoc compression of LoRA adapters via singular value decomposition": each spectrum is divided by its
largest value, padded with zeros to the longest, and averaged over the layers of its group.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..adapters.layer import Layer
from ..adapters.write.style import Style
from ..engine.analysis import Analysis
from ..engine.planning import prepare
from ..errors import ResizeError
from ..files.header import DTYPE_BYTES, describe
from ..linalg.casts import Double
from ..names.families import block
from ..recipe.grammar import parse_recipe
from ..recipe.select import SelectionInput, choose, weight_retention

TYPES = (
    *(f"{kind} {part}" for kind in ("self", "cross") for part in ("Q", "K", "V", "out")),
    *("feed forward", "projection", "convolution", "time embedding", "other"),
)
"""Types of layers, in the order of plots. Attention of text encoders and joint attention count as self."""


@dataclass(frozen=True)
class LayerSpectrum:
    """The spectrum of one layer."""

    name: str
    block: str
    """Block as in `names.families.block`; OTHER for a layer of no known family."""
    type: str
    """One of `TYPES`."""
    s: Double
    """Singular values, (r,), descending."""
    bytes: int
    """Size of its factors, as stored."""


@dataclass(frozen=True)
class Group:
    """A group of layers, without those that are zero."""

    name: str
    layers: int
    spectrum: tuple[float, ...]
    """Mean over layers of s / s_1."""
    effective_rank: float
    """Mean over layers; see `effective_rank`."""
    top_energy: float
    """Mean over layers of s_1^2 / sum(s^2), 0 to 1."""
    rank_90: float
    """Mean over layers of the fewest dimensions with 90 % of the sum of squares."""
    rank_99: float
    """The same for 99 %."""


@dataclass(frozen=True)
class Curve:
    """Weight retention over size, for one way of selecting dimensions."""

    name: str
    points: tuple[tuple[int, float], ...]
    """(bytes of the float16 file, weight retention), ascending."""


@dataclass(frozen=True)
class Study:
    """The spectra of one LoRA, or of several together."""

    name: str
    files: int
    groups: tuple[Group, ...]
    heat: Mapping[tuple[str, str], tuple[float, int]]
    """(block, type) -> mean effective rank, and number of layers."""
    bytes: Mapping[tuple[str, str], int]
    """(block, type) -> bytes of the factors, as stored."""
    curves: tuple[Curve, ...] = ()

    @property
    def blocks(self) -> list[str]:
        """Return the blocks, in the order of the model."""
        return sorted({block for block, _ in self.bytes}, key=block_order)

    @property
    def types(self) -> list[str]:
        """Return the types that occur, in the order of `TYPES`."""
        there = {kind for _, kind in self.bytes}
        return [kind for kind in TYPES if kind in there]

    def as_json(self) -> dict[str, Any]:
        """Return JSON values; tables have blocks as rows and types as columns, with null where there is no layer."""
        return {
            "name": self.name,
            "files": self.files,
            "groups": [asdict(group) for group in self.groups],
            "blocks": self.blocks,
            "types": self.types,
            "effective_rank": self._table({place: round(rank, 4) for place, (rank, _) in self.heat.items()}, None),
            "layers": self._table({place: count for place, (_, count) in self.heat.items()}, 0),
            "bytes": self._table(self.bytes, 0),
            "curves": [asdict(curve) for curve in self.curves],
        }

    def _table(self, cells: Mapping[tuple[str, str], float], missing: int | None) -> list[list[float | None]]:
        return [[cells.get((row, column), missing) for column in self.types] for row in self.blocks]


def study(analysis: Analysis) -> Study:
    """Return the study of one LoRA. It has curves of base model scores if the analysis has a base model."""
    return _study(analysis.adapter.name, [layer_spectra(analysis)], curves(analysis))


def study_of_many(name: str, files: Sequence[Sequence[LayerSpectrum]]) -> Study:
    """Return the study of several LoRAs, in which every layer of every file has the same weight."""
    return _study(name, files, ())


def _study(name: str, files: Sequence[Sequence[LayerSpectrum]], drawn: tuple[Curve, ...]) -> Study:
    cells: dict[tuple[str, str], list[LayerSpectrum]] = {}
    for layers in files:
        for layer in layers:
            cells.setdefault((layer.block, layer.type), []).append(layer)
    alive = {place: [one for one in cell if one.s[0] > 0] for place, cell in cells.items()}
    return Study(
        name=name,
        files=len(files),
        groups=groups(files),
        heat={
            place: (float(np.mean([effective_rank(one.s) for one in cell])), len(cell))
            for place, cell in alive.items()
            if cell
        },
        bytes={place: sum(one.bytes for one in cell) for place, cell in cells.items()},
        curves=drawn,
    )


# Layers ------------------------------------------------------------------------------------------------------


def layer_spectra(analysis: Analysis) -> list[LayerSpectrum]:
    """Return the spectra of a LoRA's layers, in the order of the file."""
    return [
        LayerSpectrum(
            name=layer.stem,
            block=block(layer.canonical) if layer.canonical else "OTHER",
            type=type_of(layer.stem, is_conv=layer.form.is_conv),
            s=facts.strengths,
            bytes=_stored_bytes(layer),
        )
        for layer, facts in zip(analysis.adapter.layers, analysis.layers, strict=True)
    ]


def _stored_bytes(layer: Layer) -> int:
    return sum(math.prod(slot.shape) * DTYPE_BYTES[slot.dtype] for slot in layer.form.slots(layer.rank))


_ATTENTION = re.compile(r"(?:to|add)_(q|k|v|out|add_out)(?:_proj|_0)?$|self_attn_(q|k|v|out)_proj$")
_WORDS = (
    ("time embedding", re.compile(r"time_emb|emb_layers|label_emb|add_embedding|time_in|time_text|vector_in")),
    ("feed forward", re.compile(r"(^|_)(ff|mlp|ff_context)_|proj_mlp")),
    ("projection", re.compile(r"proj_in$|proj_out$")),
)


def type_of(stem: str, *, is_conv: bool = False) -> str:
    """Return the type of a layer from its name in any key format; ``other`` if the name has no known word."""
    name = stem.replace(".", "_").replace("_processor_", "_").lower()
    found = _ATTENTION.search(name)
    if found:
        part = (found[1] or found[2]).replace("add_", "")
        return f"{'cross' if 'attn2' in name else 'self'} {part if part == 'out' else part.upper()}"
    kind = next((kind for kind, pattern in _WORDS if pattern.search(name)), None)
    if kind is None and (is_conv or re.search(r"in_layers|out_layers|conv|skip|samplers|_op$", name)):
        return "convolution"
    return kind or "other"


def block_order(label: str) -> tuple[int, str]:
    """Return a sort key: text encoders first, then the denoiser from input to output."""
    order = ("TE", "TIME", "LABEL", "IN", "MID", "OUT")
    return next((place for place, start in enumerate(order) if label.startswith(start)), len(order)), label


# Groups ------------------------------------------------------------------------------------------------------


def effective_rank(s: Double) -> float:
    """Return the effective rank of singular values `s`, shape (r,): exp of the Shannon entropy of s / sum(s).

    It is 0 if all are zero. From Roy and Vetterli, "The effective rank", 2007.
    """
    alive = s[s > 0]
    if not len(alive):
        return 0.0
    share = alive / alive.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


_Layers = Sequence[LayerSpectrum]


def _where(belongs: Callable[[LayerSpectrum], bool]) -> Callable[[_Layers], list[LayerSpectrum]]:
    return lambda layers: [layer for layer in layers if belongs(layer)]


def _last_stage(layers: _Layers) -> list[LayerSpectrum]:
    """Return the layers of the last stage (three blocks) on the output side in which a LoRA has any."""
    numbered = [(int(layer.block[3:]), layer) for layer in layers if re.fullmatch(r"OUT\d+", layer.block)]
    last = max((number // 3 for number, _ in numbered), default=-1)
    return [layer for number, layer in numbered if number // 3 == last]


_MEMBERS: dict[str, Callable[[_Layers], list[LayerSpectrum]]] = {
    "all": list,
    "time embedding": _where(lambda layer: layer.type == "time embedding"),
    "cross-attention": _where(lambda layer: layer.type.startswith("cross ")),
    "self-attention": _where(lambda layer: layer.type.startswith("self ") and not layer.block.startswith("TE")),
    "high-level blocks": _last_stage,
    "convolutions": _where(lambda layer: layer.type == "convolution"),
    "attention K": _where(lambda layer: layer.type.endswith(" K")),
    "attention Q": _where(lambda layer: layer.type.endswith(" Q")),
    "text encoders": _where(lambda layer: layer.block.startswith("TE")),
}
"""Group -> its members among the layers of one LoRA."""


def groups(files: Sequence[_Layers]) -> tuple[Group, ...]:
    """Return the groups that have layers. Their spectra are as long as the largest rank."""
    alive = [[layer for layer in layers if layer.s[0] > 0] for layers in files]
    length = max((len(layer.s) for layers in alive for layer in layers), default=0)
    found = {name: [one for layers in alive for one in members(layers)] for name, members in _MEMBERS.items()}
    return tuple(_group(name, layers, length) for name, layers in found.items() if layers)


def _group(name: str, layers: Sequence[LayerSpectrum], length: int) -> Group:
    padded = np.stack([np.pad(layer.s, (0, length - len(layer.s))) for layer in layers])
    energy = np.cumsum(padded**2, axis=1)
    energy /= energy[:, -1:]
    return Group(
        name=name,
        layers=len(layers),
        spectrum=tuple(float(value) for value in np.mean(padded / padded[:, :1], axis=0)),
        effective_rank=float(np.mean([effective_rank(layer.s) for layer in layers])),
        top_energy=float(energy[:, 0].mean()),
        rank_90=_mean_rank(energy, 0.9),
        rank_99=_mean_rank(energy, 0.99),
    )


def _mean_rank(energy: Double, share: float) -> float:
    return float(np.mean(np.count_nonzero(energy < share * (1 - 1e-14), axis=1) + 1))


# Curves ------------------------------------------------------------------------------------------------------

_SHARES = (0.5, 0.6, 0.7, 0.8, 0.85, 0.88, 0.92, 0.95, 0.97, 0.98, 0.99, 1.0)
_SWEEPS: dict[str, Iterable[float]] = {
    "rank": (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128),
    "sv_ratio": (1.2, 1.5, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 100),
    "sv_fro": _SHARES,
    "sv_cumulative": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0),
}
_SCORINGS = ("fro_lora=1", "spn_lora=1", "fro_lora=0.9,params=0.1")
_BASE_SCORINGS = ("fro_ckpt=1", "spn_ckpt=1", "subspace=1")
ALL_BASE_SCORES = "fro_ckpt=1,spn_ckpt=1,subspace=1,retain=1"
"""A recipe for which an analysis measures everything that the curves can use."""


def curves(analysis: Analysis) -> tuple[Curve, ...]:
    """Return a curve for each score, and for each selection that works layer by layer.

    Sizes are of float16 files and nearly exact: a removed layer counts as the mean share of the header.
    """
    if not any(facts.s[0] > 0 for facts in analysis.layers):
        return ()
    scorings = [*_SCORINGS, *(text for text in _BASE_SCORINGS if _knows_base(analysis))]
    recipes = {name: [f"{name},retain={share}" for share in _SHARES] for name in scorings}
    recipes |= {name: [f"{name}={value:g}" for value in sweep] for name, sweep in _SWEEPS.items()}
    sized = _CurveSizes(analysis)
    return tuple(Curve(name, sized.points(texts)) for name, texts in recipes.items())


def _knows_base(analysis: Analysis) -> bool:
    known = [facts.base for facts in analysis.layers]
    return all(one is not None and one.subspace is not None and one.spn is not None for one in known)


class _CurveSizes:
    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self._question = SelectionInput(analysis.layers, analysis.adapter.together)
        recipe, style = parse_recipe("fro_lora=1,retain=1"), Style(convert="none")
        whole = prepare(analysis, recipe, style, lambda stem: Path(f"{stem}.safetensors"))
        self._head = whole.plan.bytes_after - self._factor_bytes(whole.choice.ranks)
        self._staying = np.count_nonzero(whole.choice.ranks)
        self._entry = len(describe(whole.layout.specs)) / self._staying

    def _factor_bytes(self, ranks: Sequence[int]) -> int:
        """Return the bytes of the factors as float16."""
        forms = [layer.form for layer in self._analysis.adapter.layers]
        return 2 * sum(
            math.prod(slot.shape) for form, rank in zip(forms, ranks, strict=True) if rank for slot in form.slots(rank)
        )

    def points(self, texts: Iterable[str]) -> tuple[tuple[int, float], ...]:
        found = set()
        for text in texts:
            try:
                choice = choose(parse_recipe(text), self._question)
            except ResizeError:
                continue
            gone = self._staying - np.count_nonzero(choice.ranks)
            size = self._head + round(self._factor_bytes(choice.ranks) - gone * self._entry)
            found.add((size, round(weight_retention(self._analysis.layers, choice.kept), 6)))
        return tuple(sorted(found))
