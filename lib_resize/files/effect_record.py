"""What a file's record says of a comparison of images: how much of the LoRA's effect the file keeps."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

_DIGITS = 4


@dataclass(frozen=True)
class EffectRecord:
    """A figure, and the images that it was measured on. The prompts themselves are not kept."""

    kept: float
    """Share of the LoRA's effect over all images, at most 1; see `effect.figures`."""
    worst: float
    """The same of the image that is farthest from the original."""
    seeds: int
    """Number of images."""
    sampler: str | None
    """None: the host's default."""
    steps: int | None
    """None: the host's default."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    basis: str
    """What was compared: ``latents`` or ``pixels``."""
    prompt: str
    """A short hash of prompt and negative prompt; see `metadata.prompt_hash`."""

    def as_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return {**asdict(self), "kept": round(self.kept, _DIGITS), "worst": round(self.worst, _DIGITS)}
