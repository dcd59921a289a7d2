"""The images of one prompt and one set of settings. Each is made once and kept."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...effect.figures import Distances, EffectFigure, effect_figure, squared_difference
from ...files.effect_record import EffectRecord
from ...files.metadata import prompt_hash
from ...hosts.host import GeneratedImage, Host
from ..faults import Fault
from ..images import png
from ..protocol.types import Json
from ..queue import Handle
from .prompting import ComparedFiles, Prompts

IMAGE = "image"
"""The kind of work of which the pace is known by pixels times steps."""
LATENTS = "latents"
PIXELS = "pixels"


@dataclass(frozen=True)
class Take:
    """One image. Pixels are kept as PNG alone, because as numbers they are large."""

    image: bytes
    """A PNG file, RGB."""
    size: tuple[int, int]
    """Its width and height."""
    latent: Any | None = None
    """The final latents, float32 (channels, height, width), where the host gave them."""

    @property
    def basis(self) -> str:
        return PIXELS if self.latent is None else LATENTS

    @property
    def sample(self) -> Any:
        """What is compared: the latents, else the pixels, 0 to 1."""
        return self.pixels if self.latent is None else self.latent

    @property
    def pixels(self) -> Any:
        """The pixels as float32 (height, width, 3), 0 to 1."""
        return np.asarray(self.picture(), np.float32) / np.float32(255.0)

    def picture(self) -> Any:
        """Return the PIL image."""
        from PIL import Image

        return Image.open(io.BytesIO(self.image)).convert("RGB")


class Takes:
    """All images that were made of one prompt with one set of settings."""

    def __init__(self, host: Host, pair: ComparedFiles, settings: Json) -> None:
        """`settings` are `Image settings` of the protocol with a seed, such as those of `read_settings`."""
        self.prompts = Prompts.of(pair, settings["prompt"])
        self._host = host
        self._pair = pair
        self._settings = settings
        self._made: dict[tuple[str, str, int], Take] = {}

    @property
    def made(self) -> int:
        """The number of images made so far."""
        return len(self._made)

    @property
    def seed(self) -> int:
        """The first seed."""
        return int(self._settings["seed"])

    def original(self, seed: int, handle: Handle) -> Take:
        return self._take(("original", "", seed), self._of_original, handle)

    def without(self, seed: int, handle: Handle) -> Take:
        return self._take(("without", "", seed), lambda: {"prompt": self.prompts.without}, handle)

    def candidate(self, key: str, name: str, path: Path | None, seed: int, handle: Handle) -> Take:
        """Return the image with another file in place of the LoRA.

        `key` is the identity of the file's content. With `path`, the host knows `name` for this image only.
        """
        files = dict(self._pair.files) if path is None else {name: path}
        return self._take(("candidate", key, seed), lambda: _of_file(self.prompts.of_file(name), name, files), handle)

    def again(self, handle: Handle) -> Take:
        """Return the image of the original with the first seed, made a second time."""
        return self._take(("again", "", self.seed), self._of_original, handle)

    def noise(self, handle: Handle) -> float:
        """Return the squared difference of the host's two images of one seed."""
        return squared_distance([self.original(self.seed, handle), self.again(handle)])[0]

    def figure(self, key: str, name: str, path: Path | None, seeds: Sequence[int], handle: Handle) -> EffectFigure:
        """Return how much of the effect a file keeps, over some seeds; images that are missing are made.

        The arguments are those of `candidate`. Raises Fault where the host's images have different sizes.
        """
        originals = [self.original(seed, handle) for seed in seeds]
        again = [self.original(self.seed, handle), self.again(handle)]
        resized = [self.candidate(key, name, path, seed, handle) for seed in seeds]
        without = [self.without(seed, handle) for seed in seeds]
        basis = common_basis([*originals, *again, *resized, *without])
        distances = [
            Distances(seed, _distance(small, original, basis), _distance(bare, original, basis))
            for seed, original, small, bare in zip(seeds, originals, resized, without, strict=True)
        ]
        return effect_figure(distances, _distance(again[0], again[1], basis), basis)

    def record(self, figure: EffectFigure) -> EffectRecord | None:
        """Return what is kept of a figure of these images; None where they hardly show the LoRA."""
        if figure.kept is None or figure.worst is None:
            return None
        width, height = next(iter(self._made.values())).size
        return EffectRecord(
            kept=figure.kept,
            worst=figure.worst,
            seeds=len(figure.seeds),
            sampler=self._settings.get("sampler_name"),
            steps=self._settings.get("steps"),
            width=width,
            height=height,
            basis=figure.basis,
            prompt=prompt_hash([self.prompts.original, self._settings.get("negative_prompt", "")]),
        )

    def missing(self, key: str, seeds: Sequence[int]) -> int:
        """Return how many images `figure` would make."""
        wanted = {("again", "", self.seed), ("original", "", self.seed)}
        wanted |= {(kind, key if kind == "candidate" else "", seed) for kind in _KINDS for seed in seeds}
        return len(wanted - self._made.keys())

    def _of_original(self) -> Json:
        return _of_file(self.prompts.original, self._pair.old, self._pair.files)

    def _take(self, place: tuple[str, str, int], request: Any, handle: Handle) -> Take:
        if place not in self._made:
            handle.wait_for_host()
            began = time.monotonic()
            self._made[place] = _kept(self._host.generate({**self._settings, "seed": place[2], **request()}))
            handle.measured(IMAGE, self._work(self._made[place]), time.monotonic() - began)
            handle.step()
        return self._made[place]

    def _work(self, take: Take) -> int:
        """Return pixels times steps; 0 where the steps are the host's own."""
        return take.size[0] * take.size[1] * int(self._settings.get("steps") or 0)


_KINDS = ("original", "candidate", "without")


def common_basis(takes: Sequence[Take]) -> str:
    """Return ``latents`` where all images have latents of one shape, else ``pixels``."""
    shapes = {None if take.latent is None else take.latent.shape for take in takes}
    return LATENTS if len(shapes) == 1 and None not in shapes else PIXELS


def squared_distance(takes: Sequence[Take]) -> tuple[float, str]:
    """Return the squared difference of two images, and what was compared. Raises Fault for different sizes."""
    one, other = takes
    basis = common_basis(takes)
    return _distance(one, other, basis), basis


def _distance(one: Take, other: Take, basis: str) -> float:
    if one.size != other.size:
        raise Fault("unavailable", f"The host returned images of different sizes: {one.size} and {other.size}.")
    if basis == PIXELS:
        return squared_difference(one.pixels, other.pixels)
    return squared_difference(one.latent, other.latent)


def _of_file(prompt: str, name: str, files: Any) -> Json:
    """Return the part of a request that is about the LoRA of an image."""
    return {"prompt": prompt, "loras": [name], **({"files": {name: files[name]}} if name in files else {})}


def _kept(made: GeneratedImage) -> Take:
    image = made.image.convert("RGB")
    return Take(png(image), image.size, made.latent)
