"""The text encoders of a program that makes the images itself: what it encodes is recorded, and encoded again.

A text encoder is replayed by the program's own function from texts to conditioning, which knows about emphasis, long
texts and where its modules must be. A recorded call has the numbers of texts as its tensor, so that calls of text
encoders and of denoisers can be handled alike.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .calls import Call, leaves_of

Encode = Callable[[Any], Any]
"""Returns the conditioning of a list of texts, as the program needs it."""


@dataclass(frozen=True)
class TextCalls:
    """Calls of all text encoders together. It holds no reference to a model."""

    texts: Sequence[str]
    lists: Sequence[Any]
    """The lists of texts that the program encoded, with its attributes."""
    heard: Sequence[Call]
    """The recorded calls, with their outputs."""
    calls: Sequence[Call]
    """For the fit: each text of the images, and shorter ones."""
    held_out: Sequence[Call]
    """For the comparison: the texts of the images in another order of their words."""
    device: str = "cpu"
    """Where the program had the outputs, as torch names it."""

    def called_by(self, encode: Encode) -> TextsByNumber:
        """Return what is called with the arguments of these calls."""
        return TextsByNumber(encode, self.texts, self.lists)


@dataclass(frozen=True)
class TextsByNumber:
    """Encodes texts by their numbers. The result is one tensor, (texts, numbers), float32."""

    encode: Encode
    texts: Sequence[str]
    lists: Sequence[Any]

    def __call__(self, numbers: Tensor, like: int) -> Tensor:
        """Encode texts in a list with the attributes of the list number `like`.

        Raises ValueError where the conditioning cannot be compared, and what the program raises.
        """
        asked = copy.copy(self.lists[like])
        asked[:] = [self.texts[number] for number in numbers.tolist()]
        found = as_rows(self.encode(asked), len(asked))
        if found is None:
            raise ValueError(f"the conditioning of {len(asked)} texts has no tensor with so many rows")
        return found


def as_rows(conditioning: Any, texts: int) -> Tensor | None:
    """Return all numbers of a conditioning, a row for each text; None where they are not ordered by texts."""
    found = [leaf for leaf in leaves_of(conditioning) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not found or any(leaf.dim() < 2 or leaf.shape[0] != texts for leaf in found):
        return None
    return torch.cat([leaf.detach().to(found[0].device, torch.float32).flatten(1) for leaf in found], 1)


class TextRecorder:
    """Keeps what a program encodes."""

    def __init__(self) -> None:
        self._heard: list[tuple[Any, Tensor]] = []
        self._device = "cpu"

    def hear(self, texts: Any, conditioning: Any) -> None:
        """Keep one list of texts, and copies of its conditioning. Others than lists of texts are ignored."""
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            return
        rows = as_rows(conditioning, len(texts))
        if rows is not None:
            self._device = str(rows.device)
            self._heard.append((copy.copy(texts), rows.to("cpu", copy=True)))

    def calls(self) -> TextCalls | None:
        """Return the recorded calls, and those for the fit; None where no text was encoded."""
        used = self._used()
        if not used:
            return None
        fitted = {**_varied(used, shortened), **used}
        unseen = {text: like for text, like in _varied(used, reordered).items() if text not in fitted}
        lists = [texts for texts, _ in self._heard]
        texts = list(dict.fromkeys([*(text for one in lists for text in one), *fitted, *unseen]))
        number = {text: place for place, text in enumerate(texts)}
        heard = [_call([number[text] for text in one], like, rows) for like, (one, rows) in enumerate(self._heard)]
        calls, held_out = ([_call([number[text]], like) for text, like in group.items()] for group in (fitted, unseen))
        return TextCalls(texts, lists, heard, calls, held_out, self._device)

    def _used(self) -> dict[str, int]:
        """Return the texts that were encoded, but empty ones, with the number of their first list."""
        found: dict[str, int] = {}
        for like, (texts, _) in enumerate(self._heard):
            for text in filter(str.strip, texts):
                found.setdefault(text, like)
        return found


def _varied(texts: Mapping[str, int], change: Callable[[str], str]) -> dict[str, int]:
    return {found: like for text, like in texts.items() if (found := change(text)).strip()}


def _call(numbers: Sequence[int], like: int, output: Tensor | None = None) -> Call:
    return Call((torch.tensor(numbers),), {"like": like}, len(numbers), output)


# Other texts with the same words ----------------------------------------------------------------------------------

_OPEN, _CLOSED = "([{<", ")]}>"


def shortened(prompt: str) -> str:
    """Return a prompt without what follows its last comma outside of brackets."""
    return ",".join(_pieces(prompt, ",")[:-1])


def reordered(prompt: str) -> str:
    """Return the words of a prompt in reverse order; where that changes nothing, a longer text.

    What is in brackets is one word, because brackets have a meaning in prompts.
    """
    found = " ".join(word for word in reversed(_pieces(prompt, " \t\n")) if word)
    return found if found != prompt.strip() else f"a photo of {found}"


def _pieces(text: str, ends: str) -> list[str]:
    """Split a text at characters outside of brackets. A backslash makes a bracket part of the text."""
    found, depth, escaped = [""], 0, False
    for letter in text:
        if letter in ends and not depth:
            found.append("")
        else:
            found[-1] += letter
        if not escaped:
            depth = max(0, depth + (letter in _OPEN) - (letter in _CLOSED))
        escaped = letter == "\\" and not escaped
    return found
