"""Made-up models with the real names: checkpoints and LoRAs of SDXL's form, whose spectra look trained.

The demo, the tests and the benchmarks share this material. `SMALL` has every kind of layer of SDXL at tiny widths,
`FULL` has SDXL's own shapes. Both writers stream: no more than one tensor is ever in memory, and a tensor depends
only on the seed and its name, so that a narrower choice of layers leaves the others as they were.

What trained LoRAs look like was measured on public files: down stays near its initial values and is well
conditioned; the singular values of the delta fall by a power law with an exponential end, the largest near 0.04;
nothing aligns them with the stored dimensions; the last layer of SDXL's first text encoder is never trained, so its
up is zero. Weights of checkpoints are of three kinds, so that estimators of norms meet easy and hard cases: three in
five are Gaussian with a few strong directions, one in five has a smooth heavy tail, one in five is plain Gaussian.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import UsageError
from ..files.header import TensorSpec, encode, file_order
from ..linalg.casts import Bits, Double, Single, round_to
from ..names.architecture import (
    SDXL_UNET,
    TextWeight,
    UNetConfig,
    Weight,
    clip_l_weights,
    open_clip_weights,
    unet_weights,
)
from ..names.families import SDXL
from ..names.family import Family, LayerName, layers

DTYPES = ("F16", "BF16", "F32", "F8_E4M3")
"""The floating dtypes that can be written here."""

UNET_PREFIX = "model.diffusion_model."
CLIP_L_PREFIX = "conditioner.embedders.0.transformer."
OPEN_CLIP_PREFIX = "conditioner.embedders.1.model."

_BLOCK = 1 << 18  # numbers made at a time
_LARGEST = 0.04  # median of the largest singular value of trained deltas
_NO_HASH = "0" * 64


@dataclass(frozen=True)
class Model:
    """The sizes of one SDXL-shaped model."""

    unet: UNetConfig
    clip_l_layers: int
    clip_l_width: int
    open_clip_layers: int
    open_clip_width: int
    vocabulary: int = 49408
    positions: int = 77

    @property
    def clip_l(self) -> tuple[TextWeight, ...]:
        """Matrices of the first text encoder."""
        return clip_l_weights(self.clip_l_layers, self.clip_l_width)

    @property
    def open_clip(self) -> tuple[TextWeight, ...]:
        """Matrices of the second text encoder, its projection included."""
        return open_clip_weights(self.open_clip_layers, self.open_clip_width)


FULL = Model(SDXL_UNET, clip_l_layers=12, clip_l_width=768, open_clip_layers=32, open_clip_width=1280)
"""SDXL as it is: a float16 checkpoint takes 6.8 GB."""

SMALL = Model(
    UNetConfig(channels=32, depths=(0, 2, 1), middle_depth=1, context=48, label_channels=80),
    clip_l_layers=3,
    clip_l_width=16,
    open_clip_layers=3,
    open_clip_width=32,
    vocabulary=1024,
)
"""Every kind of layer under its real name at tiny widths: a float16 checkpoint takes 13 MB."""


# ---------------------------------------------------------------- files


def file_size(specs: Sequence[TensorSpec], metadata: Mapping[str, str]) -> int:
    """Bytes of the whole file, header included."""
    return len(encode(specs, metadata)) + sum(spec.nbytes for spec in specs)


def _write(file: BinaryIO, blocks: Iterable[Bits]) -> str:
    """Append arrays as they lie in memory; returns the sha256 of what was appended."""
    digest = hashlib.sha256()
    for block in blocks:
        data = block.tobytes()
        digest.update(data)
        file.write(data)
    return digest.hexdigest()


def _generator(seed: int, key: str) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64([seed, zlib.crc32(key.encode())]))


def _check_dtype(dtype: str) -> None:
    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r} is not known; expected one of {', '.join(DTYPES)}")


# ---------------------------------------------------------------- checkpoints


def write_checkpoint(path: str | os.PathLike[str], model: Model = SMALL, *, dtype: str = "F16", seed: int = 0) -> Path:
    """Write a single-file SDXL checkpoint without its VAE, in the words and the layout of the original release.

    Every number but the position indices has `dtype` (F16, BF16, F32, F8_E4M3). `FULL` takes about a minute and a
    few MB of memory. Returns `path`; raises UsageError for another dtype.
    """
    _check_dtype(dtype)
    specs = checkpoint_specs(model, dtype)
    matrices = [spec.name for spec in specs if len(spec.shape) >= 2]
    kinds = {key: (0, 0, 0, 1, 2)[index % 5] for index, key in enumerate(matrices)}
    with open(path, "wb") as file:
        file.write(encode(specs, {"modelspec.architecture": "stable-diffusion-xl-v1-base", "format": "pt"}))
        for spec in specs:
            _write(file, _checkpoint_blocks(spec, kinds.get(spec.name, 2), seed))
    return Path(path)


def checkpoint_specs(model: Model, dtype: str = "F16") -> list[TensorSpec]:
    """Every tensor of a checkpoint, in the order of the file."""
    shapes = {**_unet_shapes(model.unet), **_clip_l_shapes(model), **_open_clip_shapes(model)}
    specs = [TensorSpec(key, dtype, shape) for key, shape in shapes.items()]
    positions = f"{CLIP_L_PREFIX}text_model.embeddings.position_ids"
    return file_order([*specs, TensorSpec(positions, "I64", (1, model.positions))])


def _unet_shapes(config: UNetConfig) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for weight in unet_weights(config):
        shapes[f"{weight.sgm}.weight"] = weight.shape
        if not weight.sgm.endswith((".to_q", ".to_k", ".to_v")):
            shapes[f"{weight.sgm}.bias"] = weight.shape[:1]
        for norm, width in _norms_beside(weight):
            shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (width,)
    return {UNET_PREFIX + key: shape for key, shape in shapes.items()}


def _norms_beside(weight: Weight) -> Iterator[tuple[str, int]]:
    """Name and width of the normalisations that stand before a weight or in its block."""
    stem, _, last = weight.sgm.rpartition(".")
    if weight.sgm.endswith(("in_layers.2", "out_layers.3", "out.2")):
        yield f"{stem}.0", weight.shape[1]
    elif last == "proj_in":
        yield f"{stem}.norm", weight.shape[1]
    elif weight.sgm.endswith("attn1.to_q"):
        yield from ((f"{stem.removesuffix('.attn1')}.norm{index}", weight.shape[0]) for index in (1, 2, 3))


def _clip_l_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    width, root = model.clip_l_width, f"{CLIP_L_PREFIX}text_model."
    shapes: dict[str, tuple[int, ...]] = {
        f"{root}embeddings.token_embedding.weight": (model.vocabulary, width),
        f"{root}embeddings.position_embedding.weight": (model.positions, width),
    }
    for weight in model.clip_l:
        shapes[f"{CLIP_L_PREFIX}{weight.name}.weight"] = weight.shape
        shapes[f"{CLIP_L_PREFIX}{weight.name}.bias"] = weight.shape[:1]
    norms = [f"{root}encoder.layers.{i}.layer_norm{j}" for i in range(model.clip_l_layers) for j in (1, 2)]
    return {**shapes, **_norm_shapes([*norms, f"{root}final_layer_norm"], width)}


def _open_clip_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    width, root = model.open_clip_width, OPEN_CLIP_PREFIX
    shapes: dict[str, tuple[int, ...]] = {
        f"{root}token_embedding.weight": (model.vocabulary, width),
        f"{root}positional_embedding": (model.positions, width),
        f"{root}logit_scale": (),
    }
    for weight in model.open_clip:
        rows = weight.shape[0] if weight.part is None else 3 * weight.shape[0]
        shapes[root + weight.stored] = (rows, weight.shape[1])
        if not weight.transposed:
            shapes[root + weight.stored.removesuffix("weight") + "bias"] = (rows,)
    norms = [f"{root}transformer.resblocks.{i}.ln_{j}" for i in range(model.open_clip_layers) for j in (1, 2)]
    return {**shapes, **_norm_shapes([*norms, f"{root}ln_final"], width)}


def _norm_shapes(names: Iterable[str], width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{word}": (width,) for name in names for word in ("weight", "bias")}


def _checkpoint_blocks(spec: TensorSpec, kind: int, seed: int) -> Iterator[Bits]:
    """The stored numbers of one tensor, piece by piece."""
    if spec.dtype == "I64":
        yield np.arange(math.prod(spec.shape), dtype="<i8")
        return
    chance = _generator(seed, spec.name)
    values = _weight_blocks(spec, kind, chance) if len(spec.shape) >= 2 else iter([_vector(spec, chance)])
    for block in values:
        yield round_to(block, spec.dtype)


def _vector(spec: TensorSpec, chance: np.random.Generator) -> Single:
    """A bias near 0, a norm's gain near 1, or OpenCLIP's logit scale."""
    if not spec.shape:
        return np.full((), math.log(100.0), np.float32)
    values = chance.standard_normal(spec.shape, dtype=np.float32) * np.float32(0.02)
    return np.asarray(values + np.float32(spec.name.endswith(".weight")), np.float32)


def _weight_blocks(spec: TensorSpec, kind: int, chance: np.random.Generator) -> Iterator[Single]:
    """Rows of a matrix: noise of Frobenius norm 0.6 sqrt(rows), and `kind` 0 or 1 with some strong directions."""
    rows, columns = spec.shape[0], math.prod(spec.shape[1:])
    strengths = _strong_directions(kind, chance)[: min(rows, columns)]
    along = chance.standard_normal((len(strengths), columns), dtype=np.float32) / np.float32(math.sqrt(columns))
    along *= strengths[:, None] / np.float32(math.sqrt(rows))
    gains = _row_gains(spec)
    step = max(1, _BLOCK // columns)
    for start in range(0, rows, step):
        count = min(step, rows - start)
        block = chance.standard_normal((count, columns), dtype=np.float32) * np.float32(0.6 / math.sqrt(columns))
        block += chance.standard_normal((count, len(strengths)), dtype=np.float32) @ along
        yield block * gains[start : start + count, None]


def _strong_directions(kind: int, chance: np.random.Generator) -> Single:
    index = np.arange(1, 25, dtype=np.float32)
    if kind == 0:
        return np.asarray(4.0 * (0.6 + 0.8 * chance.random()) * index**-0.6, np.float32)
    return np.asarray(2.2 * index**-0.08 if kind == 1 else index[:0], np.float32)


def _row_gains(spec: TensorSpec) -> Single:
    """Rows of fused q, k and v differ in size, so that taking one for another shows in every norm."""
    gains: Single = np.ones(spec.shape[0], np.float32)
    if spec.name.endswith("in_proj_weight"):
        gains = np.repeat(np.array([1.0, 0.8, 0.5], np.float32), spec.shape[0] // 3)
    return gains


# ---------------------------------------------------------------- LoRAs


@dataclass(frozen=True)
class Spelling:
    """How a trainer writes the names of its layers and of their tensors."""

    words: str
    """Vocabulary of UNet names: "sgm" or "diffusers"."""
    separator: str
    """What stands for the dots of a name."""
    unet: str
    texts: tuple[str, ...]
    """Prefixes of the two text encoders; none where this trainer keeps them in files of their own."""
    down: str = ".lora_down.weight"
    up: str = ".lora_up.weight"
    text_down: str = ".lora_down.weight"
    text_up: str = ".lora_up.weight"
    magnitude: str = ".dora_scale"
    alpha: bool = True
    """Whether alpha keys are usual."""


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
    """What kind of LoRA to write; the default is what kohya's trainer makes of SDXL."""

    model: Model = SMALL
    family: Family | None = None
    """A LoRA for the blocks of a family of transformers in its full size, in place of `model`: under its ids, or as
    diffusers and PEFT write it; text encoders and convolutions are left out."""
    pieces: bool = False
    """Fused layers as trainers make them that train their pieces: rank is that of a piece, and up is block-diagonal."""
    rank: int = 8
    alpha: float | None = None
    """None: half the rank."""
    conv: bool = False
    """Train residual blocks and samplers too (LoCon)."""
    conv_rank: int | None = None
    """Rank of 3x3 convolutions; None: `rank`."""
    text_encoders: bool = True
    """Both text encoders; PEFT has no place for them and leaves them out."""
    text_projection: bool = False
    """Also the projection of the second text encoder, which OneTrainer trains and kohya does not."""
    dtype: str = "F16"
    """F16, BF16, F32 or F8_E4M3; in F8_E4M3 alpha is F32 and carries the factor that keeps small numbers."""
    spelling: str = "kohya"
    alpha_keys: bool | None = None
    """None: as the spelling has it."""
    dora: bool = False
    """Add the magnitudes of DoRA, one per output."""
    seed: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Added to what the trainer writes, or put in its place."""

    @property
    def nominal_alpha(self) -> float:
        """Alpha as the trainer was told."""
        return self.rank / 2 if self.alpha is None else self.alpha

    @property
    def has_alpha(self) -> bool:
        """Whether the file has alpha keys."""
        return SPELLINGS[self.spelling].alpha if self.alpha_keys is None else self.alpha_keys


@dataclass(frozen=True)
class LoraLayer:
    """One layer of a LoRA: its name as the file spells it, the shape of its weight, and its rank."""

    name: str
    origin: str
    """Its name in the checkpoint's words; the numbers follow from it, so that all spellings hold the same ones."""
    shape: tuple[int, ...]
    rank: int
    text: bool
    trained: bool = True
    pieces: tuple[tuple[int, int], ...] = ()
    """Ranges of rows that were trained by themselves."""

    @property
    def columns(self) -> int:
        """Columns of the delta as a matrix."""
        return math.prod(self.shape[1:])


def lora_layers(options: LoraOptions) -> list[LoraLayer]:
    """The layers of a LoRA, in the order of the model; raises UsageError for an unknown spelling."""
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
    """The blocks of a transformer: whole weights as kohya's trainers have them, or what diffusers has."""
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
    """Diffusers' name: that of a piece, or the second of a whole weight."""
    return row.dotted_names[0] if row.whole is not None or len(row.dotted_names) == 1 else row.dotted_names[1]


def _text_layers(options: LoraOptions, spelling: Spelling) -> Iterator[LoraLayer]:
    for index, prefix in enumerate(spelling.texts):
        for weight in options.model.open_clip if index else options.model.clip_l:
            if options.text_projection or not weight.transposed:
                name = prefix + weight.name.replace(".", spelling.separator)
                trained = index > 0 or not weight.name.startswith(_untrained(options.model))
                yield LoraLayer(name, f"{index} {weight.name}", weight.shape, options.rank, True, trained)


def _untrained(model: Model) -> str:
    """How the names of the first text encoder's last layer begin: SDXL takes the output of the one before."""
    return f"text_model.encoder.layers.{model.clip_l_layers - 1}."


def write_lora(path: str | os.PathLike[str], options: LoraOptions | None = None) -> Path:
    """Write a LoRA, and for the PEFT spelling the ``adapter_config.json`` beside it. Returns `path`.

    The hash that kohya's trainer records is true. Raises UsageError for an unknown spelling or dtype.
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
    """Every tensor of a LoRA, in the order of the file."""
    return file_order(_lora_parts(options))


def _lora_parts(options: LoraOptions) -> dict[TensorSpec, tuple[LoraLayer, str]]:
    """The layer of every tensor, and what it is there: up, down, alpha or magnitude."""
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
    """The stored numbers of one tensor."""
    chance = _generator(options.seed, f"{layer.origin} {part}")
    up_lift, down_lift = (256.0, 16.0) if options.dtype == "F8_E4M3" and options.has_alpha else (1.0, 1.0)
    if part == "down":
        values = _down(layer, chance) * np.float32(down_lift)
    elif part == "up":
        values = _up(layer, chance) * np.float32(up_lift)
    elif part == "alpha":
        values = np.full((), options.nominal_alpha / (up_lift * down_lift), np.float32)
    else:
        values = 0.6 + 0.1 * np.abs(chance.standard_normal(spec.shape, dtype=np.float32))
    return round_to(values, spec.dtype)


def _down(layer: LoraLayer, chance: np.random.Generator) -> Single:
    """(rank, columns): uniform as initialised (rows of length 1/sqrt(3)), and a direction that all rows share."""
    bound = np.float32(1.0 / math.sqrt(layer.columns))
    values = chance.random((layer.rank, layer.columns), dtype=np.float32)
    values *= 2 * bound
    values -= bound
    shared = chance.standard_normal((1, layer.columns), dtype=np.float32) * (np.float32(0.15) * bound)
    values += chance.standard_normal((layer.rank, 1), dtype=np.float32) * shared
    return values


def _up(layer: LoraLayer, chance: np.random.Generator) -> Single:
    """(rows, rank): nearly orthonormal columns, the strengths, and a random rotation that hides both."""
    if not layer.trained:
        return np.zeros((layer.shape[0], layer.rank), np.float32)
    if layer.pieces:
        return _up_of_pieces(layer, chance)
    strengths = trained_spectrum(layer.rank, chance) * math.sqrt(3.0 / layer.shape[0])
    rotation = np.linalg.qr(chance.standard_normal((layer.rank, layer.rank)))[0]
    mixing = (strengths[:, None] * rotation).astype(np.float32)
    return np.asarray(chance.standard_normal((layer.shape[0], layer.rank), dtype=np.float32) @ mixing)


def _up_of_pieces(layer: LoraLayer, chance: np.random.Generator) -> Single:
    """Block-diagonal: each piece has its own columns."""
    up, rank = np.zeros((layer.shape[0], layer.rank), np.float32), layer.rank // len(layer.pieces)
    for i, (first, last) in enumerate(layer.pieces):
        piece = replace(layer, shape=(last - first, *layer.shape[1:]), rank=rank, pieces=())
        up[first:last, i * rank : (i + 1) * rank] = _up(piece, chance)
    return up


def trained_spectrum(rank: int, chance: np.random.Generator) -> Double:
    """Singular values of a delta as training leaves them, (rank,), descending: i^-p exp(-i/tau), largest near 0.04."""
    index = np.arange(rank, dtype=np.float64)
    power = chance.uniform(0.35, 1.1)
    tau = rank * chance.uniform(0.4, 2.0)
    largest = _LARGEST * math.exp(0.9 * chance.standard_normal())
    return np.asarray(largest * (index + 1) ** -power * np.exp(-index / tau))


def lora_metadata(options: LoraOptions) -> dict[str, str]:
    """The metadata of the file; where kohya's trainer has the hash of the tensors stand 64 zeros."""
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
    """PEFT's own record; there alpha lives, and not in the tensors."""
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


# ---------------------------------------------------------------- factors for tests of laws


def low_rank_factors(
    shape: tuple[int, int],
    spectrum: Sequence[float] | Double,
    *,
    rank: int | None = None,
    condition: float = 1.0,
    seed: int = 0,
) -> tuple[Double, Double]:
    """Factors up (n, rank) and down (rank, m), float64, whose product has exactly the singular values `spectrum`.

    `shape` is (n, m). A `rank` above the number of singular values (also above min(n, m)) makes the factors, not
    the product, redundant. `condition` is that of the mixing matrix between them: it worsens both factors and
    leaves the product alone. Raises UsageError where such factors cannot be.
    """
    values = np.asarray(spectrum, np.float64)
    count, stored = len(values), len(values) if rank is None else rank
    if count > min(shape) or stored < count:
        raise UsageError(f"{count} singular values fit neither shape {shape} nor rank {stored}, or only one of them")
    chance = np.random.default_rng(seed)
    left, right, mixing, first = (_orthonormal(chance, n, k) for n, k in _bases(shape, count, stored))
    scales = condition ** -np.linspace(0.0, 1.0, stored)
    roots = np.sqrt(values)
    up = (left * roots) @ ((first * scales) @ mixing.T)[:count]
    down = ((mixing / scales) @ first.T)[:, :count] @ (roots[:, None] * right.T)
    return up, down


def _bases(shape: tuple[int, int], count: int, stored: int) -> tuple[tuple[int, int], ...]:
    return (shape[0], count), (shape[1], count), (stored, stored), (stored, stored)


def _orthonormal(chance: np.random.Generator, rows: int, columns: int) -> Double:
    return np.asarray(np.linalg.qr(chance.standard_normal((rows, columns)))[0])
