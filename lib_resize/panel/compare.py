"""The same picture with the original and with the resized LoRA, and how far apart they are."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..hosts.host import Host
from .faults import Fault
from .names import Notes, has_tag, replace_tags, tag, without_tags
from .pictures import Pictures
from .queue import Handle

SETTINGS: dict[str, tuple[type, ...]] = {
    "prompt": (str,),
    "negative_prompt": (str,),
    "seed": (int,),
    "steps": (int,),
    "cfg_scale": (int, float),
    "width": (int,),
    "height": (int,),
    "sampler_name": (str,),
    "scheduler": (str,),
}
"""What a page may set, and the types."""

Answer = dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """Two files to compare."""

    old: str
    new: str
    others: frozenset[str]
    """Further names in the prompt that stand for either: aliases, other versions."""
    notes: Notes

    @property
    def names(self) -> frozenset[str]:
        return self.others | {self.old, self.new}


def read_settings(values: Mapping[str, Any]) -> Answer:
    """Raises Fault for words and values that no host takes."""
    for name, value in values.items():
        kinds = SETTINGS.get(name)
        if kinds is None:
            raise Fault("request", f"settings: unknown {name!r}; known are {', '.join(SETTINGS)}.")
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise Fault("request", f"settings: {name} must be {' or '.join(kind.__name__ for kind in kinds)}.")
    found = {name: value for name, value in values.items() if value != ""}
    if found.get("seed", -1) < 0:
        found["seed"] = secrets.randbelow(2**32)
    return {"prompt": "", **found}


def prompts(pair: Pair, prompt: str) -> tuple[str, str, str]:
    """With the original, with the new file, and with neither."""
    if not has_tag(prompt, pair.names):
        words = ", ".join(part for part in (prompt.strip(), pair.notes.activation) if part)
        prompt = f"{words} {tag(pair.old, pair.notes.weight)}".strip()
    return (
        replace_tags(prompt, pair.names, pair.old),
        replace_tags(prompt, pair.names, pair.new),
        without_tags(prompt, pair.names),
    )


def compare(
    host: Host, pair: Pair, settings: Mapping[str, Any], without: bool, handle: Handle, pictures: Pictures
) -> Answer:
    """Two or three pictures by the host, and their distance. Raises Cancelled, and what the host raises."""
    texts = prompts(pair, settings["prompt"])
    wanted: dict[str, tuple[str, str | None]] = {"original": (texts[0], pair.old), "resized": (texts[1], pair.new)}
    if without:
        wanted["without"] = (texts[2], None)
    made: dict[str, Any] = {}
    handle.portion(0.0, 1.0)
    handle.start("image", len(wanted))
    for what, (prompt, name) in wanted.items():
        handle.wait_for_host()
        request = {**settings, "prompt": prompt, **({"loras": [name]} if name else {})}
        made[what] = host.generate(request).convert("RGB")
        handle.step()
    difference = _Difference(made["original"], made["resized"])
    effect = _Difference(made["original"], made["without"]).mean if without else None
    told = {what: {"name": name, "prompt": prompt} for what, (prompt, name) in wanted.items()}
    return {
        "original": told["original"],
        "resized": told["resized"],
        "without": told.get("without"),
        "pictures": pictures.keep({**made, "difference": difference.picture()}),
        "number": difference.mean,
        "largest": difference.largest,
        "effect": effect,
        "text": _text(difference.mean, effect),
        "seed": settings.get("seed"),
        "width": made["original"].width,
        "height": made["original"].height,
    }


def _text(number: float, effect: float | None) -> str:
    beside = "" if effect is None else f"; without the LoRA {effect:.3g}"
    return f"mean pixel difference {number:.3g} of 255{beside}"


class _Difference:
    """How far two pictures are apart: |a - b| of every pixel and colour, 0 to 255."""

    def __init__(self, one: Any, other: Any) -> None:
        import numpy as np

        if one.size != other.size:
            raise Fault("unavailable", f"The host made pictures of different sizes: {one.size} and {other.size}.")
        self._apart = np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16))
        self.mean = round(float(self._apart.mean()), 4)
        self.largest = int(self._apart.max(initial=0))

    def picture(self) -> Any:
        """Brightened, so that the largest difference is white."""
        import numpy as np
        from PIL import Image

        scaled = self._apart.astype(np.float32) * (255.0 / max(self.largest, 1))
        return Image.fromarray(scaled.round().astype(np.uint8), "RGB")
