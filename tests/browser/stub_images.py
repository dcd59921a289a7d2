"""Comparisons of images, as the stub of the service answers them."""

# ruff: noqa: E501 (figures in rows)
from __future__ import annotations

import time
from typing import Any

PICTURES = {"original": 20, "resized": 60, "without": 200, "difference": 5}
KEPT, WORST = 0.978, 0.961
WEAK = (
    "The image without the LoRA equals the original: the LoRA has no effect on this prompt, or the WebUI did not "
    "apply it. Try another prompt."
)


def images_of(without: bool, seeds: int) -> int:
    """The number of images of a comparison."""
    return 3 * seeds + 1 if without else 2


def effect_record(seeds: int) -> dict[str, Any]:
    worst = WORST if seeds > 1 else KEPT
    return {
        "kept": KEPT, "worst": worst, "seeds": seeds, "sampler": "Euler a", "steps": 20, "width": 64, "height": 64,
        "basis": "latents", "prompt": "0123456789abcdef", "made": time.time(),
    }  # fmt: skip


FILE_EFFECT = {name: value for name, value in effect_record(4).items() if name != "made"}
FIT = {
    "images": 4, "steps": 4, "prompt": "0123456789abcdef", "layers": 771,
    "errors": [{"model": "unet", "plain": 0.357, "fitted": 0.241}],
}  # fmt: skip
"""Records in a file, as `details` shows them."""


def comparison(without: bool, seeds: int, effect: dict[str, Any] | None, seed: int, note: str = "") -> dict[str, Any]:
    """A `Comparison` of the protocol; `effect` is its figure, None for a weak prompt."""
    shown = [what for what in PICTURES if without or what != "without"]
    return {
        "original": {"name": "pastry-sdxl", "prompt": ""}, "resized": {"name": "pastry-sdxl_46mb", "prompt": ""},
        "without": {"name": None, "prompt": ""} if without else None,
        "pictures": [{"id": what, "what": what, "width": 64, "height": 64} for what in shown],
        "number": 1.8, "largest": 40, "effect": 34.2 if without else None, "width": 64, "height": 64,
        "kept": effect and effect["kept"], "worst": effect and effect["worst"], "weak": without and effect is None,
        "noise": 0.0 if without else None, "basis": "latents" if without else None,
        "seed": seed, "seeds": list(range(seed, seed + (seeds if without else 1))), "text": _text(without, seeds, effect),
        "note": note,
    }  # fmt: skip


def _text(without: bool, seeds: int, effect: dict[str, Any] | None) -> str:
    if not without:
        return "mean pixel difference 1.8 of 255"
    if effect is None:
        return WEAK
    return "keeps 97.8 % of the LoRA's effect" + (" (worst image 96.1 %)" if seeds > 1 else "")
