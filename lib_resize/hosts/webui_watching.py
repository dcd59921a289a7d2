"""Let the panel work with the model around an image. torch is imported inside of functions only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from .guard import host_module, read
from .host import ImageWatch, LivePart

T = TypeVar("T")


class LiveModel(Protocol):
    """The modules of a host's loaded model. Use it under the lock, in the image thread."""

    def parts(self) -> Sequence[LivePart]:
        """Return the parts of the model in memory, the denoiser first; none where there is none yet."""
        ...

    def at_work(self) -> AbstractContextManager[None]:
        """Return the host's contexts of torch, for calls of the model after an image."""
        ...


@dataclass(frozen=True)
class WatchedModel:
    """A watch, and the model that it watches. Call `around` under the lock, in the image thread."""

    watch: ImageWatch
    live: LiveModel

    def around(self, make: Callable[[], T]) -> T:
        """Return what `make` returns: an image. Raises what it and the watch raise."""
        undo = self.watch.before(self.live.parts())
        try:
            made = make()
        finally:
            undo()
        with self.live.at_work():
            self.watch.after(self.live.parts())
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
