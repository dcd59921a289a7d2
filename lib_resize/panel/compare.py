"""Render the same image with the original and with the resized LoRA, and measure their difference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..effect.figures import EffectFigure
from ..files.effect_record import EffectRecord
from ..hosts.host import Host
from ..shown import shown_share
from .faults import Fault
from .images import Images
from .picturing.prompting import ComparedFiles, seeds_from
from .picturing.takes import Takes
from .protocol.types import Json
from .queue import Handle

_NO_EFFECT = (
    "The image without the LoRA equals the original: the LoRA has no effect on this prompt, or the WebUI did not "
    "apply it. Try another prompt."
)
_WEAK = (
    "This prompt hardly shows the LoRA: without it, the image changes little more than between two images of the same "
    "seed. Try another prompt."
)


@dataclass(frozen=True)
class Compared:
    """What a comparison found."""

    answer: Json
    """The `Comparison` of the protocol."""
    record: EffectRecord | None
    """What is kept of its figure; None without a figure."""


@dataclass(frozen=True)
class Wish:
    """The images to compare."""

    settings: Json
    """See `picturing.prompting.read_settings`."""
    without: bool
    """Whether to render without the LoRA too, which a figure needs."""
    seeds: int = 1

    @property
    def all_seeds(self) -> list[int]:
        """The seeds of the images; without a figure there is one."""
        return seeds_from(self.settings["seed"], self.seeds if self.without else 1)


def compare(host: Host, pair: ComparedFiles, wish: Wish, handle: Handle, images: Images) -> Compared:
    """Render images of each seed and measure their difference. Raises Cancelled, and what the host raises."""
    takes, seeds = Takes(host, pair, wish.settings), wish.all_seeds
    handle.portion(0.0, 1.0)
    handle.start("image", takes.missing(pair.new, seeds) if wish.without else 2)
    figure = takes.figure(pair.new, pair.new, None, seeds, handle) if wish.without else None
    made = {
        "original": takes.original(seeds[0], handle),
        "resized": takes.candidate(pair.new, pair.new, None, seeds[0], handle),
        **({"without": takes.without(seeds[0], handle)} if wish.without else {}),
    }
    answer = {
        "original": {"name": pair.old, "prompt": takes.prompts.original},
        "resized": {"name": pair.new, "prompt": takes.prompts.of_file(pair.new)},
        "without": {"name": None, "prompt": takes.prompts.without} if wish.without else None,
        **_pixels({what: take.picture() for what, take in made.items()}, images),
        **_figure_json(figure),
        "seeds": seeds,
        "note": "",
        "seed": seeds[0],
        "width": made["original"].size[0],
        "height": made["original"].size[1],
    }
    answer["text"] = _text(answer) if figure is None else figure_text(figure)
    return Compared(answer, None if figure is None else takes.record(figure))


def _pixels(pictures: Mapping[str, Any], images: Images) -> Json:
    """Keep the images of one seed, and return the part of a `Comparison` that is about their pixels."""
    difference = _Difference(pictures["original"], pictures["resized"])
    without = pictures.get("without")
    return {
        "pictures": images.keep({**pictures, "difference": difference.image()}),
        "number": difference.mean,
        "largest": difference.largest,
        "effect": None if without is None else _Difference(pictures["original"], without).mean,
    }


def _figure_json(figure: EffectFigure | None) -> Json:
    if figure is None:
        return {"kept": None, "worst": None, "noise": None, "basis": None, "weak": False}
    return {
        "kept": figure.kept,
        "worst": figure.worst,
        "noise": figure.noise,
        "basis": figure.basis,
        "weak": figure.kept is None,
    }


def figure_text(figure: EffectFigure) -> str:
    """Return a figure as a sentence."""
    if figure.effect <= 0.0:
        return _NO_EFFECT
    if figure.kept is None or figure.worst is None:
        return _WEAK
    kept, worst = shown_share(figure.kept), shown_share(figure.worst)
    if len(figure.seeds) == 1:
        return f"keeps {kept} of the LoRA's effect"
    return f"keeps {kept} of the LoRA's effect (worst image {worst})"


def _text(answer: Json) -> str:
    return f"mean pixel difference {answer['number']:.3g} of 255"


class _Difference:
    """The absolute difference of two images, for every pixel and colour, 0 to 255."""

    def __init__(self, one: Any, other: Any) -> None:
        import numpy as np

        if one.size != other.size:
            raise Fault("unavailable", f"The host returned images of different sizes: {one.size} and {other.size}.")
        self._distance = np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16))
        self.mean = round(float(self._distance.mean()), 4)
        self.largest = int(self._distance.max(initial=0))

    def image(self) -> Any:
        """Return the difference as an image, scaled so that the largest difference is white."""
        import numpy as np
        from PIL import Image

        scaled = self._distance.astype(np.float32) * (255.0 / max(self.largest, 1))
        return Image.fromarray(scaled.round().astype(np.uint8), "RGB")
