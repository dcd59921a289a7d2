"""The names and shapes of the layers of a Stable Diffusion UNet and of its text encoders.

All names are generated from a few numbers (`UNetConfig`), so a narrow or shallow model gets its names from the same
rules as the real ones. Each UNet weight has two names: ``sgm`` (as in single-file checkpoints, below
``model.diffusion_model.``) and ``diffusers``. Shapes are those of the stored weight: ``(out, in)`` or
``(out, in, height, width)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class UNetConfig:
    """The numbers that define one UNet; the defaults are SDXL's.

    `channels` is the width of the first level and `multipliers` gives each level's width as a multiple of it. `depths`
    is the number of transformer blocks at each level (0: no attention there) and `middle_depth` that of the middle.
    `context` is the width of the text conditioning, `label_channels` that of the added conditioning (None: the model
    has none). With `linear_projection`, ``proj_in`` and ``proj_out`` are Linear, else 1x1 convolutions.
    """

    channels: int = 320
    multipliers: tuple[int, ...] = (1, 2, 4)
    depths: tuple[int, ...] = (0, 2, 10)
    middle_depth: int = 10
    context: int = 2048
    label_channels: int | None = 2816
    linear_projection: bool = True
    in_channels: int = 4
    out_channels: int = 4
    res_blocks: int = 2
    time_multiplier: int = 4

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, outermost first."""
        return tuple(self.channels * multiplier for multiplier in self.multipliers)

    @property
    def time_width(self) -> int:
        """Width of the time embedding that every residual block reads."""
        return self.channels * self.time_multiplier


SDXL_UNET = UNetConfig()
SD15_UNET = UNetConfig(
    multipliers=(1, 2, 4, 4),
    depths=(1, 1, 1, 0),
    middle_depth=1,
    context=768,
    label_channels=None,
    linear_projection=False,
)
SD2_UNET = UNetConfig(
    multipliers=(1, 2, 4, 4),
    depths=(1, 1, 1, 0),
    middle_depth=1,
    context=1024,
    label_channels=None,
)
REFINER_UNET = UNetConfig(
    channels=384,
    multipliers=(1, 2, 4, 4),
    depths=(0, 4, 4, 0),
    middle_depth=4,
    context=1280,
    label_channels=2560,
)
KOLORS_UNET = UNetConfig(label_channels=5632)


class Weight(NamedTuple):
    """One matrix or convolution of a UNet; names are dotted and without ``.weight``.

    `role` is ``attention`` (inside a Transformer2DModel: trained by kohya's scripts by default), ``conv`` (residual
    blocks, down- and upsamplers: added by kohya's ``conv_dim``) or ``edge`` (time and label embeddings, first and last
    convolution: never trained by kohya's scripts).
    """

    sgm: str
    diffusers: str
    shape: tuple[int, ...]
    role: str


class TextWeight(NamedTuple):
    """One matrix of a CLIP text encoder, and the stored tensor that holds it.

    `name` is the dotted name in Hugging Face's CLIP, which all LoRA files use. `shape` is its ``(out, in)``. `stored`
    is the key below the encoder's prefix, with ``.weight`` if the file has it. `part` is None, or the third (0, 1, 2)
    of the stored rows that is this matrix. If `transposed`, the stored tensor is ``(in, out)``.
    """

    name: str
    shape: tuple[int, ...]
    stored: str
    part: int | None = None
    transposed: bool = False


def unet_weights(config: UNetConfig) -> tuple[Weight, ...]:
    """Return all matrices and convolutions of a UNet, in the order of a single-file checkpoint, without norms."""
    return (*_head(config), *_down(config), *_middle(config), *_up(config), *_tail(config))


def clip_l_weights(layers: int = 12, width: int = 768) -> tuple[TextWeight, ...]:
    """Return the matrices of a text encoder in Hugging Face's own layout (CLIP-L)."""
    return tuple(
        TextWeight(name, shape, f"{name}.weight")
        for index in range(layers)
        for name, shape in _clip_layer(index, width)
    )


def open_clip_weights(layers: int = 32, width: int = 1280, projection: bool = True) -> tuple[TextWeight, ...]:
    """Return the matrices of a text encoder in OpenCLIP's layout (CLIP-G of SDXL, CLIP-H of SD2).

    One tensor ``in_proj_weight`` of ``3 * width`` rows holds q, then k, then v. `projection` adds the square
    ``text_projection``, which is stored transposed and has no ``.weight``.
    """
    found = [weight for index in range(layers) for weight in _open_clip_layer(index, width)]
    if projection:
        found.append(TextWeight("text_projection", (width, width), "text_projection", transposed=True))
    return tuple(found)


def t5_weights(layers: int = 24, width: int = 4096, hidden: int = 10240) -> tuple[TextWeight, ...]:
    """Return the matrices of a T5 1.1 encoder (XXL by default), in Hugging Face's layout."""
    return tuple(
        TextWeight(name, shape, f"{name}.weight")
        for index in range(layers)
        for name, shape in _t5_layer(f"encoder.block.{index}.layer", width, hidden)
    )


def _t5_layer(layer: str, width: int, hidden: int) -> Iterator[tuple[str, tuple[int, int]]]:
    for name in "qkvo":
        yield f"{layer}.0.SelfAttention.{name}", (width, width)
    yield f"{layer}.1.DenseReluDense.wi_0", (hidden, width)
    yield f"{layer}.1.DenseReluDense.wi_1", (hidden, width)
    yield f"{layer}.1.DenseReluDense.wo", (width, hidden)


def _head(config: UNetConfig) -> Iterator[Weight]:
    time, first = config.time_width, config.channels
    yield Weight("time_embed.0", "time_embedding.linear_1", (time, first), "edge")
    yield Weight("time_embed.2", "time_embedding.linear_2", (time, time), "edge")
    if config.label_channels is not None:
        yield Weight("label_emb.0.0", "add_embedding.linear_1", (time, config.label_channels), "edge")
        yield Weight("label_emb.0.2", "add_embedding.linear_2", (time, time), "edge")
    yield Weight("input_blocks.0.0", "conv_in", (first, config.in_channels, 3, 3), "edge")


def _tail(config: UNetConfig) -> Iterator[Weight]:
    yield Weight("out.2", "conv_out", (config.out_channels, config.channels, 3, 3), "edge")


def _down(config: UNetConfig) -> Iterator[Weight]:
    index, before = 1, config.channels
    last = len(config.widths) - 1
    for level, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
        for step in range(config.res_blocks):
            sgm, own = f"input_blocks.{index}", f"down_blocks.{level}"
            yield from _resnet(config, f"{sgm}.0", f"{own}.resnets.{step}", before, width)
            yield from _transformer(config, f"{sgm}.1", f"{own}.attentions.{step}", width, depth)
            index, before = index + 1, width
        if level != last:
            name = f"down_blocks.{level}.downsamplers.0.conv"
            yield Weight(f"input_blocks.{index}.0.op", name, (width, width, 3, 3), "conv")
            index += 1


def _middle(config: UNetConfig) -> Iterator[Weight]:
    width = config.widths[-1]
    yield from _resnet(config, "middle_block.0", "mid_block.resnets.0", width, width)
    yield from _transformer(config, "middle_block.1", "mid_block.attentions.0", width, config.middle_depth)
    yield from _resnet(config, "middle_block.2", "mid_block.resnets.1", width, width)


def _up(config: UNetConfig) -> Iterator[Weight]:
    skips, before = _skip_widths(config), config.widths[-1]
    for block, level in enumerate(reversed(range(len(config.widths)))):
        width, depth = config.widths[level], config.depths[level]
        for step in range(config.res_blocks + 1):
            index = block * (config.res_blocks + 1) + step
            sgm, own = f"output_blocks.{index}", f"up_blocks.{block}"
            yield from _resnet(config, f"{sgm}.0", f"{own}.resnets.{step}", before + skips.pop(), width)
            yield from _transformer(config, f"{sgm}.1", f"{own}.attentions.{step}", width, depth)
            before = width
        if level:
            # Members of an output block are numbered without gaps: the upsampler follows the transformer.
            name = f"output_blocks.{index}.{2 if depth else 1}.conv"
            yield Weight(name, f"up_blocks.{block}.upsamplers.0.conv", (width, width, 3, 3), "conv")


def _skip_widths(config: UNetConfig) -> list[int]:
    """Return the channels of the outputs of all input blocks. The output blocks use them from the end."""
    found = [config.channels]
    for level, width in enumerate(config.widths):
        found += [width] * config.res_blocks
        if level != len(config.widths) - 1:
            found.append(width)
    return found


def _resnet(config: UNetConfig, sgm: str, own: str, before: int, width: int) -> Iterator[Weight]:
    yield Weight(f"{sgm}.in_layers.2", f"{own}.conv1", (width, before, 3, 3), "conv")
    yield Weight(f"{sgm}.emb_layers.1", f"{own}.time_emb_proj", (width, config.time_width), "conv")
    yield Weight(f"{sgm}.out_layers.3", f"{own}.conv2", (width, width, 3, 3), "conv")
    if before != width:
        yield Weight(f"{sgm}.skip_connection", f"{own}.conv_shortcut", (width, before, 1, 1), "conv")


def _transformer(config: UNetConfig, sgm: str, own: str, width: int, depth: int) -> Iterator[Weight]:
    if not depth:
        return
    ends = (width, width) if config.linear_projection else (width, width, 1, 1)
    yield Weight(f"{sgm}.proj_in", f"{own}.proj_in", ends, "attention")
    for index in range(depth):
        block = f"transformer_blocks.{index}"
        for name, shape in _transformer_block(width, config.context):
            yield Weight(f"{sgm}.{block}.{name}", f"{own}.{block}.{name}", shape, "attention")
    yield Weight(f"{sgm}.proj_out", f"{own}.proj_out", ends, "attention")


def _transformer_block(width: int, context: int) -> Iterator[tuple[str, tuple[int, int]]]:
    for attention, source in (("attn1", width), ("attn2", context)):
        yield f"{attention}.to_q", (width, width)
        yield f"{attention}.to_k", (width, source)
        yield f"{attention}.to_v", (width, source)
        yield f"{attention}.to_out.0", (width, width)
    yield "ff.net.0.proj", (8 * width, width)
    yield "ff.net.2", (width, 4 * width)


def _clip_layer(index: int, width: int) -> Iterator[tuple[str, tuple[int, int]]]:
    layer = f"text_model.encoder.layers.{index}"
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        yield f"{layer}.self_attn.{name}", (width, width)
    yield f"{layer}.mlp.fc1", (4 * width, width)
    yield f"{layer}.mlp.fc2", (width, 4 * width)


_OPEN_CLIP_HOMES: tuple[tuple[str, int | None], ...] = (
    ("attn.in_proj_weight", 0),
    ("attn.in_proj_weight", 1),
    ("attn.in_proj_weight", 2),
    ("attn.out_proj.weight", None),
    ("mlp.c_fc.weight", None),
    ("mlp.c_proj.weight", None),
)


def _open_clip_layer(index: int, width: int) -> Iterator[TextWeight]:
    for (name, shape), (home, part) in zip(_clip_layer(index, width), _OPEN_CLIP_HOMES, strict=True):
        yield TextWeight(name, shape, f"transformer.resblocks.{index}.{home}", part)
