"""LoRAs whose true deltas are known, in the spellings of several trainers; and exact mathematics to judge by.

Nothing here uses the package's own names, readers or linear algebra: a layer is known by its component (`unet`, `te1`,
`te2`) and its name in diffusers' words, and numbers are read back by the safetensors library.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file

from lib_resize import Outcome, Settings, parse_recipes
from lib_resize.adapters.write.style import DTYPES, Style
from lib_resize.engine.batch import resize
from lib_resize.prompts.sources import Member, Source

Matrix = NDArray[np.float64]
Key = tuple[str, str]
"""Component and name in diffusers' words, text encoders always with `text_model.`."""
Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Factors:
    """One layer: its delta is ``scale * up @ down``."""

    shape: tuple[int, ...]
    """Of the weight that it changes."""
    up: Matrix
    """(n, r)"""
    down: Matrix
    """(r, m)"""
    alpha: float | None = None
    """As kohya's files have it; None: no such key, and scale 1."""

    @property
    def rank(self) -> int:
        return len(self.down)

    @property
    def delta(self) -> Matrix:
        scale = 1.0 if self.alpha is None else self.alpha / self.rank
        return scale * self.up @ self.down

    @property
    def stored(self) -> dict[str, NDArray[np.float64]]:
        ones = (1,) * (len(self.shape) - 2)
        return {
            "up": self.up.reshape(*self.up.shape, *ones),
            "down": self.down.reshape(self.rank, *self.shape[1:]),
        }


Lora = dict[Key, Factors]


def make_factors(shape: tuple[int, ...], rank: int, seed: list[int], *, alpha: float | None = None) -> Factors:
    """Factors in float16 numbers, whose singular values fall by a factor of 3 to 100 in a random basis."""
    chance = np.random.default_rng(seed)
    n, m = shape[0], math.prod(shape[1:])
    strengths = 0.3 * np.exp(chance.normal()) * np.geomspace(1.0, 10 ** -chance.uniform(0.5, 2), rank) / math.sqrt(n)
    mixing = strengths[:, None] * np.linalg.qr(chance.standard_normal((rank, rank)))[0]
    up = chance.standard_normal((n, rank)) @ mixing
    down = chance.standard_normal((rank, m)) / math.sqrt(m)
    return Factors(shape, halves(up), halves(down), alpha)


def constant(value: Any) -> Callable[[int], Any]:
    """The same for each layer."""
    return lambda _: value


def make_lora(
    shapes: Mapping[Key, tuple[int, ...]],
    rank: Callable[[int], int] = lambda _: 8,
    alpha: Callable[[int], float | None] = lambda _: 4.0,
    seed: int = 0,
) -> Lora:
    """A LoRA over layers of these shapes; rank and alpha by the layer's number."""
    return {
        key: make_factors(shape, rank(index), [seed, index], alpha=alpha(index))
        for index, (key, shape) in enumerate(shapes.items())
    }


def halves(values: Matrix) -> Matrix:
    """Rounded to float16."""
    return values.astype(np.float16).astype(np.float64)


def unscaled(lora: Lora) -> Lora:
    """The same without alphas, for spellings that have none."""
    return {key: replace(factors, alpha=None) for key, factors in lora.items()}


def small_shapes() -> dict[Key, tuple[int, ...]]:
    """Some layers of SDXL of every kind, at tiny widths."""
    unet: dict[str, tuple[int, ...]] = {
        "down_blocks.1.resnets.0.conv1": (32, 16, 3, 3),
        "down_blocks.1.resnets.0.conv_shortcut": (32, 16, 1, 1),
        "down_blocks.1.resnets.0.time_emb_proj": (32, 64),
        "up_blocks.0.upsamplers.0.conv": (24, 24, 3, 3),
    }
    for block in ("down_blocks.1.attentions.0", "mid_block.attentions.0", "up_blocks.1.attentions.2"):
        unet |= {f"{block}.{name}": (32, 32) for name in ("proj_in", "proj_out")}
        inner = f"{block}.transformer_blocks.0"
        unet |= {f"{inner}.attn1.to_{part}": (32, 32) for part in ("q", "k", "v", "out.0")}
        unet |= {f"{inner}.attn2.to_{part}": (32, 48 if part in "kv" else 32) for part in ("q", "k", "v", "out.0")}
        unet |= {f"{inner}.ff.net.0.proj": (256, 32), f"{inner}.ff.net.2": (32, 128)}
    return {("unet", name): shape for name, shape in unet.items()} | _text_shapes("te1", 16) | _text_shapes("te2", 24)


def _text_shapes(component: str, width: int) -> dict[Key, tuple[int, ...]]:
    found: dict[Key, tuple[int, ...]] = {}
    for layer in range(3):
        stem = f"text_model.encoder.layers.{layer}"
        for part in ("q", "k", "v", "out"):
            found[component, f"{stem}.self_attn.{part}_proj"] = (width, width)
        found[component, f"{stem}.mlp.fc1"] = (4 * width, width)
        found[component, f"{stem}.mlp.fc2"] = (width, 4 * width)
    return found


# ---------------------------------------------------------------- spellings


def sgm_words(name: str) -> str:
    """A diffusers UNet name in the words of SDXL's single-file checkpoints."""
    for pattern, words in _BLOCKS:
        match = pattern.fullmatch(name)
        if match:
            return words(match) + _inside(match["rest"])
    raise AssertionError(f"no block known for {name}")


_RESNET = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def _inside(rest: str) -> str:
    return _RESNET.get(rest, rest)


def _down(match: re.Match[str]) -> str:
    place = {"resnets": 0, "attentions": 1}[match["kind"]]
    return f"input_blocks.{3 * int(match['block']) + int(match['layer']) + 1}.{place}."


def _up(match: re.Match[str]) -> str:
    place = {"resnets": 0, "attentions": 1}[match["kind"]]
    return f"output_blocks.{3 * int(match['block']) + int(match['layer'])}.{place}."


def _middle(match: re.Match[str]) -> str:
    return f"middle_block.{1 if match['kind'] == 'attentions' else 2 * int(match['layer'])}."


def _downsampler(match: re.Match[str]) -> str:
    return f"input_blocks.{3 * int(match['block']) + 3}.0.op"


def _upsampler(match: re.Match[str]) -> str:
    return f"output_blocks.{3 * int(match['block']) + 2}.2.conv"


_BLOCKS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"down_blocks\.(?P<block>\d)\.downsamplers\.0\.conv(?P<rest>)"), _downsampler),
    (re.compile(r"up_blocks\.(?P<block>\d)\.upsamplers\.0\.conv(?P<rest>)"), _upsampler),
    (re.compile(r"down_blocks\.(?P<block>\d)\.(?P<kind>\w+)\.(?P<layer>\d)\.(?P<rest>.+)"), _down),
    (re.compile(r"up_blocks\.(?P<block>\d)\.(?P<kind>\w+)\.(?P<layer>\d)\.(?P<rest>.+)"), _up),
    (re.compile(r"mid_block\.(?P<kind>\w+)\.(?P<layer>\d)\.(?P<rest>.+)"), _middle),
)

_KOHYA = {"unet": "lora_unet_", "te1": "lora_te1_", "te2": "lora_te2_"}
_DIFFUSERS = {"unet": "unet.", "te1": "text_encoder.", "te2": "text_encoder_2."}


def kohya_stem(key: Key) -> str:
    """As kohya's trainer names a layer of SDXL."""
    component, name = key
    return _KOHYA[component] + (sgm_words(name) if component == "unet" else name).replace(".", "_")


def kohya_diffusers_stem(key: Key) -> str:
    """As OneTrainer and others do."""
    return _KOHYA[key[0]] + key[1].replace(".", "_")


def dotted_stem(key: Key) -> str:
    """As diffusers writes it with transformers 5: the first text encoder has lost a level."""
    name = key[1].removeprefix("text_model.") if key[0] == "te1" else key[1]
    return _DIFFUSERS[key[0]] + name


def kohya(lora: Lora, stem: Callable[[Key], str] = kohya_stem) -> Tensors:
    """kohya's suffixes."""
    tensors: Tensors = {}
    for key, factors in lora.items():
        for role, values in factors.stored.items():
            tensors[f"{stem(key)}.lora_{role}.weight"] = values
        if factors.alpha is not None:
            tensors[f"{stem(key)}.alpha"] = np.array(factors.alpha)
    return tensors


def diffusers_export(lora: Lora) -> Tensors:
    """What ``save_lora_weights`` of diffusers writes."""
    suffix = {"unet": "lora", "te1": "lora_linear_layer", "te2": "lora_linear_layer"}
    return {
        f"{dotted_stem(key)}.{suffix[key[0]]}.{role}.weight": values
        for key, factors in lora.items()
        for role, values in factors.stored.items()
    }


def old_processors(lora: Lora) -> Tensors:
    """What diffusers wrote in 2023: the layers of attention processors."""
    return {
        f"unet.{_processor(key[1])}_lora.{role}.weight": values
        for key, factors in lora.items()
        if ".attn" in key[1]
        for role, values in factors.stored.items()
    }


def _processor(name: str) -> str:
    return re.sub(r"\.to_(q|k|v|out)(\.0)?$", r".processor.to_\1", name)


def peft_style(lora: Lora) -> Tensors:
    """PEFT's suffixes under the pipeline's names."""
    suffix = {"up": "lora_B", "down": "lora_A"}
    return {
        f"{dotted_stem(key)}.{suffix[role]}.weight": values
        for key, factors in lora.items()
        for role, values in factors.stored.items()
    }


# ---------------------------------------------------------------- files

TORCH = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F8_E4M3": torch.float8_e4m3fn}


def save(path: Path, tensors: Tensors, dtype: str = "F16", metadata: Mapping[str, str] | None = None) -> Path:
    """Writes by the safetensors library; alphas are float32 in an fp8 file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kinds = {key: TORCH["F32" if dtype.startswith("F8") and key.endswith(".alpha") else dtype] for key in tensors}
    cast = {key: torch.from_numpy(np.asarray(values)).to(kinds[key]).contiguous() for key, values in tensors.items()}
    save_file(cast, str(path), metadata=None if metadata is None else dict(metadata))
    return path


def load(path: Path) -> Tensors:
    """Every tensor in float64."""
    with safe_open(str(path), framework="pt") as file:
        return {key: file.get_tensor(key).to(torch.float64).numpy() for key in file.keys()}  # noqa: SIM118


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(str(path), framework="pt") as file:
        return dict(file.metadata() or {})


# ---------------------------------------------------------------- resizing


@dataclass(frozen=True)
class How:
    """Options besides the recipe."""

    dtype: str = "16"
    kohya: bool = False
    base: Path | None = None
    dry_run: bool = False


def resized(source: Path | Source, recipe: str, folder: Path, how: How | None = None) -> Outcome:
    """The outcome of one recipe; a failure is raised."""
    how = how or How()
    settings = Settings(
        recipes=parse_recipes(recipe),
        output=folder,
        base=how.base,
        style=Style(DTYPES[how.dtype], how.kohya),
        dry_run=how.dry_run,
        overwrite=True,
        threads=2,
    )
    given = source if isinstance(source, Source) else Source((Member(source),))
    outcome = next(iter(resize([given], settings)))
    if outcome.error is not None:
        raise outcome.error
    return outcome


def output(outcome: Outcome) -> Path:
    assert outcome.plan is not None
    return Path(outcome.plan.output)


# ---------------------------------------------------------------- mathematics


@dataclass(frozen=True)
class Exact:
    """A delta in float64, decomposed once, densely."""

    delta: Matrix

    @cached_property
    def svd(self) -> tuple[Matrix, Matrix, Matrix]:
        return tuple(np.linalg.svd(self.delta, full_matrices=False))  # type: ignore[return-value]

    def truncation(self, rank: int) -> Matrix:
        """The best approximation of that rank (Eckart and Young 1936)."""
        u, s, vt = self.svd
        return np.asarray((u[:, :rank] * s[:rank]) @ vt[:rank])

    def times(self, strength: float) -> Exact:
        return Exact(strength * self.delta)


def exact(lora: Lora) -> dict[Key, Exact]:
    return {key: Exact(factors.delta) for key, factors in lora.items()}


def difference(found: Matrix, wanted: Matrix) -> float:
    """Relative to what is wanted, Frobenius."""
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@dataclass(frozen=True)
class Thin:
    """A delta ``up @ down`` that is too large to be looked at in full; float64."""

    up: Matrix
    """(n, r)"""
    down: Matrix
    """(r, m)"""

    @cached_property
    def norm(self) -> float:
        """Frobenius."""
        up, down = (cast("Matrix", np.linalg.qr(factor, mode="r")) for factor in (self.up, self.down.T))
        return float(np.linalg.norm(up @ down.T))

    @cached_property
    def svd(self) -> tuple[Matrix, Matrix, Matrix]:
        """By QR of both factors and LAPACK's decomposition of what is between."""
        left, inner_left = np.linalg.qr(self.up)
        right, inner_right = np.linalg.qr(self.down.T)
        u, s, vt = np.linalg.svd(inner_left @ inner_right.T)
        return left @ u[:, : len(s)], s, vt[: len(s)] @ right.T

    def truncation(self, rank: int) -> Thin:
        """The best approximation of that rank."""
        u, s, vt = self.svd
        return Thin(u[:, :rank] * s[:rank], vt[:rank])

    def difference(self, wanted: Thin) -> float:
        """Relative to what is wanted, Frobenius."""
        return Thin(np.hstack([self.up, -wanted.up]), np.vstack([self.down, wanted.down])).norm / wanted.norm
