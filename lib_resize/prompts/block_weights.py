"""Block weights: a strength for each block of a UNet, as the extension LoRA Block Weight reads them in ``lbw=``."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

BASE, MID = "BASE", "MID"
TAIL = frozenset({"TIME", "LABEL", "OUT", "OTHER"})
"""Parts of the UNet outside of its numbered blocks."""
LARGEST = 1e6
"""The largest strength or weight."""


def _numbered(word: str, *numbers: int) -> tuple[str, ...]:
    return tuple(f"{word}{number:02d}" for number in numbers)


_SD1_ATTENTION = (*_numbered("IN", 1, 2, 4, 5, 7, 8), MID, *_numbered("OUT", *range(3, 12)))
BLOCK_NAMES: dict[int, tuple[str, ...]] = {
    12: (BASE, *_numbered("IN", 4, 5, 7, 8), MID, *_numbered("OUT", *range(6))),
    17: (BASE, *_SD1_ATTENTION),
    20: (BASE, *_numbered("IN", *range(9)), MID, *_numbered("OUT", *range(9))),
    26: (BASE, *_numbered("IN", *range(12)), MID, *_numbered("OUT", *range(12))),
}
"""Length of a list of weights -> the blocks that it names: LoRA of SDXL, LoRA of SD1.5, LoCon of SDXL, LoCon of SD1.5.
BASE is the text encoders."""

_FLUX = 61  # weights in a list for Flux, which is read but cannot be baked

Presets = Mapping[str, tuple[float | str, ...]]
"""Name -> weights, or letters in place of weights."""


def _preset(*on: str) -> tuple[float, ...]:
    return tuple(float(name in on) for name in BLOCK_NAMES[17])


_OUT = _SD1_ATTENTION[7:]
BLOCK_PRESETS: dict[str, tuple[float, ...]] = {
    "NONE": _preset(),
    "ALL": (1.0,) * 17,
    "INS": _preset(BASE, *_SD1_ATTENTION[:3]),
    "IND": _preset(BASE, *_SD1_ATTENTION[3:6]),
    "INALL": _preset(BASE, *_SD1_ATTENTION[:6]),
    "MIDD": _preset(BASE, *_SD1_ATTENTION[3:6], MID, *_OUT[:4]),
    "OUTD": _preset(BASE, *_OUT[:4]),
    "OUTS": _preset(BASE, *_OUT[4:]),
    "OUTALL": _preset(BASE, *_OUT),
    "ALL0.5": (0.5,) * 17,
}
"""The presets of LoRA Block Weight itself; `read_presets` reads a person's own."""

_LETTER = re.compile(r"R|U|X([+-][0-9.]+)?")


@dataclass(frozen=True)
class Blocks:
    """Weights by block."""

    preset: str = ""
    """Name of a preset, known or not."""
    weights: tuple[float | str, ...] = ()
    """Numbers, or letters that the extension fills in for each image; empty for an unknown preset."""

    @property
    def error(self) -> str:
        """Return why they cannot be baked; empty where they can."""
        if not self.weights:
            return (
                f"the preset lbw={self.preset} is not known (known presets: {', '.join(BLOCK_PRESETS)}); write its "
                f"weights as numbers, or name the file of your presets with --lbw-presets"
            )
        if len(self.weights) not in BLOCK_NAMES:
            known = ", ".join(map(str, BLOCK_NAMES))
            return f"lbw={self.preset} has {len(self.weights)} weights; only lists of {known} can be baked"
        letters = [weight for weight in self.weights if isinstance(weight, str)]
        if letters and not _LETTER.fullmatch(letters[0]):
            return f"lbw={self.preset} has {letters[0]!r}, which is not a weight"
        return f"lbw= has {letters[0]}, which is another number for each image" if letters else ""

    def weight(self, block: str) -> float:
        """Return the weight of one block: ``TE1``, ``IN04``, ``TIME`` and so on.

        As in the extension, it is 0 for a numbered block that the list omits, and 1 for parts of the UNet without a
        number.
        """
        if block in TAIL:
            return 1.0
        found = dict(zip(BLOCK_NAMES[len(self.weights)], self.weights, strict=True))
        return float(found.get(BASE if block.startswith("TE") else block, 0.0))

    def __str__(self) -> str:
        return self.preset or ",".join(w if isinstance(w, str) else number_text(w) for w in self.weights)


def parse_blocks(text: str, presets: Presets) -> Blocks:
    """Parse the value of ``lbw=``, a preset or a list. Raises ValueError with a message for the user."""
    if not text:
        raise ValueError("lbw= is empty; expected a preset or numbers")
    if "," not in text:
        return Blocks(text, tuple(presets.get(text, ())))
    items = text.split(",")
    if len(items) not in (*BLOCK_NAMES, _FLUX):
        raise ValueError(
            f"lbw= has {len(items)} weights; expected 12 (LoRA of SDXL), 17 (LoRA of SD1.5), 20 (LoCon of SDXL) "
            f"or 26 (LoCon of SD1.5)"
        )
    return Blocks("", tuple(_weight_or_letter(item.strip()) for item in items))


def looks_like_blocks(text: str, presets: Presets) -> bool:
    """Return whether a text is a preset or a list of block weights, rather than a strength."""
    plain = text.strip()
    return plain in presets or ("@" not in plain and "~" not in plain and plain.count(",") >= min(BLOCK_NAMES) - 1)


def _weight_or_letter(text: str) -> float | str:
    return text if _LETTER.fullmatch(text) else parse_number(text)


# A person's presets -------------------------------------------------------------------------------------------


def read_presets(text: str) -> Presets:
    """Read a person's presets, one ``NAME:1,0,…`` a line, in the format of LoRA Block Weight.

    The extension's own presets are included, unless the text redefines them. Other lines are ignored.
    """
    named = (line.partition(":") for line in text.splitlines() if not line.lstrip().startswith("#"))
    own = {name.strip(): weights.partition(":")[0] for name, colon, weights in named if colon and "," in weights}
    return {**BLOCK_PRESETS, **{name: tuple(map(_weight_of, text.split(","))) for name, text in own.items()}}


def _weight_of(text: str) -> float | str:
    """Return a weight, or the text where it is not a number."""
    with contextlib.suppress(ValueError):
        return parse_number(text)
    return text.strip()


# Numbers ------------------------------------------------------------------------------------------------------


def parse_number(text: str) -> float:
    """Parse a strength or weight. Raises ValueError with a message for the user."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or abs(value) > LARGEST:
        raise ValueError(f"{text.strip()!r} is not a strength; expected a number such as 0.8")
    return value + 0.0  # no -0


def number_text(value: float) -> str:
    """Return the shortest text that is read as this number: 1, 0.8, -0.25."""
    return repr(float(value)).removesuffix(".0")
