"""The final latents of an image, from the WebUI's own class of a generation."""

from __future__ import annotations

from typing import Any

from .guard import attempt

_AXES = 4  # images, channels, height, width


def keeping_latents(processing: Any) -> Any:
    """Return a class that generates as the host's own does, and keeps what its sampler returned in `kept_latent`.

    Anything else than a class, such as an extension's function in its place, is returned unchanged.
    """
    if not isinstance(processing, type):
        return processing
    own: Any = processing

    class KeepingLatents(own):  # type: ignore[misc]
        kept_latent: Any = None

        def sample(self, *args: Any, **kwargs: Any) -> Any:
            self.kept_latent = None
            sampled = super().sample(*args, **kwargs)
            self.kept_latent = attempt("the latents of images", lambda: plain_latent(sampled), None)
            return sampled

    return KeepingLatents


def plain_latent(sampled: Any) -> Any | None:
    """Return the latents of one image as a numpy array of our own; None for anything else, such as decoded images."""
    import numpy as np
    import torch

    if not isinstance(sampled, torch.Tensor) or sampled.dim() != _AXES or len(sampled) != 1:
        return None
    latent = np.array(sampled[0].detach().float().cpu().numpy(), np.float32)
    return latent if np.isfinite(latent).all() else None
