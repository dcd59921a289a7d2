"""A WebUI with a model that runs: its images are sampling runs of a small net; LoRAs are applied as hosts do."""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from lib_resize.files.reader import SafeFile
from lib_resize.linalg.casts import singles
from tests.fitting.small_net import CHANNELS, SIDE, Net
from tests.hosts.live_texts import TextEncoders, TextModel, Texts, context_of
from tests.hosts.standins import Loader, OnDisk, WebUI, add_backend, module

MERGED, SEPARATE, PATCHED = "merged", "separate", "patched"
"""A1111 with LoRAs in its weights; the same with LoRAs added during images only; Forge."""
STEPS = 6


class Denoiser(Net):
    """The net with the arguments of a UNet; `on_call` is called with the arguments of each call."""

    on_call: Callable[[dict[str, Any]], None] | None = None
    noise = 0.0

    def forward(self, x: Tensor, timesteps: Any = None, context: Any = None, **more: Any) -> Any:  # type: ignore[override]
        if self.on_call is not None:
            self.on_call(more)
        for options in (one for one in more.values() if isinstance(one, dict)):
            options["block"] = ("input", 0)  # as Forge's does
        found = super().forward(x, 0.5, context).transpose(1, 2).reshape(x.shape)
        return found * (1 + timesteps.reshape(-1, 1, 1, 1) / 100) + self.noise * torch.randn(x.shape)


class ForgeLinear(nn.Module):
    """A linear map that is no `torch.nn.Linear`."""

    def __init__(self, same: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = same.in_features, same.out_features
        self.weight, self.bias = same.weight, same.bias

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


ForgeLinear.__name__ = "Linear"


@dataclass
class LiveWebUI:
    """The modules of a host, whose images are made by `draw`."""

    folder: Path
    kind: str
    seed: int = 3
    lora_options: dict[str, Any] = field(default_factory=dict)
    """More of Forge's options of a call."""
    with_texts: bool = False
    """Whether it has text encoders that make the denoiser's context."""
    drawn: Callable[[int], None] | None = None
    """Called after each image with its number, from 1, while the lock is held."""

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        self.net = Denoiser().eval()
        if self.kind == PATCHED:
            for name, one in list(self.net.named_children()):
                if isinstance(one, nn.Linear):
                    setattr(self.net, name, ForgeLinear(one))
        merged = self.kind == MERGED
        self.texts = TextEncoders(open_clip=merged, outside=self.kind == SEPARATE) if self.with_texts else None
        self.folder.mkdir(exist_ok=True)
        self.webui = WebUI(self.folder, self._model(), on_draw=self.draw)
        if self.kind == PATCHED:
            add_backend(self.webui)
            self.webui.modules["backend.sampling"] = module("backend.sampling", __path__=[])
            self.webui.modules["backend.sampling.sampling_function"] = module(
                "backend.sampling.sampling_function",
                sampling_prepare=lambda patcher, x: self.webui.calls.append(("prepare", patcher, tuple(x.shape))),
                sampling_cleanup=lambda patcher: self.webui.calls.append(("cleanup", patcher)),
            )
        processing = self.webui.modules["modules.processing"]
        self.caches = processing.StableDiffusionProcessing.cached_c, processing.StableDiffusionProcessing.cached_uc
        networks = self.webui.modules["networks"]
        networks.network = SimpleNamespace(NetworkOnDisk=lambda name, path: OnDisk(name, path, name))
        networks.available_network_aliases, networks.available_network_hash_lookup = {}, {}
        self.requests: list[dict[str, Any]] = []
        self.count = 0
        self.after_image: dict[str, Tensor] = {}

    def _model(self) -> Any:
        info = SimpleNamespace(filename="tiny.safetensors", title="tiny.safetensors [abc]", sha256="abc")
        texts = self.texts
        if self.kind != PATCHED:
            denoiser = SimpleNamespace(diffusion_model=self.net)
            if texts is None:
                return SimpleNamespace(model=denoiser, sd_checkpoint_info=info)
            return TextModel(texts, model=denoiser, sd_checkpoint_info=info, conditioner=texts.as_conditioner())
        outer: Any = nn.Module()
        outer.diffusion_model, outer.lora_loader = self.net, Loader()
        unet = SimpleNamespace(model=outer, backup={})
        objects = SimpleNamespace(unet=unet, clip=None if texts is None else texts.as_clip())
        if texts is None:
            return SimpleNamespace(forge_objects=objects, forge_objects_original=objects, sd_checkpoint_info=info)
        return TextModel(texts, forge_objects=objects, forge_objects_original=objects, sd_checkpoint_info=info)

    def weights(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.net.named_parameters()}

    @property
    def hooks(self) -> int:
        """How many hooks are on the net, the text encoders and their modules."""
        own = 0 if self.texts is None else self.texts.hooks
        return own + sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in self.net.modules())

    # Images -------------------------------------------------------------------------------------------------

    def draw(self, made: Any) -> None:
        """Make the image of a request."""
        self.requests.append(made.settings)
        with torch.inference_mode() if self.kind == PATCHED else torch.no_grad():
            latent = self.sample(
                made.settings["prompt"],
                made.settings["seed"],
                made.settings.get("steps", STEPS),
                made.settings.get("negative_prompt", ""),
            )
        self.webui.picture = _picture(latent)
        self.count += 1
        self.after_image = self.weights()
        if self.drawn is not None:
            self.drawn(self.count)

    def sample(self, prompt: str, seed: int, steps: int = STEPS, negative: str = "") -> Tensor:
        """Return the final latents, and leave the LoRAs of the prompt applied as this host does."""
        tags = re.findall(r"<lora:([^:>]+):([^>]+)>", prompt)
        applied = [(self.webui.modules["networks"].available_networks[name].filename, float(w)) for name, w in tags]
        self.webui.modules["networks"].loaded_networks = [SimpleNamespace(name=name) for name, _ in tags]
        words = re.sub(r"<[^>]*>", "", prompt).strip()
        with self._with_loras(applied):
            x = torch.randn(1, CHANNELS, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
            context = torch.cat(self._contexts(words, negative, tags))
            for step in range(steps):
                time = torch.full((2,), 20.0 * (steps - step))
                cond, uncond = self.net(torch.cat([x, x]), time, context=context, **self._options(step)).chunk(2)
                x = 0.8 * x + 0.3 * (uncond + 2 * (cond - uncond))
        return x

    def _contexts(self, words: str, negative: str, tags: list[Any]) -> list[Tensor]:
        """The contexts of a prompt and its negative prompt, from the host's caches where nothing has changed."""
        texts = self.texts
        if texts is None:
            return [_context(words), _context(negative)]
        for cache, text in zip(self.caches, (words, negative), strict=True):
            if cache[0] != (text, tags):
                asked = Texts([text], is_negative_prompt=text == negative)
                with texts.during_image():
                    cache[:2] = (text, tags), self.webui.model.get_learned_conditioning(asked)
        return [context_of(cache[1]["crossattn"][0]) for cache in self.caches]

    def _options(self, step: int) -> dict[str, Any]:
        if self.kind != PATCHED:
            return {}
        sigma = torch.tensor([float(step)])
        mine = {"cond_or_uncond": [0, 1], "sigmas": sigma, "cond_mark": torch.tensor([0.0, 1.0]), "cond_indices": [0]}
        return {"control": None, "transformer_options": {**mine, "patches": {}, **self.lora_options}}

    @contextlib.contextmanager
    def _with_loras(self, applied: list[tuple[str, float]]) -> Iterator[None]:
        changes = dict(self._changes(applied))
        if self.kind == MERGED:
            self._merge(changes)
            yield
        elif self.kind == PATCHED:
            self._patch(changes)
            yield
        else:
            before = self.weights()
            for one, parameter in self.net.named_parameters():
                parameter.add_(changes.get(one, 0.0))
            try:
                yield
            finally:
                for one, parameter in self.net.named_parameters():
                    parameter.copy_(before[one])

    def _changes(self, applied: list[tuple[str, float]]) -> Iterator[tuple[str, Tensor]]:
        total: dict[str, Tensor] = {}
        of_texts: dict[str, Tensor] = {}
        for path, strength in applied:
            for name, delta in lora_deltas(Path(path)).items():
                if name.startswith("lora_te"):
                    of_texts[name] = of_texts.get(name, 0.0) + strength * delta
                    continue
                weight = self.net.get_parameter(f"{name}.weight")
                total[f"{name}.weight"] = total.get(f"{name}.weight", 0.0) + strength * delta.reshape(weight.shape)
        if self.texts is not None:
            self.texts.apply(of_texts)
        yield from total.items()

    def _merge(self, changes: dict[str, Tensor]) -> None:
        """As A1111: a backup once, then the weight is restored and changed in place."""
        for name, one in self.net.named_modules():
            if "weight" not in one._parameters:
                continue
            if not hasattr(one, "network_weights_backup"):
                one.network_weights_backup = one.weight.detach().clone()
            one.weight.copy_(one.network_weights_backup + changes.get(f"{name}.weight", 0.0))

    def _patch(self, changes: dict[str, Tensor]) -> None:
        """As Forge: the old parameters are put back, then others are put in their places."""
        backup = self.webui.model.forge_objects.unet.model.lora_loader.backup
        for key, parameter in backup.items():
            self._set(key, parameter)
        backup.clear()
        for key, delta in changes.items():
            backup[key] = self.net.get_parameter(key)
            self._set(key, nn.Parameter(backup[key] + delta, requires_grad=False))

    def _set(self, key: str, parameter: Any) -> None:
        owner, _, own = key.rpartition(".")
        setattr(self.net.get_submodule(owner), own, parameter)


def lora_deltas(path: Path) -> dict[str, Tensor]:
    """The deltas of a file, (n, m), by the names of modules."""
    with SafeFile(path) as file:
        read = {key: torch.from_numpy(singles(file.bits(key), one.dtype)) for key, one in file.header.entries.items()}
    found = {}
    for key in read:
        if key.endswith(".lora_up.weight"):
            stem = key.removesuffix(".lora_up.weight")
            up, down = read[key].flatten(1), read[f"{stem}.lora_down.weight"].flatten(1)
            scale = float(read[f"{stem}.alpha"]) / len(down) if f"{stem}.alpha" in read else 1.0
            found[stem.removeprefix("lora_unet_")] = scale * up @ down
    return found


def _context(words: str) -> Tensor:
    return torch.randn(1, 3, 10, generator=torch.Generator().manual_seed(zlib.crc32(words.encode())))


def _picture(latent: Tensor) -> Any:
    from PIL import Image

    return Image.fromarray((latent[0, 0].clamp(-4, 4) * 30 + 128).byte().numpy())
