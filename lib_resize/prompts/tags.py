"""The LoRA tags of a prompt, as text and as data.

``<lora:name:0.8>`` is all that most prompts hold. What else hosts and their extensions read, and who reads it, is told
in docs/prompts.md::

    <lora:name:te:unet:dyn>                  A1111, Forge: strengths of text encoder and UNet, first ranks
    <lora:name:te=0.5:unet=1.5:dyn=8>        the same by name; SD.Next too
    <lora:name:1:in=0:mid=1:out=0.5>         SD.Next: the UNet's three parts
    <lora:name:1:lbw=OUTALL>                 LoRA Block Weight: a preset, or 12, 17, 20 or 26 numbers
    <lora:name:0.1@1,0.6@6>                  SD.Next, loractl: a strength for each step
    [<lora:name:1>:10]                       prompt editing around a tag

A strength that changes between steps is read, and told apart: no file can hold it. Text alone is looked at here; no
file is opened and no library loaded. A text that is no tag (``<hypernet:x:1>``, ``a < b``) stays text.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import PromptError

KINDS = ("lora", "lyco")

BASE, MID = "BASE", "MID"
TAIL = frozenset({"TIME", "LABEL", "OUT", "OTHER"})
"""Parts of the UNet outside of its numbered blocks."""


def _numbered(word: str, *numbers: int) -> tuple[str, ...]:
    return tuple(f"{word}{number:02d}" for number in numbers)


_SD1_ATTENTION = (*_numbered("IN", 1, 2, 4, 5, 7, 8), MID, *_numbered("OUT", *range(3, 12)))
BLOCK_NAMES: dict[int, tuple[str, ...]] = {
    12: (BASE, *_numbered("IN", 4, 5, 7, 8), MID, *_numbered("OUT", *range(6))),
    17: (BASE, *_SD1_ATTENTION),
    20: (BASE, *_numbered("IN", *range(9)), MID, *_numbered("OUT", *range(9))),
    26: (BASE, *_numbered("IN", *range(12)), MID, *_numbered("OUT", *range(12))),
}
"""How many weights a list has -> the blocks that they are for: LoRA of SDXL, LoRA of SD1.5, LoCon of SDXL, LoCon of
SD1.5. BASE is the text encoders."""


_FLUX = 61  # weights of a list for Flux, which we read and do not bake

Presets = Mapping[str, tuple[float | str, ...]]
"""Name -> weights, or letters that stand for weights."""


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
"""What the extension LoRA Block Weight brings; a person may have others, see `read_presets`."""

_LETTER = re.compile(r"R|U|X([+-][0-9.]+)?")
_TIMED = ("start", "stop", "step")
_HIRES = ("hr", "hrte", "hrunet")
_STRENGTHS = ("te", "unet", "in", "mid", "out")


@dataclass(frozen=True)
class Schedule:
    """A strength that changes between steps."""

    points: tuple[tuple[float, float | None], ...]
    """Strength, and the step (or share of all steps) at which it holds; None: at the end."""

    @property
    def constant(self) -> float | None:
        """The one strength of a schedule that never changes it."""
        strengths = {strength for strength, _ in self.points}
        return strengths.pop() if len(strengths) == 1 else None

    def __str__(self) -> str:
        return ",".join(f"{_number(w)}@{_number(1.0 if at is None else at)}" for w, at in self.points)


Strength = float | Schedule


@dataclass(frozen=True)
class Blocks:
    """Weights by block."""

    preset: str = ""
    """Name of a preset, known or not."""
    weights: tuple[float | str, ...] = ()
    """Numbers, or letters that the extension fills in at each picture; empty for a preset that we do not know."""

    @property
    def trouble(self) -> str:
        """Why they cannot be baked; empty where they can."""
        if not self.weights:
            known = ", ".join(BLOCK_PRESETS)
            return (
                f"lbw={self.preset} is a preset that is not known here (known are {known}); write its numbers out, or "
                f"name the file of your presets by --lbw-presets"
            )
        if len(self.weights) not in BLOCK_NAMES:
            known = ", ".join(map(str, BLOCK_NAMES))
            return f"lbw={self.preset} has {len(self.weights)} weights; lists of {known} can be baked"
        letters = [weight for weight in self.weights if isinstance(weight, str)]
        if letters and not _LETTER.fullmatch(letters[0]):
            return f"lbw={self.preset} has {letters[0]!r}, which is no weight"
        return f"lbw= has {letters[0]}, which is another number at each picture" if letters else ""

    def weight(self, block: str) -> float:
        """Of one block, ``TE1``, ``IN04``, ``TIME`` and so on: 0 for a numbered block that the list leaves out, 1 for
        parts of the UNet that have no number (as the extension does)."""
        if block in TAIL:
            return 1.0
        found = dict(zip(BLOCK_NAMES[len(self.weights)], self.weights, strict=True))
        return float(found.get(BASE if block.startswith("TE") else block, 0.0))

    def __str__(self) -> str:
        return self.preset or ",".join(w if isinstance(w, str) else _number(w) for w in self.weights)


@dataclass(frozen=True)
class Tag:
    """One LoRA of a prompt, and how strong it is where."""

    name: str
    kind: str = "lora"
    te: Strength = 1.0
    unet: Strength = 1.0
    parts: tuple[tuple[str, Strength], ...] = ()
    """``in``, ``mid``, ``out``, as far as they are given, in this order."""
    dyn: int | None = None
    """Only so many ranks, the first."""
    blocks: Blocks | None = None
    others: tuple[tuple[str, str], ...] = ()
    """Options that change the strength over time, and those that nobody knows."""
    schedule: str = ""
    """The bracket around it that turns it on and off, in words; empty where there is none."""
    column: int = field(default=0, compare=False)
    """Where it begins, counted from 1."""
    length: int = field(default=0, compare=False)

    @property
    def strengths(self) -> str:
        """All that follows the name, in a fixed order."""
        alike = self.te == self.unet
        items = [str_of(self.te)] if alike else [f"te={str_of(self.te)}", f"unet={str_of(self.unet)}"]
        items += [f"{part}={str_of(strength)}" for part, strength in self.parts]
        items += [] if self.dyn is None else [f"dyn={self.dyn}"]
        items += [] if self.blocks is None else [f"lbw={self.blocks}"]
        return ":".join([*items, *(f"{name}={text}" for name, text in self.others)])

    def __str__(self) -> str:
        return f"<{self.kind}:{self.name}:{self.strengths}>"

    @property
    def is_plain(self) -> bool:
        """Whether it is the whole file at its own strength."""
        return self == Tag(self.name, self.kind, column=self.column)

    @property
    def by_block(self) -> bool:
        """Whether parts of the UNet have strengths of their own."""
        return bool(self.parts) or self.blocks is not None

    @property
    def troubles(self) -> tuple[str, ...]:
        """Why it cannot be baked into a file; empty where it can."""
        return tuple(_troubles(self))

    @property
    def remarks(self) -> tuple[str, ...]:
        """What should be known of it, though it can be baked."""
        return tuple(_remarks(self))

    def gain(self, block: str) -> float:
        """What the delta of a layer in this block (``TE1``, ``IN04``, ``MID``, ``TIME``, …) is multiplied by.

        SD.Next counts all of the UNet outside of the middle and the output blocks as ``in``.
        """
        strength = self.te if block.startswith("TE") else dict(self.parts).get(_part_of(block), self.unet)
        share = 1.0 if self.blocks is None else self.blocks.weight(block)
        return share * _constant(strength)


def _part_of(block: str) -> str:
    if block == MID:
        return "mid"
    return "out" if block.startswith("OUT") and block not in TAIL else "in"


def _constant(strength: Strength) -> float:
    value = strength.constant if isinstance(strength, Schedule) else strength
    if value is None:
        raise ValueError("a schedule has no strength of its own; ask for the troubles first")
    return value


def _troubles(tag: Tag) -> Iterator[str]:
    for name, strength in (("te", tag.te), ("unet", tag.unet), *tag.parts):
        if isinstance(strength, Schedule) and strength.constant is None and not (name == "te" and tag.te == tag.unet):
            word = "its strength" if tag.te == tag.unet == strength else f"{name}="
            yield f"{word} changes between steps ({strength}), and a file has one strength for all of them"
    for name, text in tag.others:
        if name in _TIMED:
            yield f"{name}={text} turns it on or off between steps, and a file is on for all of them"
        elif name in _HIRES:
            yield f"{name}={text} gives the second pass a strength of its own, and a file has one for both"
        elif name == "lbwe":
            yield f"lbwe={text} weighs single elements by a list of your own; it is not read here"
    if tag.blocks is not None and tag.blocks.trouble:
        yield tag.blocks.trouble
    if tag.schedule:
        yield f"it stands in {tag.schedule}, and a file is on for all steps and pictures"


def _remarks(tag: Tag) -> Iterator[str]:
    known = (*_TIMED, *_HIRES, "lbwe")
    for name, text in tag.others:
        if name not in known:
            yield f"{name}={text} is read by no host that we know; it is left out"
    if tag.parts:
        yield "in=, mid= and out= are baked as SD.Next reads them; A1111 and Forge ignore them"
    if tag.dyn is not None:
        yield f"dyn={tag.dyn} is baked as A1111 reads it; Forge ignores it"


@dataclass(frozen=True)
class Prompt:
    """A prompt, parted into texts and tags."""

    pieces: tuple[str | Tag, ...]

    @property
    def tags(self) -> tuple[Tag, ...]:
        """All tags, in order."""
        return tuple(piece for piece in self.pieces if isinstance(piece, Tag))

    def __str__(self) -> str:
        return "".join(map(str, self.pieces))


def replaced(text: str, gone: Collection[Tag], new: str, presets: Presets = BLOCK_PRESETS) -> str:
    """A prompt with `new` where the first of the tags `gone` stood, and without the others; all else as it was.

    Raises PromptError where the prompt cannot be read.
    """
    made, after_cut = "", False
    for piece, source in _sources(text, presets):
        if piece not in gone:
            made = _joined(made, source) if after_cut else made + source
            after_cut = False
        elif new:
            made, new, after_cut = made + new, "", False
        else:
            after_cut = True
    return made


def _sources(text: str, presets: Presets) -> Iterator[tuple[str | Tag, str]]:
    """Each piece of a prompt, and how it is written."""
    at = 0
    for piece in parse_prompt(text, presets).pieces:
        length = piece.length if isinstance(piece, Tag) else len(piece)
        yield piece, text[at : at + length]
        at += length


def _joined(before: str, after: str) -> str:
    """Two texts between which a tag was, without its comma or space."""
    if re.search(r"(,\s*|^\s*)$", before) and (comma := re.match(r"\s*,[ \t]*", after)):
        return before + after[comma.end() :]
    return before[:-1] + after if before[-1:] == " " and after[:1] in (" ", ",") else before + after


def check_bakeable(tags: Sequence[Tag]) -> None:
    """Raises PromptError, with all reasons, where one of the tags cannot be a part of a file."""
    faults = [(tag, trouble) for tag in tags for trouble in tag.troubles]
    if faults:
        told = "; ".join(f"column {tag.column}, <{tag.kind}:{tag.name}>: {trouble}" for tag, trouble in faults)
        error = PromptError(f"the prompt cannot be baked: {told}. Give a fixed strength, or leave the tag out.")
        error.column = faults[0][0].column
        raise error


# Reading ------------------------------------------------------------------------------------------------------

_TAG = re.compile(r"<(lora|lyco):([^<>]*)(>?)")
_LONGEST = 100_000


def read_presets(text: str) -> Presets:
    """All presets of a person who keeps them in this text, as the extension LoRA Block Weight does: ``NAME:1,0,…`` a
    line. Its own presets are there too, unless the text has others of their names. Other lines are passed over."""
    named = (line.partition(":") for line in text.splitlines() if not line.lstrip().startswith("#"))
    own = {name.strip(): weights.partition(":")[0] for name, colon, weights in named if colon and "," in weights}
    return {**BLOCK_PRESETS, **{name: tuple(map(_weight_of, text.split(","))) for name, text in own.items()}}


def _weight_of(text: str) -> float | str:
    """A weight, or the text where it is none."""
    with contextlib.suppress(ValueError):
        value = float(text)
        return value + 0.0 if abs(value) <= 1e6 else text.strip()
    return text.strip()


def parse_prompt(text: str, presets: Presets = BLOCK_PRESETS) -> Prompt:
    """Parts a prompt, with the block weights of these presets. Raises PromptError, with the column, for a tag that no
    host could read."""
    if len(text) > _LONGEST:
        raise PromptError(f"the prompt has {len(text)} characters, more than {_LONGEST}; give the tags alone.")
    pieces: list[str | Tag] = []
    at = 0
    scheduled = _schedules(text)
    for match in _TAG.finditer(text):
        pieces += [text[at : match.start()]] if match.start() > at else []
        pieces.append(_Reader(match, scheduled, presets).tag())
        at = match.end()
    return Prompt((*pieces, text[at:]) if at < len(text) else tuple(pieces))


class _Reader:
    """Reads one tag."""

    def __init__(self, match: re.Match[str], scheduled: dict[int, str], presets: Presets) -> None:
        self._match = match
        self._presets = presets
        self._schedule = scheduled.get(match.start(), "")
        self._named: dict[str, tuple[str, int]] = {}
        self._positional: list[tuple[str, int]] = []

    def tag(self) -> Tag:
        match = self._match
        if not match[3]:
            raise self._fault("the tag is not closed; > was expected", match.start())
        self._sort()
        if not self._positional or not self._positional[0][0].strip():
            raise self._fault("the name is missing, as in <lora:name:0.8>", match.start(2))
        te, unet = self._te_and_unet()
        parts = tuple((name, self._strength(*self._named.pop(name))) for name in _STRENGTHS[2:] if name in self._named)
        return Tag(
            name=self._positional[0][0],
            kind=match[1],
            te=te,
            unet=unet,
            parts=parts,
            dyn=self._dyn(),
            blocks=self._blocks(),
            others=tuple((name, text) for name, (text, _) in self._named.items()),
            schedule=self._schedule,
            column=match.start() + 1,
            length=match.end() - match.start(),
        )

    def _sort(self) -> None:
        at = self._match.start(2)
        for item in self._match[2].split(":"):
            name, equals, value = item.partition("=")
            if not equals:
                self._positional.append((item, at))
            elif name.strip() in self._named:
                raise self._fault(f"{name.strip()}= stands twice", at)
            else:
                self._named[name.strip()] = (value.strip(), at + len(name) + 1)
            at += len(item) + 1
        self._old_forms()
        if len(self._positional) > 4:
            text, where = self._positional[4]
            raise self._fault(f"{text!r} is one too many; <lora:name:te:unet:dyn> has four", where)

    def _old_forms(self) -> None:
        """Block weights once stood where the UNet's strength stands, and were called w."""
        if "w" in self._named and "lbw" not in self._named:
            self._named["lbw"] = self._named.pop("w")
        if len(self._positional) > 2 and self._is_blocks(self._positional[2][0]) and "lbw" not in self._named:
            self._named["lbw"] = self._positional.pop(2)

    def _te_and_unet(self) -> tuple[Strength, Strength]:
        """As A1111 fills in what is missing: te is 1, unet is te."""
        te = self._named.pop("te", None) or (self._positional[1] if len(self._positional) > 1 else None)
        unet = self._named.pop("unet", None) or (self._positional[2] if len(self._positional) > 2 else None)
        read = 1.0 if te is None else self._strength(*te)
        return read, read if unet is None else self._strength(*unet)

    def _dyn(self) -> int | None:
        found = self._named.pop("dyn", None) or (self._positional[3] if len(self._positional) > 3 else None)
        if found is None:
            return None
        text, at = found
        if not re.fullmatch(r"\s*[0-9]{1,6}\s*", text) or not int(text):
            raise self._fault(f"dyn is {text.strip()!r}; a number of ranks, 1 or more, was expected", at)
        return int(text)

    def _strength(self, text: str, at: int) -> Strength:
        plain = text.strip()
        if plain.startswith("[") and plain.endswith("]"):
            plain = plain[1:-1].strip()
        if "@" in plain or "~" in plain:
            return Schedule(tuple(self._point(point, at) for point in re.split("[,;]", plain)))
        return self._value(plain, at)

    def _point(self, text: str, at: int) -> tuple[float, float | None]:
        strength, *moment = re.split("[@~]", text)
        if len(moment) > 1:
            raise self._fault(f"{text.strip()!r}: one @ was expected, as in 0.6@6", at)
        return self._value(strength, at), self._value(moment[0], at) if moment else 1.0

    def _value(self, text: str, at: int) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or abs(value) > 1e6:
            raise self._fault(f"{text.strip()!r} is no strength; a number such as 0.8 was expected", at)
        return value + 0.0  # no -0

    def _blocks(self) -> Blocks | None:
        found = self._named.pop("lbw", None)
        if found is None:
            return None
        text, at = found[0].strip(), found[1]
        if "," not in text:
            if not text:
                raise self._fault("lbw= is empty; a preset or numbers were expected", at)
            return Blocks(text, tuple(self._presets.get(text, ())))
        items = text.split(",")
        if len(items) not in (*BLOCK_NAMES, _FLUX):
            raise self._fault(
                f"lbw= has {len(items)} weights; 12 (LoRA of SDXL), 17 (LoRA of SD1.5), 20 (LoCon of SDXL) "
                f"or 26 (LoCon of SD1.5) were expected",
                at,
            )
        return Blocks("", tuple(self._block_weight(item.strip(), at) for item in items))

    def _is_blocks(self, text: str) -> bool:
        plain = text.strip()
        return plain in self._presets or (
            "@" not in plain and "~" not in plain and plain.count(",") >= min(BLOCK_NAMES) - 1
        )

    def _block_weight(self, text: str, at: int) -> float | str:
        return text if _LETTER.fullmatch(text) else self._value(text, at)

    def _fault(self, what: str, at: int) -> PromptError:
        error = PromptError(f"prompt, column {at + 1}: {self._match[0][:60]}: {what}.")
        error.column = at + 1
        return error


# Brackets -----------------------------------------------------------------------------------------------------

_CLOSING = {"[": "]", "{": "}"}
_NUMBER_AT_END = re.compile(r":\s*[0-9]*\.?[0-9]+\s*$")


@dataclass
class _Open:
    """A bracket that is not closed yet."""

    sign: str
    start: int
    tags: list[int] = field(default_factory=list)
    bars: bool = False


def _schedules(text: str) -> dict[int, str]:
    """Where a tag begins -> the bracket that turns it on and off: ``[a:b:10]``, ``[a|b]``, ``{a|b}``."""
    found: dict[int, str] = {}
    stack: list[_Open] = []
    for token in re.finditer(r"\\.|<(?:lora|lyco):[^<>]*>|[\[\]{}|]", text):
        sign, at = token[0], token.start()
        if sign.startswith("<"):
            for bracket in stack:
                bracket.tags.append(at)
        elif sign in _CLOSING:
            stack.append(_Open(sign, at))
        elif sign == "|" and stack:
            stack[-1].bars = True
        elif stack and sign == _CLOSING[stack[-1].sign]:
            closed = stack.pop()
            words = _words(closed, text[closed.start : at])
            found.update((tag, words) for tag in closed.tags if words and tag not in found)
    return found


def _words(bracket: _Open, inside: str) -> str:
    if bracket.sign == "{":
        return "{…|…}, of which one is drawn for each picture" if bracket.bars else ""
    if bracket.bars:
        return "[…|…], which alternates between steps"
    moment = _NUMBER_AT_END.search(inside)
    return f"[…{moment[0].strip()}], which changes the prompt at a step" if moment else ""


# Numbers ------------------------------------------------------------------------------------------------------


def str_of(strength: Strength) -> str:
    """A strength as it is written."""
    return str(strength) if isinstance(strength, Schedule) else _number(strength)


def _number(value: float) -> str:
    """The shortest text that is read as this number: 1, 0.8, -0.25."""
    return repr(float(value)).removesuffix(".0")


def common_names(tags: Sequence[Tag]) -> str:
    """``a + b`` or ``a + b and 3 more``, for titles."""
    names = list(dict.fromkeys(tag.name for tag in tags))
    return " + ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
