"""Text encoders of a stand-in WebUI, in the layouts of transformers and OpenCLIP, with LoRAs as hosts apply them."""

from __future__ import annotations

import contextlib
import copy
import zlib
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

WIDTH, TOKENS = 16, 6


class Texts(list):  # type: ignore[type-arg]
    """The host's list of texts with attributes."""

    def __init__(self, texts: list[str], *, is_negative_prompt: bool = False) -> None:
        super().__init__(texts)
        self.is_negative_prompt = is_negative_prompt


class Block(nn.Module):
    """Attention and a small net, under transformers' names."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn, self.mlp = nn.Module(), nn.Module()
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            setattr(self.self_attn, name, nn.Linear(WIDTH, WIDTH))
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH)

    def forward(self, h: Tensor) -> Tensor:
        own: Any = self.self_attn
        mixed = torch.softmax(own.q_proj(h) @ own.k_proj(h).transpose(1, 2) / 4, -1) @ own.v_proj(h)
        h = h + own.out_proj(mixed)
        small: Any = self.mlp
        return h + small.fc2(torch.tanh(small.fc1(h)))  # type: ignore[no-any-return]


class OpenBlock(nn.Module):
    """The same under OpenCLIP's names, with the tokens first."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, 2)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(WIDTH, 24))
        self.mlp.add_module("gelu", nn.Tanh())
        self.mlp.add_module("c_proj", nn.Linear(24, WIDTH))

    def forward(self, h: Tensor) -> Tensor:
        h = h + self.attn(h, h, h, need_weights=False)[0]
        return h + self.mlp(h)  # type: ignore[no-any-return]


def transformers_encoder() -> Any:
    """CLIP's names below ``transformer``."""
    made: Any = nn.Module()
    made.text_model = nn.Module()
    made.text_model.encoder = nn.Module()
    made.text_model.encoder.layers = nn.ModuleList([Block(), Block()])
    made.run = lambda x: nn.Sequential(*made.text_model.encoder.layers)(x)
    return made


def open_clip_encoder() -> Any:
    """OpenCLIP's names below ``model``."""
    made: Any = nn.Module()
    made.transformer = nn.Module()
    made.transformer.resblocks = nn.ModuleList([OpenBlock()])
    made.run = lambda x: nn.Sequential(*made.transformer.resblocks)(x.transpose(0, 1)).transpose(0, 1)
    return made


_LAYERS = {
    **dict.fromkeys((f"self_attn_{one}_proj" for one in ("q", "k", "v", "out")), (WIDTH, WIDTH)),
    "mlp_fc1": (24, WIDTH),
    "mlp_fc2": (WIDTH, 24),
}
TEXT_SHAPES = {
    f"lora_te{encoder}_text_model_encoder_layers_{layer}_{name}": shape
    for encoder, count in ((1, 2), (2, 1))
    for layer in range(count)
    for name, shape in _LAYERS.items()
}
"""Stems of a LoRA for both encoders -> shapes of the weights."""


class TextEncoders:
    """What the host's `get_learned_conditioning` uses."""

    def __init__(self, *, open_clip: bool, outside: bool) -> None:
        """`open_clip`: the second encoder has OpenCLIP's layout; `outside`: LoRAs are there during images only."""
        self.first = transformers_encoder().requires_grad_(False)
        self.second = (open_clip_encoder() if open_clip else transformers_encoder()).requires_grad_(False)
        self._outside = outside
        self._plain = self.weights()
        self._now: Mapping[str, Tensor] = {}
        self.encoded: list[Texts] = []
        self.on_encode: Callable[[Any], None] | None = None
        self.noise = 0.0

    @property
    def modules(self) -> dict[str, Any]:
        return {"lora_te1_": self.first, "lora_te2_": self.second}

    def weights(self) -> dict[str, Tensor]:
        return {
            f"{prefix}{name}": parameter.detach().clone()
            for prefix, one in self.modules.items()
            for name, parameter in one.named_parameters()
        }

    @property
    def hooks(self) -> int:
        every = [one for root in (self.first, self.second) for one in root.modules()]
        return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in every)

    def encode(self, texts: Texts) -> dict[str, Tensor]:
        """The host's method; `texts` must have the attributes of the host's list."""
        assert isinstance(texts, Texts)
        assert texts.is_negative_prompt in (True, False)
        self.encoded.append(copy.copy(texts))
        if self.on_encode is not None:
            self.on_encode(texts)
        x = torch.stack([_embedded(text) for text in texts])
        with torch.no_grad():
            first, second = self.first.run(x), self.second.run(x)
        both = torch.cat([first, second], 2) + self.noise * torch.randn(len(texts), TOKENS, 2 * WIDTH)
        return {"crossattn": both, "vector": both.mean(1)}

    def apply(self, deltas: Mapping[str, Tensor]) -> None:
        """Merge LoRAs: deltas by stem."""
        self._now = deltas
        if not self._outside:
            self._set(deltas)

    @contextlib.contextmanager
    def during_image(self) -> Iterator[None]:
        self._set(self._now)
        try:
            yield
        finally:
            if self._outside:
                self._set({})

    def _set(self, deltas: Mapping[str, Tensor]) -> None:
        for prefix, root in self.modules.items():
            for name, parameter in root.named_parameters():
                parameter.copy_(self._plain[f"{prefix}{name}"])
        with torch.no_grad():
            for stem, delta in deltas.items():
                self._weight(stem).add_(delta)

    def _weight(self, stem: str) -> Tensor:
        root, rest = self.modules[stem[:9]], stem[9:]
        _, _, rest = rest.partition("text_model_encoder_layers_")
        layer, own = rest.split("_", 1)
        if hasattr(root, "text_model"):
            part, name = ("self_attn", own[10:]) if own.startswith("self_attn_") else own.split("_")
            return getattr(getattr(root.text_model.encoder.layers[int(layer)], part), name).weight  # type: ignore[no-any-return]
        block = root.transformer.resblocks[int(layer)]
        if own in ("mlp_fc1", "mlp_fc2"):
            return (block.mlp.c_fc if own == "mlp_fc1" else block.mlp.c_proj).weight  # type: ignore[no-any-return]
        if own == "self_attn_out_proj":
            return block.attn.out_proj.weight  # type: ignore[no-any-return]
        row = "qkv".index(own[10]) * WIDTH
        return block.attn.in_proj_weight[row : row + WIDTH]  # type: ignore[no-any-return]

    # In the models of hosts ---------------------------------------------------------------------------------

    def as_conditioner(self) -> Any:
        """A1111's, for SDXL."""
        wrapped = [nn.Module(), nn.Module()]
        wrapped[0].transformer, wrapped[1].model = self.first, self.second
        return SimpleNamespace(embedders=[SimpleNamespace(wrapped=one) for one in wrapped])

    def as_clip(self) -> Any:
        """Forge's."""
        both: Any = nn.Module()
        both.clip_l, both.clip_g = nn.Module(), nn.Module()
        both.clip_l.transformer, both.clip_g.transformer = self.first, self.second
        return SimpleNamespace(cond_stage_model=both, patcher=SimpleNamespace(backup={}))


class TextModel(SimpleNamespace):
    """A host's model with the method that encodes texts."""

    def __init__(self, texts: TextEncoders, **parts: Any) -> None:
        super().__init__(**parts)
        self._texts = texts

    def get_learned_conditioning(self, texts: Texts) -> dict[str, Tensor]:
        return self._texts.encode(texts)


def _embedded(text: str) -> Tensor:
    """(tokens, width) of the words, each with its place."""
    words = (text.split() + [""] * TOKENS)[:TOKENS]
    return torch.stack([_vector(word) + 0.3 * _vector(f"place {i}") for i, word in enumerate(words)])


def _vector(word: str) -> Tensor:
    """Of few directions, as the words of one subject have."""
    shared = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(4))
    return torch.randn(5, generator=torch.Generator().manual_seed(zlib.crc32(word.encode()))) @ shared / 2


def context_of(rows: Tensor) -> Tensor:
    """The denoiser's context, (1, 3, 10), of one text's conditioning."""
    return rows.flatten()[:90].reshape(1, 3, 30)[:, :, :10]
