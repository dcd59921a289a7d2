"""The metadata of a resized file: copied from the source, then updated. Standard library only.

After a resize, the fields hold:

``ss_network_dim``, ``ss_network_alpha``: the rank and alpha of the Linear and 1x1 layers as a number, or ``Dynamic``
    where layers differ (the word that kohya's tools read).
``ss_network_args``: ``conv_dim`` and ``conv_alpha`` are those of the larger convolutions, or removed; lists of ranks
    per part of the model are removed; the rest is kept. A text that is not a JSON object is kept unchanged.
``ss_output_name``: the new name. WebUIs use it as an alias, and disable an alias that two files share. A file that
    replaces its source keeps the source's.
``ss_base_model_version``, ``ss_v2``: kept, or added where they are missing and the family is known. A1111 treats a
    file with other metadata but without these as SD1, and hides it while an SDXL checkpoint is loaded.
``ss_training_comment``: a note about the resize in the words of kohya's resize script, then the old text.
``sshs_model_hash``, ``sshs_legacy_hash``: placeholders here; the writer fills them in.
``modelspec.*``: ``hash_sha256`` and ``unet_dtype`` are removed, because they describe other bytes. Title, author,
    date, licence, thumbnail and all others describe the work and are kept. If there are any, ``architecture`` is added
    where it is missing and known, and ``merged_from`` for merges.
``lora_adapter_metadata`` (a PEFT configuration, written by diffusers, which prefers it to the tensors): ranks and
    alphas are updated where the names match; otherwise the field is removed, and diffusers reads the tensors.
``resize_lora``: the record of this program, a JSON object; earlier records are kept in its list ``earlier``.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from .effect_record import EffectRecord
from .file_names import storable
from .header import MODEL_HASH, PLACEHOLDERS

RECORD = "resize_lora"
"""Key of the record that this program writes."""

_DEEPEST = 100
"""Levels of a JSON document that are read. Python cannot write deeper ones than its stack allows."""

DYNAMIC = "Dynamic"
"""What kohya's tools write for a rank or alpha that differs between layers."""

_ADAPTER = "lora_adapter_metadata"
_MODELSPEC = "modelspec."
_ARCHITECTURES = (  # prefix of ss_base_model_version -> sai_model_spec architecture
    ("sdxl_", "stable-diffusion-xl-v1-base/lora"),
    ("sd_v2_v", "stable-diffusion-v2-768-v/lora"),
    ("sd_v2", "stable-diffusion-v2-512/lora"),
    ("sd_v1", "stable-diffusion-v1/lora"),
    ("flux1", "flux-1-dev/lora"),
    ("chroma", "chroma/lora"),
    ("lumina2", "lumina-2/lora"),
    ("hunyuan_video", "hunyuan-video/lora"),
    ("wan", "wan2.1/lora"),
    ("flux_2_dev", "Flux.2-dev/lora"),
    ("flux_2_klein_9b", "Flux.2-klein-9b/lora"),
    ("flux_2_klein_4b", "Flux.2-klein-4b/lora"),
    ("qwen_image", "Qwen-Image/lora"),
    ("z_image", "Z-Image/lora"),
    ("krea2", "Krea-2/lora"),
)
_PER_PART_ARGS = ("block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas")

Value = TypeVar("Value", int, float)


class LayerFact(NamedTuple):
    """Rank and alpha of one low-rank layer of the new file."""

    rank: int
    alpha: float | None = None
    """The stored alpha; None if the file stores none (scale 1)."""
    conv: bool = False
    """Whether it is a convolution larger than 1x1, for which trainers have a separate rank."""


@dataclass(frozen=True)
class MergedSource:
    """A source of a merge: file name, SHA-256 of the whole file (hex), weight (as text where layers differ)."""

    name: str
    sha256: str
    weight: float | str


PROMPT_HASH = 16
"""Hex digits of the hash of a prompt."""
_LONGEST = 0.0001234


def prompt_hash(prompts: Iterable[str]) -> str:
    """Return the hash of prompts that is kept in the file."""
    return hashlib.sha256("\n".join(prompts).encode()).hexdigest()[:PROMPT_HASH]


@dataclass(frozen=True)
class FitRecord:
    """How the factors were fitted to images, and what that did on calls of the model that were not used for the fit."""

    images: int
    steps: int
    """Recorded steps of each image."""
    prompt: str
    """A short hash of the prompts; the prompts themselves are not kept."""
    layers: int
    """Fitted layers of the file; 0 where plain truncation was kept."""
    errors: Mapping[str, tuple[float, float]]
    """Model -> error of plain truncation and of the fitted factors: mean squared difference from the output with the
    original LoRA, over that of the output without a LoRA."""
    planned: bool = False
    """Whether it is the longest record that a fit to come may write, for the size of the file."""

    @classmethod
    def longest(cls, models: Iterable[str]) -> FitRecord:
        """Return the longest record for these models."""
        return cls(10**6, 10**6, "0" * PROMPT_HASH, 10**6, dict.fromkeys(models, (_LONGEST, _LONGEST)), planned=True)

    def as_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        errors = {
            name: {"plain": _short(plain), "fitted": _short(fitted)} for name, (plain, fitted) in self.errors.items()
        }
        counts = {"images": self.images, "steps": self.steps, "prompt": self.prompt, "layers": self.layers}
        return {**counts, "errors": errors}


@dataclass(frozen=True)
class ResizeRecord:
    """How the new file was made; stored in it as JSON under ``resize_lora``."""

    version: str
    """Version of this package."""
    source: str
    """File name of the source, without its folder."""
    source_sha256: str
    """SHA-256 of the whole source file, hex."""
    recipe: str
    threshold: float | None = None
    retention: float | None = None
    """Weight retention, from 0 to 1."""
    merged: Sequence[MergedSource] = ()
    """All sources of a merge; empty otherwise."""
    extracted: bool = False
    """Whether the sources are checkpoints, and the file is their difference."""
    fit: FitRecord | None = None
    """None where the factors were not fitted."""
    effect: EffectRecord | None = None
    """None where no images were compared."""


@dataclass(frozen=True)
class MetadataFacts:
    """The facts of the new file that its metadata contains."""

    output_name: str | None
    """Stem of the new file's name; None keeps the field of the source, also where it has none."""
    record: ResizeRecord
    layers: Mapping[str, LayerFact] = field(default_factory=dict)
    """Every low-rank layer of the new file, by its name in the file, without suffix."""
    source_rank: int | None = None
    """Rank of the source's layers; None if they differ."""
    base_model_version: str | None = None
    """In kohya's notation, such as ``sdxl_base_v1-0``, ``sd_v1`` or ``sd_v2``; None if unknown."""
    network_module: str | None = None
    """New ``ss_network_module`` where the kind of adapter changed; None keeps the old one."""


def updated_metadata(source: Mapping[str, str], facts: MetadataFacts) -> dict[str, str]:
    """Return the metadata of the new file, from the source's metadata and the facts; the module lists all fields."""
    stamped = dict(source)
    _stamp_network(stamped, facts)
    if facts.output_name is not None:
        stamped["ss_output_name"] = facts.output_name
    _stamp_family(stamped, facts)
    stamped["ss_training_comment"] = _comment(source, facts)
    _stamp_modelspec(stamped, facts)
    _stamp_adapter(stamped, facts)
    stamped[RECORD] = _record(source, facts.record)
    return {key: storable(text) for key, text in {**stamped, **PLACEHOLDERS}.items()}


def has_resize_record(metadata: Mapping[str, str]) -> bool:
    """Return whether this program wrote the file."""
    return bool(resize_record(metadata).get("version"))


def resize_record(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the record of this program in a file, as JSON values of any kind; empty where it has none."""
    return _json_object(metadata.get(RECORD))


def shared_metadata(sources: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return the fields that have the same value in all sources of a merge, in the order of the first source.

    The fields of the family are kept also where some sources lack them.
    """
    if not sources:
        return {}
    first, *others = sources
    same = {key: text for key, text in first.items() if all(other.get(key) == text for other in others)}
    for key in ("ss_base_model_version", "ss_v2"):
        values = {source[key] for source in sources if key in source}
        if len(values) == 1:
            same[key] = values.pop()
    return same


def _uniform(values: Iterable[Value]) -> Value | None:
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else None


def _text(value: float | None) -> str:
    return DYNAMIC if value is None else str(value)


def _alpha(layer: LayerFact) -> float:
    return float(layer.rank if layer.alpha is None else layer.alpha)


def _stamp_network(stamped: dict[str, str], facts: MetadataFacts) -> None:
    if facts.network_module is not None:
        stamped["ss_network_module"] = facts.network_module
    layers = list(facts.layers.values())
    if not layers:
        return
    convs = [layer for layer in layers if layer.conv]
    plain = [layer for layer in layers if not layer.conv] or convs
    stamped["ss_network_dim"] = _text(_uniform(layer.rank for layer in plain))
    stamped["ss_network_alpha"] = _text(_uniform(map(_alpha, plain)))
    _stamp_arguments(stamped, convs)


def _stamp_arguments(stamped: dict[str, str], convs: Sequence[LayerFact]) -> None:
    arguments = _json_object(stamped.get("ss_network_args"))
    if not arguments:
        return
    for key in ("conv_dim", "conv_alpha", *_PER_PART_ARGS):
        arguments.pop(key, None)
    rank, alpha = _uniform(layer.rank for layer in convs), _uniform(map(_alpha, convs))
    if rank is not None and alpha is not None:
        # Trainers read these from the command line and write them as texts.
        arguments.update(conv_dim=str(rank), conv_alpha=str(alpha))
    stamped["ss_network_args"] = json.dumps(arguments, ensure_ascii=False)


def _stamp_family(stamped: dict[str, str], facts: MetadataFacts) -> None:
    if facts.base_model_version is not None:
        stamped.setdefault("ss_base_model_version", facts.base_model_version)
    if stamped.get("ss_base_model_version", "").startswith("sd_v2"):
        stamped.setdefault("ss_v2", "True")


def _comment(source: Mapping[str, str], facts: MetadataFacts) -> str:
    new = _text(_uniform(layer.rank for layer in facts.layers.values()))
    old = source.get("ss_training_comment", "")
    if facts.record.extracted:
        models = dict.fromkeys(one.name.partition("/")[0] for one in facts.record.merged)
        return f"difference of {' and '.join(models)}, rank {new}; "
    merged = f"merged from {len(facts.record.merged)} files; " if facts.record.merged else ""
    note = f"{merged}dimension is resized from {_text(facts.source_rank)} to {new}; "
    return note + ("" if old == "None" else old)  # trainers write the word None for no comment


def _stamp_modelspec(stamped: dict[str, str], facts: MetadataFacts) -> None:
    for key in ("hash_sha256", "unet_dtype"):
        stamped.pop(_MODELSPEC + key, None)
    if not any(key.startswith(_MODELSPEC) for key in stamped):
        return
    version = stamped.get("ss_base_model_version", "")
    for start, architecture in _ARCHITECTURES:
        if _is_variant_of(version, start):
            stamped.setdefault(_MODELSPEC + "architecture", architecture)
            break
    if facts.record.merged and not facts.record.extracted:
        stamped[_MODELSPEC + "merged_from"] = ", ".join(source.name for source in facts.record.merged)


def _is_variant_of(version: str, start: str) -> bool:
    """Return whether a version is `start` or a variant of it: ``hunyuan_video_1_5`` is another model."""
    return version.startswith(start) and (start[-1].isdigit() or not version[len(start) :].lstrip("_.")[:1].isdigit())


def _record(source: Mapping[str, str], record: ResizeRecord) -> str:
    fields: dict[str, Any] = {
        "version": record.version,
        "source": record.source,
        "source_sha256": record.source_sha256,
        "recipe": record.recipe,
        "threshold": _finite(record.threshold),
        "retention": _finite(record.retention),
    }
    if record.fit is not None:
        fields["fit"] = record.fit.as_json()
    if record.effect is not None:
        fields["effect"] = record.effect.as_json()
    if MODEL_HASH in source:
        fields["source_model_hash"] = source[MODEL_HASH]
    if record.merged:
        fields["extracted" if record.extracted else "merged"] = [
            {"name": merged.name, "sha256": merged.sha256, "weight": merged.weight} for merged in record.merged
        ]
    before = _json_object(source.get(RECORD))
    if before:
        earlier = before.pop("earlier", [])
        fields["earlier"] = [*(earlier if isinstance(earlier, list) else []), before]
    return json.dumps(fields, ensure_ascii=False)


def _short(value: float) -> float | None:
    """Return a figure with four digits."""
    return _finite(float(f"{value:.4g}"))


def _finite(value: float | None) -> float | None:
    """Return None for infinity and NaN, which JSON cannot represent."""
    return value if value is not None and math.isfinite(value) else None


def _json_object(text: str | None) -> dict[str, Any]:
    """Parse a metadata text; empty if it is no JSON object, or one that is nested too deeply to be written."""
    try:
        document = json.loads(text or "")
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) and _is_shallow(document) else {}


def _is_shallow(document: Any) -> bool:
    level = [document]
    for _ in range(_DEEPEST):
        inner = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, (dict, list))]
        level = [value for values in inner for value in values]
        if not level:
            return True
    return False


def _stamp_adapter(stamped: dict[str, str], facts: MetadataFacts) -> None:
    settings = _json_object(stamped.pop(_ADAPTER, None))
    # Pipelines put the component before each key (unet.r); a model that is saved alone does not (r).
    prefixes = [key.removesuffix("r") for key in settings if key == "r" or key.endswith(".r")]
    parts = {prefix: _layers_of(prefix, facts.layers) for prefix in prefixes}
    placed = sum(map(len, parts.values()))
    # Diffusers refuses a file that has both this field and alphas. Names in another key format match nothing.
    has_alpha = any(layer.alpha is not None for layer in facts.layers.values())
    if has_alpha or placed == 0 or placed < len(facts.layers):
        return
    for prefix, ranks in parts.items():
        settings.update({f"{prefix}{key}": value for key, value in _peft_ranks(ranks).items()})
    stamped[_ADAPTER] = json.dumps(settings, indent=2, sort_keys=True)


def _layers_of(prefix: str, layers: Mapping[str, LayerFact]) -> dict[str, int]:
    """Return the ranks of the layers of one component (``unet.``, ``text_encoder.``…), by their names in it."""
    inside = {name.removeprefix(prefix): layer.rank for name, layer in layers.items() if name.startswith(prefix)}
    # Only some versions have this level in text encoders; PEFT matches the ends of names.
    return {name.removeprefix("text_model."): rank for name, rank in inside.items() if "processor" not in name}


def _peft_ranks(ranks: Mapping[str, int]) -> dict[str, Any]:
    """Return the rank fields of a PEFT configuration in which every layer has scale 1."""
    common = Counter(ranks.values()).most_common(1)[0][0] if ranks else 1
    # PEFT matches a name with the end of any layer's name; where that is ambiguous, `^` makes it match the whole.
    tails = {tail for name in ranks for tail in _tails(name)}
    pattern = {f"^{name}" if name in tails else name: rank for name, rank in ranks.items() if rank != common}
    return {
        "r": common,
        "lora_alpha": common,
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
        "use_rslora": False,
    }


def _tails(name: str) -> list[str]:
    """Return ``b.c`` and ``c`` for ``a.b.c``."""
    words = name.split(".")
    return [".".join(words[start:]) for start in range(1, len(words))]
