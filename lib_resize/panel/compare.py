"""Render the same image with the original and with the resized LoRA, and measure their difference."""

from __future__ import annotations

from typing import Any

from ..hosts.host import Host
from .faults import Fault
from .images import Images
from .picturing.prompting import ComparedFiles
from .picturing.takes import Takes
from .protocol.types import Json
from .queue import Handle


def compare(host: Host, pair: ComparedFiles, settings: Json, without: bool, handle: Handle, images: Images) -> Json:
    """Render two or three images and measure their difference. Raises Cancelled, and what the host raises."""
    takes, seed = Takes(host, pair, settings), settings["seed"]
    handle.portion(0.0, 1.0)
    handle.start("image", 3 if without else 2)
    made = {
        "original": takes.original(seed, handle),
        "resized": takes.candidate(pair.new, pair.new, None, seed, handle),
        **({"without": takes.without(seed, handle)} if without else {}),
    }
    pictures = {what: take.picture() for what, take in made.items()}
    difference = _Difference(pictures["original"], pictures["resized"])
    effect = _Difference(pictures["original"], pictures["without"]).mean if without else None
    return {
        "original": {"name": pair.old, "prompt": takes.prompts.original},
        "resized": {"name": pair.new, "prompt": takes.prompts.of_file(pair.new)},
        "without": {"name": None, "prompt": takes.prompts.without} if without else None,
        "pictures": images.keep({**pictures, "difference": difference.image()}),
        "number": difference.mean,
        "largest": difference.largest,
        "effect": effect,
        "text": _text(difference.mean, effect),
        "seed": seed,
        "width": made["original"].size[0],
        "height": made["original"].size[1],
    }


def _text(number: float, effect: float | None) -> str:
    if effect is None:
        return f"mean pixel difference {number:.3g} of 255"
    return f"mean pixel difference {number:.3g} of 255; without the LoRA {effect:.3g}"


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
