"""Let the panel work with the model around an image. torch is imported inside of functions only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from .guard import host_module, read
from .host import ImageWatch, LivePart

T = TypeVar("T")

UNET = "unet"
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")


@dataclass(frozen=True)
class WatchedModel:
    """A watch, and how the host gives access to its model. Call `around` under the lock, in the image thread."""

    watch: ImageWatch
    parts: Callable[[], Sequence[LivePart]]
    """Returns the parts of the model in memory; none where it has none yet."""
    at_work: Callable[[int], AbstractContextManager[None]]
    """Called with bytes: makes the model ready to be called, with so much free memory."""

    def around(self, make: Callable[[], T]) -> T:
        """Return what `make` returns: an image. Raises what it and the watch raise."""
        undo = self.watch.before(self.parts())
        try:
            made = make()
        finally:
            undo()
        with self.at_work(self.watch.bytes):
            self.watch.after(self.parts())
        return made


@contextmanager
def torch_as_in_images() -> Iterator[None]:
    """Compute without gradients, and with A1111's automatic casts, as its samplers do."""
    import torch

    casts: Any = read(host_module("modules.devices"), "autocast")
    with torch.no_grad():
        if not callable(casts):
            yield
        else:
            with casts():
                yield
