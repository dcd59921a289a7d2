"""The text encoders of WebUIs: the method that encodes texts, and what is listened to in it.

All WebUIs encode texts with one method of their model. It moves the encoders to the device, applies the LoRAs of the
image, and knows about emphasis and long texts. Nothing of the host is imported here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .guard import read
from .webui_caches import forget_prompts

_METHOD = "get_learned_conditioning"


@dataclass(frozen=True)
class LearnedConditioning:
    """The method of one model. See `host.TextRoute`."""

    model: Any

    def encode(self, texts: Any) -> Any:
        """Return what the host's method returns."""
        return getattr(self.model, _METHOD)(texts)

    def listen(self, heard: Callable[[Any, Any], None]) -> Callable[[], None]:
        """Replace the method on the model, not on its class, until the returned function is called."""
        model, encode = self.model, getattr(self.model, _METHOD)
        before = vars(model).get(_METHOD)
        listening = True

        def encode_and_report(*args: Any, **kwargs: Any) -> Any:
            found = encode(*args, **kwargs)
            if listening and args:
                heard(args[0], found)
            return found

        def end() -> None:
            nonlocal listening
            listening = False
            if vars(model).get(_METHOD) is encode_and_report:  # otherwise an extension has replaced it since
                if before is None:
                    delattr(model, _METHOD)
                else:
                    setattr(model, _METHOD, before)

        forget_prompts()
        setattr(model, _METHOD, encode_and_report)
        return end


def text_route(model: Any) -> LearnedConditioning | None:
    """Return how a model encodes texts; None where it has no such method."""
    return LearnedConditioning(model) if callable(read(model, _METHOD)) else None
