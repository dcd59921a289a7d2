"""The findings of ``resize-lora inspect``: what a LoRA file contains, and how small it could be."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..adapters.keys.registry import LONE_ALPHA, MOST_UNKNOWN_TO_FORGE, UNKNOWN_TO_FORGE
from ..adapters.layer import Adapter, Layer
from ..adapters.write.float8 import float8_source
from ..adapters.write.style import Style
from ..base.checkpoint import Checkpoint
from ..engine.analysing import analyse
from ..engine.analysis import Analysis
from ..engine.base_weights import needs_base
from ..engine.planning import prepare
from ..engine.reading import read_lora
from ..engine.runtime import cpu_runtime
from ..errors import ResizeError
from ..files.effect_record import EffectRecord
from ..files.metadata import FitRecord
from ..files.own_record import ImageRecords, image_records
from ..files.reader import SafeFile
from ..names.key_formats import file_key_format
from ..progress import Quiet
from ..recipe.grammar import Recipe, parse_recipe
from ..shown import mib
from .record_text import record_lines
from .spectra import ALL_BASE_SCORES, LayerSpectrum, Study, effective_rank, layer_spectra, study

RETENTIONS = (0.99, 0.95, 0.92, 0.88)


@dataclass(frozen=True)
class Finding:
    """The findings on one file."""

    source: str
    bytes: int
    family: str
    """Family of the base model; "unknown" if its layers are of no known family."""
    kind: str
    """LoRA, LoCon, DoRA and so on, and what else is in the file."""
    spelling: str
    """Key format of the layers."""
    layers: int
    zero: int
    """Number of layers that are zero."""
    ranks: dict[int, int]
    """Rank -> number of layers."""
    dtypes: dict[str, int]
    """safetensors dtype -> number of tensors."""
    effective_rank: float
    """Mean over layers that are not zero of exp(entropy of s / sum(s)) (Roy and Vetterli 2007)."""
    predicted: dict[str, int | None]
    """Weight retention -> bytes of the float16 file; None if it cannot be resized so."""
    warnings: tuple[str, ...]
    """Parts of the file that hosts refuse or apply wrongly."""
    fit: FitRecord | None = None
    """How its factors were fitted to images, by its record."""
    effect: EffectRecord | None = None
    """How much of the LoRA's effect it keeps on images, by its record."""
    unreadable: tuple[str, ...] = ()
    """Records that are not as this program writes them: ``fit``, ``effect``."""

    def as_json(self) -> dict[str, Any]:
        """Return the finding as JSON values."""
        fit = None if self.fit is None else self.fit.as_json()
        effect = None if self.effect is None else self.effect.as_json()
        return {**asdict(self), "fit": fit, "effect": effect}

    def as_text(self) -> str:
        """Return the finding as text."""
        ranks = ", ".join(f"{rank} ({count} layers)" for rank, count in sorted(self.ranks.items(), reverse=True)[:6])
        lines = [
            self.source,
            f"  {self.family} {self.kind}, {mib(self.bytes)} MiB, {', '.join(self.dtypes)}",
            f"  key format: {self.spelling}",
            f"  {self.layers} layers, {self.zero} of them zero; rank {ranks}; effective rank {self.effective_rank:.1f}",
            "  predicted: " + ", ".join(self._prediction(name, size) for name, size in self.predicted.items()),
            *(f"  {line}" for line in record_lines(ImageRecords(self.fit, self.effect, self.unreadable))),
            *(f"  ! {warning}" for warning in self.warnings),
        ]
        return "\n".join(lines)

    def _prediction(self, retention: str, size: int | None) -> str:
        if size is None:
            return f"{retention}: no"
        return f"{retention}: {mib(size)} MiB ({1 - size / self.bytes:+.0%} saved)".replace("+", "")


def describe(path: Path, *, base: Checkpoint | None = None, threads: int | None = None) -> Finding:
    """Return the finding on one file. `base` is needed for kinds whose delta depends on it (GLoRA).

    Raises FileError and LayerError, as a resize of the file would.
    """
    with analysed(path, base, [], threads) as analysis:
        return _finding(path, analysis)


def describe_closely(
    path: Path, *, base: Checkpoint | None = None, threads: int | None = None
) -> tuple[Finding, Study, list[LayerSpectrum]]:
    """Return the finding with the study of its singular values; with base model scores where there is a base model."""
    with analysed(path, base, [parse_recipe(ALL_BASE_SCORES)] if base else [], threads) as analysis:
        return _finding(path, analysis), study(analysis), layer_spectra(analysis)


@contextlib.contextmanager
def analysed(path: Path, base: Checkpoint | None, recipes: Sequence[Recipe], threads: int | None) -> Iterator[Analysis]:
    """Open and analyse a file for the block. The base model is used if a recipe is given, or the file needs it."""
    with SafeFile(path) as file, cpu_runtime(Quiet(), threads) as runtime:
        adapter = read_lora(file)
        asked = base if recipes or needs_base(adapter) else None
        yield analyse(adapter, asked, recipes, runtime)


def _finding(path: Path, analysis: Analysis) -> Finding:
    adapter = analysis.adapter
    records = image_records(adapter.files[0].header.metadata)
    return Finding(
        source=str(path),
        bytes=adapter.bytes,
        family=adapter.family.name if adapter.family else "unknown",
        kind=_kind(adapter),
        spelling=file_key_format([layer.stem for layer in adapter.layers]),
        layers=len(adapter.layers),
        zero=len(analysis.zero),
        ranks=dict(Counter(layer.rank for layer in adapter.layers).most_common()),
        dtypes=dict(Counter(entry.dtype for entry in adapter.files[0].header.entries.values()).most_common()),
        effective_rank=mean_effective_rank(analysis),
        predicted={f"{share:g}": _predicted(analysis, share) for share in RETENTIONS},
        warnings=tuple(_warnings(adapter)),
        fit=records.fit,
        effect=records.effect,
        unreadable=records.unreadable,
    )


def mean_effective_rank(analysis: Analysis) -> float:
    """Return the mean effective rank of the layers that are not zero; 0 if all are."""
    ranks = [effective_rank(facts.strengths) for facts in analysis.layers if facts.alive]
    return float(np.mean(ranks)) if ranks else 0.0


def _predicted(analysis: Analysis, share: float) -> int | None:
    try:
        recipe = parse_recipe(f"fro_lora=1,min_rank=1,retain={share}")
        return prepare(analysis, recipe, Style(), lambda stem: Path(stem + ".safetensors")).plan.bytes_after
    except ResizeError:
        return None


def _kind(adapter: Adapter) -> str:
    words = [" and ".join(_kinds(adapter))]
    if any(layer.magnitude for layer in adapter.layers):
        words.append("with DoRA magnitudes")
    others = Counter(copied.why for copied in adapter.copied if copied.why != "DoRA magnitude")
    words += [f"+ {count} {why}" for why, count in others.items()]
    return " ".join(words)


def _kinds(adapter: Adapter) -> list[str]:
    """Return the kinds of layers, the most common first. A LoRA with convolutions is called LoCon."""
    kinds = Counter(_called(layer) for layer in adapter.layers)
    if any(layer.form.is_conv for layer in adapter.layers) and "LoRA" in kinds:
        kinds["LoCon"] = kinds.pop("LoRA")
    return [name for name, _ in kinds.most_common()]


def _called(layer: Layer) -> str:
    return "Control-LoRA" if "bare_up" in layer.parts else layer.form.kind


def _warnings(adapter: Adapter) -> Iterator[str]:
    yield from adapter.notes
    yield from _key_warnings(adapter)
    if adapter.family is not None and adapter.family.name == "SDXL":
        yield from _sdxl_warnings(adapter)
    yield from _float8_warnings(adapter)
    kohya = [layer for layer in adapter.layers if "up" in layer.parts and layer.carries_alpha]
    if len({layer.form.scale * layer.rank for layer in kohya}) > 1:
        yield "diffusers applies attention layers at the wrong strength, because alpha differs between layers"
    is_other = adapter.family is not None and adapter.family.name != "SD1.5"
    if is_other and adapter.metadata and "ss_base_model_version" not in adapter.metadata:
        yield "A1111 treats it as an SD1 LoRA, because ss_base_model_version is missing; a resized file has it"


def _key_warnings(adapter: Adapter) -> Iterator[str]:
    orphans = [copied.key for copied in adapter.copied if copied.why == LONE_ALPHA.name]
    if orphans:
        yield f"A1111 and diffusers refuse the whole file: {orphans[0]} has no factors ({len(orphans)} such keys)"
    unknown = [c.key for c in adapter.copied if c.why in UNKNOWN_TO_FORGE]
    if len(unknown) > MOST_UNKNOWN_TO_FORGE:
        most = MOST_UNKNOWN_TO_FORGE
        yield f"Forge ignores LoRAs with more than {most} unknown keys; this file has {len(unknown)}"


def _float8_warnings(adapter: Adapter) -> Iterator[str]:
    programs = float8_source(adapter.layers, adapter.family)
    if programs:
        which = adapter.family.name if adapter.family else "a transformer"
        reason = f"cannot load a float8 LoRA of {which} in this key format; -t 16 writes one that loads"
        yield f"{' and '.join(programs)} {reason}"


_UNREAD = {
    "diffusers": "A1111 loads none of it, ComfyUI and Forge no attention layer",
    "diffusers (old processor)": "A1111 loads none of it",
    "PEFT": "A1111, Forge and ComfyUI load none of it",
    "ComfyUI": "A1111 and diffusers load none of it",
    "LyCORIS": "A1111 and diffusers load none of it",
}


def _sdxl_warnings(adapter: Adapter) -> Iterator[str]:
    spelling = file_key_format([layer.stem for layer in adapter.layers])
    if spelling in _UNREAD:
        yield f"{_UNREAD[spelling]}, because of its key format ({spelling}); --naming kohya makes it load everywhere"
    if any(layer.stem.startswith("lora_te_") for layer in adapter.layers):
        yield "A1111 ignores lora_te_ layers of SDXL LoRAs; --naming kohya renames them"
