"""Render the same image with the original and with the resized LoRA, and measure their difference."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..hosts.host import Host
from .faults import Fault
from .images import Images
from .names import Notes, has_tag, replace_tags, tag, without_tags
from .protocol.objects import IMAGE_SETTINGS
from .protocol.types import Json, read_object
from .queue import Handle


@dataclass(frozen=True)
class ComparedFiles:
    """The original and the new file, and how prompts refer to them."""

    old: str
    new: str
    others: frozenset[str]
    """Further names in the prompt that stand for either: aliases, other versions."""
    notes: Notes
    files: Mapping[str, Path] = field(default_factory=dict)
    """Names that are not in the list, and their files, which the host knows for one image."""

    @property
    def names(self) -> frozenset[str]:
        return self.others | {self.old, self.new}


def read_settings(values: Mapping[str, Any]) -> Json:
    """Return the settings that were given, with a seed. Raises Fault for settings and values that no host accepts."""
    checked = read_object(dict(values), IMAGE_SETTINGS.fields, "settings")
    found = {name: value for name, value in checked.items() if value not in (None, "")}
    if found.get("seed", -1) < 0:
        found["seed"] = secrets.randbelow(2**32)
    return {"prompt": "", **found}


def prompts(pair: ComparedFiles, prompt: str) -> tuple[str, str, str]:
    """Return the prompt with the original, with the new file, and with neither."""
    if not has_tag(prompt, pair.names):
        words = ", ".join(part for part in (prompt.strip(), pair.notes.activation) if part)
        prompt = f"{words} {tag(pair.old, pair.notes.weight)}".strip()
    return (
        replace_tags(prompt, pair.names, pair.old),
        replace_tags(prompt, pair.names, pair.new),
        without_tags(prompt, pair.names),
    )


def compare(
    host: Host, pair: ComparedFiles, settings: Mapping[str, Any], without: bool, handle: Handle, images: Images
) -> Json:
    """Render two or three images and measure their difference. Raises Cancelled, and what the host raises."""
    texts = prompts(pair, settings["prompt"])
    wanted: dict[str, tuple[str, str | None]] = {"original": (texts[0], pair.old), "resized": (texts[1], pair.new)}
    if without:
        wanted["without"] = (texts[2], None)
    made: dict[str, Any] = {}
    handle.portion(0.0, 1.0)
    handle.start("image", len(wanted))
    for what, (prompt, name) in wanted.items():
        handle.wait_for_host()
        request = {**settings, "prompt": prompt, **_used(pair, name)}
        made[what] = host.generate(request).convert("RGB")
        handle.step()
    difference = _Difference(made["original"], made["resized"])
    effect = _Difference(made["original"], made["without"]).mean if without else None
    compared = {what: {"name": name, "prompt": prompt} for what, (prompt, name) in wanted.items()}
    return {
        "original": compared["original"],
        "resized": compared["resized"],
        "without": compared.get("without"),
        "pictures": images.keep({**made, "difference": difference.image()}),
        "number": difference.mean,
        "largest": difference.largest,
        "effect": effect,
        "text": _text(difference.mean, effect),
        "seed": settings.get("seed"),
        "width": made["original"].width,
        "height": made["original"].height,
    }


def _used(pair: ComparedFiles, name: str | None) -> Json:
    """Return the part of a request that is about the LoRA of an image."""
    if name is None:
        return {}
    return {"loras": [name], **({"files": {name: pair.files[name]}} if name in pair.files else {})}


def _text(number: float, effect: float | None) -> str:
    baseline = "" if effect is None else f"; without the LoRA {effect:.3g}"
    return f"mean pixel difference {number:.3g} of 255{baseline}"


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
