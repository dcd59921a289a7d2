"""The fit of a LoRA to images of the host."""

from __future__ import annotations

from ...hosts.host import LoraFile
from ..desk import Desk
from ..fitting import HostFit
from ..protocol.types import Json
from ..snapshot import Snapshot
from .originals import original_pair


def with_prompt(fit: Json, settings: Json) -> Json:
    """Return a checked `Fit` of the protocol with other settings of images, and its own seed."""
    return {**fit, "settings": {**settings, "seed": fit["settings"]["seed"]}}


def refine_for(desk: Desk, lora: LoraFile, source: LoraFile, fit: Json, lists: Snapshot) -> HostFit:
    """Return the fit of a LoRA with a checked `Fit` of the protocol; its images are made when the first file is fitted.

    `source` is what is resized: the same file, or its original in the archive.
    """
    return desk.fits.of(desk.host, original_pair(desk, lora, source, lists), fit, source.path)
