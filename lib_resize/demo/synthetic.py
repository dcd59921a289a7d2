"""Made-up checkpoints and LoRAs with SDXL's real names and realistic spectra, for the demo, tests and benchmarks.

`models.SMALL` has every kind of layer of SDXL at tiny widths, `models.FULL` has SDXL's own shapes. Both writers stream:
at most one tensor is in memory. A tensor depends only on the seed and its name, so that a narrower choice of layers
does not change the others.

Trained LoRAs were measured on public files: down remains near its initial values and is well conditioned; the singular
values of the delta fall by a power law with an exponential end, the largest near 0.04; they are not aligned with the
stored dimensions; the last layer of SDXL's first text encoder is never trained, so its up is zero. Weights of
checkpoints are of three kinds, as easy and hard cases for estimators of norms: three in five are Gaussian with a few
strong directions, one in five has a smooth heavy tail, one in five is plain Gaussian.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import UsageError
from ..files.header import TensorSpec, encode, file_order
from ..linalg.casts import Bits, Single, round_to
from ..names.architecture import unet_weights
from ..names.families import SDXL
from ..names.family import Family, LayerName, layers
from .models import SMALL, Model, checkpoint_specs
from .values import checkpoint_blocks, down_values, generator, up_values

DTYPES = ("F16", "BF16", "F32", "F8_E4M3")
"""The floating-point dtypes that can be written here."""

_NO_HASH = "0" * 64


# ---------------------------------------------------------------- files


def _write(file: BinaryIO, blocks: Iterable[Bits]) -> str:
    """Append the bytes of arrays, and return their SHA-256."""
    digest = hashlib.sha256()
    for block in blocks:
        data = block.tobytes()
        digest.update(data)
        file.write(data)
    return digest.hexdigest()


def _check_dtype(dtype: str) -> None:
    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r} is not known; expected one of {', '.join(DTYPES)}")


# ---------------------------------------------------------------- checkpoints


def write_checkpoint(path: str | os.PathLike[str], model: Model = SMALL, *, dtype: str = "F16", seed: int = 0) -> Path:
    """Write a single-file SDXL checkpoint without VAE, with the names and the layout of the original release.

    Every number except the position indices has `dtype` (F16, BF16, F32, F8_E4M3). `FULL` needs about a minute and a
    few MB of memory. Returns `path`; raises UsageError for another dtype.
    """
    _check_dtype(dtype)
    specs = checkpoint_specs(model, dtype)
    matrices = [spec.name for spec in specs if len(spec.shape) >= 2]
    kinds = {key: (0, 0, 0, 1, 2)[index % 5] for index, key in enumerate(matrices)}
    with open(path, "wb") as file:
        file.write(encode(specs, {"modelspec.architecture": "stable-diffusion-xl-v1-base", "format": "pt"}))
        for spec in specs:
            _write(file, checkpoint_blocks(spec, kinds.get(spec.name, 2), seed))
    return Path(path)


# ---------------------------------------------------------------- LoRAs


@dataclass(frozen=True)
class Spelling:
    """How a trainer names its layers and their tensors."""

    words: str
    """Vocabulary of UNet names: "sgm" or "diffusers"."""
    separator: str
    """What replaces the dots of a name."""
    unet: str
    texts: tuple[str, ...]
    """Prefixes of the two text encoders; none if this trainer writes them to separate files."""
    down: str = ".lora_down.weight"
    up: str = ".lora_up.weight"
    text_down: str = ".lora_down.weight"
    text_up: str = ".lora_up.weight"
    magnitude: str = ".dora_scale"
    alpha: bool = True
    """Whether the trainer writes alpha keys."""


SPELLINGS: Mapping[str, Spelling] = {
    "kohya": Spelling("sgm", "_", "lora_unet_", ("lora_te1_", "lora_te2_")),
    "kohya-diffusers": Spelling("diffusers", "_", "lora_unet_", ("lora_te1_", "lora_te2_")),
    "diffusers": Spelling(
        words="diffusers",
        separator=".",
        unet="unet.",
        texts=("text_encoder.", "text_encoder_2."),
        down=".lora.down.weight",
        up=".lora.up.weight",
        text_down=".lora_linear_layer.down.weight",
        text_up=".lora_linear_layer.up.weight",
        magnitude=".lora_magnitude_vector",
        alpha=False,
    ),
    "peft": Spelling(
        words="diffusers",
        separator=".",
        unet="base_model.model.",
        texts=(),
        down=".lora_A.weight",
        up=".lora_B.weight",
        magnitude=".lora_magnitude_vector",
        alpha=False,
    ),
}


@dataclass(frozen=True)
class LoraOptions:
    """Options of a made-up LoRA; the default is a LoRA for SDXL as kohya's trainer writes it."""

    model: Model = SMALL
    family: Family | None = None
    """In place of `model`: a LoRA for the blocks of a family of transformers at full size, with its ids or as diffusers
    and PEFT write it, without text encoders and convolutions."""
    pieces: bool = False
    """Fused layers as of trainers that train their pieces: `rank` is that of a piece, and up is block-diagonal."""
    rank: int = 8
    alpha: float | None = None
    """None: half the rank."""
    conv: bool = False
    """Train residual blocks and samplers too (LoCon)."""
    conv_rank: int | None = None
    """Rank of 3x3 convolutions; None: `rank`."""
    text_encoders: bool = True
    """Include both text encoders; PEFT omits them."""
    text_projection: bool = False
    """Include the projection of the second text encoder, which OneTrainer trains and kohya does not."""
    dtype: str = "F16"
    """F16, BF16, F32 or F8_E4M3; in F8_E4M3 alpha is F32 and carries the factor that keeps small numbers."""
    spelling: str = "kohya"
    alpha_keys: bool | None = None
    """None: as the trainer writes them."""
    dora: bool = False
    """Add the magnitudes of DoRA, one per output."""
    seed: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Added to the trainer's metadata; the same keys are replaced."""

    @property
    def nominal_alpha(self) -> float:
        """Return alpha as set in the trainer."""
        return self.rank / 2 if self.alpha is None else self.alpha

    @property
    def has_alpha(self) -> bool:
        """Return whether the file has alpha keys."""
        return SPELLINGS[self.spelling].alpha if self.alpha_keys is None else self.alpha_keys


@dataclass(frozen=True)
class LoraLayer:
    """One layer of a LoRA: its name in the file, the shape of its weight, and its rank."""

    name: str
    origin: str
    """Its name in the checkpoint, which seeds its numbers, so that they are the same in all key formats."""
    shape: tuple[int, ...]
    rank: int
    text: bool
    trained: bool = True
    pieces: tuple[tuple[int, int], ...] = ()
    """Ranges of rows that were trained separately."""

    @property
    def columns(self) -> int:
        """Return the number of columns of the delta as a matrix."""
        return math.prod(self.shape[1:])


def lora_layers(options: LoraOptions) -> list[LoraLayer]:
    """Return the layers of a LoRA, in the order of the model. Raises UsageError for an unknown spelling."""
    if options.spelling not in SPELLINGS:
        raise UsageError(f"spelling {options.spelling!r} is not known; expected one of {', '.join(SPELLINGS)}")
    spelling = SPELLINGS[options.spelling]
    if options.family is not None:
        return list(_family_layers(options, options.family))
    texts = _text_layers(options, spelling) if options.text_encoders else ()
    return [*_unet_layers(options, spelling), *texts]


def _unet_layers(options: LoraOptions, spelling: Spelling) -> Iterator[LoraLayer]:
    roles = ("attention", "conv") if options.conv else ("attention",)
    for weight in unet_weights(options.model.unet):
        if weight.role in roles:
            words = weight.sgm if spelling.words == "sgm" else weight.diffusers
            wide = weight.shape[2:] == (3, 3) and options.conv_rank is not None
            rank = options.conv_rank if wide and options.conv_rank else options.rank
            name = spelling.unet + words.replace(".", spelling.separator)
            yield LoraLayer(name, weight.sgm, weight.shape, rank, text=False)


_TRANSFORMER_PREFIXES = {"diffusers": "transformer.", "peft": "base_model.model."}


def _family_layers(options: LoraOptions, family: Family) -> Iterator[LoraLayer]:
    """Yield the blocks of a transformer: whole weights as in kohya's trainers, or those of diffusers."""
    rows = [row for row in layers(family).values() if row.component == "unet" and row.block != "EDGE"]
    rows = [row for row in rows if not row.id.endswith("linear1_qkv")]  # one trainer's own way of cutting
    pieces: dict[str, list[LayerName]] = {}
    for row in rows:
        if row.whole is not None and not row.swapped:
            pieces.setdefault(row.whole, []).append(row)
    prefix = _TRANSFORMER_PREFIXES.get(options.spelling)
    for row in rows:
        if prefix is not None and row.id not in pieces:
            yield LoraLayer(prefix + _own_name(row), row.id, row.shape, options.rank, text=False)
        elif prefix is None and row.whole is None:
            cuts = [piece.share.rows(row.shape[0]) for piece in pieces.get(row.id, ())] if options.pieces else []
            ranges = tuple(cut for cut in cuts if cut is not None)
            rank = options.rank * max(1, len(ranges))
            yield LoraLayer(row.id, row.id, row.shape, rank, text=False, pieces=ranges)


def _own_name(row: LayerName) -> str:
    """Return diffusers' name: that of a piece, or the second of a whole weight."""
    return row.dotted_names[0] if row.whole is not None or len(row.dotted_names) == 1 else row.dotted_names[1]


def _text_layers(options: LoraOptions, spelling: Spelling) -> Iterator[LoraLayer]:
    for index, prefix in enumerate(spelling.texts):
        for weight in options.model.open_clip if index else options.model.clip_l:
            if options.text_projection or not weight.transposed:
                name = prefix + weight.name.replace(".", spelling.separator)
                trained = index > 0 or not weight.name.startswith(_untrained(options.model))
                yield LoraLayer(name, f"{index} {weight.name}", weight.shape, options.rank, True, trained)


def _untrained(model: Model) -> str:
    """Return the prefix of the first text encoder's last layer: SDXL uses the output of the layer before it."""
    return f"text_model.encoder.layers.{model.clip_l_layers - 1}."


def write_lora(path: str | os.PathLike[str], options: LoraOptions | None = None) -> Path:
    """Write a LoRA, and for the PEFT spelling an ``adapter_config.json`` next to it. Returns `path`.

    The hash of kohya's metadata is correct. Raises UsageError for an unknown spelling or dtype.
    """
    options = options or LoraOptions()
    _check_dtype(options.dtype)
    parts = _lora_parts(options)
    specs = file_order(parts)
    metadata = lora_metadata(options)
    with open(path, "wb") as file:
        file.write(encode(specs, metadata))
        digest = _write(file, (_lora_tensor(spec, *parts[spec], options) for spec in specs))
        if metadata.get("sshs_model_hash") == _NO_HASH:
            file.seek(0)
            file.write(encode(specs, {**metadata, "sshs_model_hash": digest}))
    if options.spelling == "peft":
        config = json.dumps(_adapter_config(options), indent=2)
        Path(path).with_name("adapter_config.json").write_text(config, "utf-8")
    return Path(path)


def lora_specs(options: LoraOptions) -> list[TensorSpec]:
    """Return every tensor of a LoRA, in the order of the file."""
    return file_order(_lora_parts(options))


def _lora_parts(options: LoraOptions) -> dict[TensorSpec, tuple[LoraLayer, str]]:
    """Return the layer of every tensor, and its role: up, down, alpha or magnitude."""
    return {spec: (layer, part) for layer in lora_layers(options) for part, spec in _layer_specs(layer, options)}


def _layer_specs(layer: LoraLayer, options: LoraOptions) -> Iterator[tuple[str, TensorSpec]]:
    spelling, dtype = SPELLINGS[options.spelling], options.dtype
    down, up = (spelling.text_down, spelling.text_up) if layer.text else (spelling.down, spelling.up)
    ones = (1,) * (len(layer.shape) - 2)
    yield "down", TensorSpec(layer.name + down, dtype, (layer.rank, *layer.shape[1:]))
    yield "up", TensorSpec(layer.name + up, dtype, (layer.shape[0], layer.rank, *ones))
    if options.has_alpha:
        yield "alpha", TensorSpec(layer.name + ".alpha", "F32" if dtype == "F8_E4M3" else dtype, ())
    if options.dora:
        yield (
            "magnitude",
            TensorSpec(layer.name + spelling.magnitude, dtype, _magnitude_shape(layer, spelling)),
        )


def _magnitude_shape(layer: LoraLayer, spelling: Spelling) -> tuple[int, ...]:
    rows, ones = layer.shape[0], (1,) * (len(layer.shape) - 2)
    if spelling.magnitude == ".dora_scale":
        return (rows, 1, *ones)
    return (1, rows, *ones) if ones else (rows,)


def _lora_tensor(spec: TensorSpec, layer: LoraLayer, part: str, options: LoraOptions) -> Bits:
    """Return the stored numbers of one tensor."""
    chance = generator(options.seed, f"{layer.origin} {part}")
    up_lift, down_lift = (256.0, 16.0) if options.dtype == "F8_E4M3" and options.has_alpha else (1.0, 1.0)
    if part == "down":
        values = down_values(layer.rank, layer.columns, chance) * np.float32(down_lift)
    elif part == "up":
        values = _up(layer, chance) * np.float32(up_lift)
    elif part == "alpha":
        values = np.full((), options.nominal_alpha / (up_lift * down_lift), np.float32)
    else:
        values = 0.6 + 0.1 * np.abs(chance.standard_normal(spec.shape, dtype=np.float32))
    return round_to(values, spec.dtype)


def _up(layer: LoraLayer, chance: np.random.Generator) -> Single:
    if not layer.trained:
        return np.zeros((layer.shape[0], layer.rank), np.float32)
    return up_values(layer.shape[0], layer.rank, chance, layer.pieces)


def lora_metadata(options: LoraOptions) -> dict[str, str]:
    """Return the metadata of the file, with 64 zeros for the hash of the tensors in kohya's metadata."""
    kohya = _kohya_metadata(options) if SPELLINGS[options.spelling].separator == "_" else {"format": "pt"}
    return {**kohya, **options.metadata}


def _kohya_metadata(options: LoraOptions) -> dict[str, str]:
    rank, alpha = str(options.rank), str(float(options.nominal_alpha))
    arguments: dict[str, Any] = {"conv_dim": options.conv_rank or options.rank, "conv_alpha": alpha}
    tags = {f"tag {index}": 200 - index for index in range(150)}
    return {
        "ss_v2": "False",
        "ss_base_model_version": _version(options),
        "ss_network_module": "networks.lora",
        "ss_network_dim": rank,
        "ss_network_alpha": alpha,
        "ss_network_args": json.dumps(arguments if options.conv else {}),
        "ss_output_name": "synthetic",
        "ss_sd_model_name": "sd_xl_base_1.0.safetensors",
        "ss_learning_rate": "0.0001",
        "ss_text_encoder_lr": "5e-05",
        "ss_unet_lr": "0.0001",
        "ss_num_epochs": "10",
        "ss_num_train_images": "120",
        "ss_steps": "1200",
        "ss_seed": str(options.seed),
        "ss_mixed_precision": "bf16",
        "ss_training_comment": "None",
        "ss_tag_frequency": json.dumps({"10_synthetic": tags}),
        "ss_bucket_info": json.dumps({"buckets": {"0": {"resolution": [1024, 1024], "count": 120}}}),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": (options.family or SDXL).modelspec_architecture or "unknown",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": "synthetic",
        "modelspec.resolution": "1024x1024",
        "sshs_model_hash": _NO_HASH,
    }


def _version(options: LoraOptions) -> str:
    return (options.family or SDXL).base_model_version or "unknown"


def _adapter_config(options: LoraOptions) -> dict[str, Any]:
    """Return PEFT's own configuration, which has alpha in place of the tensors."""
    prefix = SPELLINGS[options.spelling].unet
    layers = lora_layers(options)
    others = {layer.name.removeprefix(prefix): layer.rank for layer in layers if layer.rank != options.rank}
    return {
        "peft_type": "LORA",
        "r": options.rank,
        "lora_alpha": options.nominal_alpha,
        "rank_pattern": others,
        "alpha_pattern": {},
        "target_modules": sorted(layer.name.removeprefix(prefix) for layer in layers),
        "use_rslora": False,
        "use_dora": options.dora,
        "bias": "none",
    }
