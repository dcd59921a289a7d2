"""The LoRA tags of a prompt, as text and as data.

Most prompts have no more than ``<lora:name:0.8>``. Hosts and their extensions also read the following; docs/prompts.md
has the details::

    <lora:name:te:unet:dyn>                  A1111, Forge: strengths of text encoder and UNet, first ranks
    <lora:name:te=0.5:unet=1.5:dyn=8>        the same by name; SD.Next too
    <lora:name:1:in=0:mid=1:out=0.5>         SD.Next: the UNet's three parts
    <lora:name:1:lbw=OUTALL>                 LoRA Block Weight: a preset, or 12, 17, 20 or 26 numbers
    <lora:name:0.1@1,0.6@6>                  SD.Next, loractl: a strength for each step
    [<lora:name:1>:10]                       prompt editing around a tag

A strength that changes between steps is read, but cannot be baked, because a file has one strength for all steps.
Text that is not a tag (``<hypernet:x:1>``, ``a < b``) remains text. Nothing here opens a file or loads a library.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from ..errors import PromptError
from ..shown import first_of
from .block_weights import (
    BLOCK_PRESETS,
    MID,
    TAIL,
    Blocks,
    Presets,
    looks_like_blocks,
    number_text,
    parse_blocks,
    parse_number,
)
from .brackets import schedules_in

KINDS = ("lora", "lyco")

_TIMED = ("start", "stop", "step")
_HIRES = ("hr", "hrte", "hrunet")
_STRENGTHS = ("te", "unet", "in", "mid", "out")


@dataclass(frozen=True)
class Schedule:
    """A strength that changes between steps."""

    points: tuple[tuple[float, float | None], ...]
    """Strength, and the step (or fraction of all steps) at which it is reached; None: at the end."""

    @property
    def constant(self) -> float | None:
        """Return the only strength of a schedule that never changes; None for any other."""
        strengths = {strength for strength, _ in self.points}
        return strengths.pop() if len(strengths) == 1 else None

    def __str__(self) -> str:
        return ",".join(f"{number_text(w)}@{number_text(1.0 if at is None else at)}" for w, at in self.points)


Strength = float | Schedule


@dataclass(frozen=True)
class Tag:
    """One LoRA of a prompt, with its strengths."""

    name: str
    kind: str = "lora"
    te: Strength = 1.0
    unet: Strength = 1.0
    parts: tuple[tuple[str, Strength], ...] = ()
    """Those of ``in``, ``mid`` and ``out`` that are given, in this order."""
    dyn: int | None = None
    """Use only the first so many ranks."""
    blocks: Blocks | None = None
    others: tuple[tuple[str, str], ...] = ()
    """Options that change the strength over time, and unknown ones."""
    schedule: str = ""
    """Description of the bracket that turns the tag on and off; empty where there is none."""
    column: int = field(default=0, compare=False)
    """Position of its first character, from 1."""
    length: int = field(default=0, compare=False)
    values: int = field(default=1, compare=False)
    """How many values without a name follow the LoRA's name."""

    @property
    def strengths(self) -> str:
        """Return all that follows the name, in a fixed order."""
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
        """Return whether the tag applies the whole file at strength 1."""
        return self == Tag(self.name, self.kind, column=self.column)

    @property
    def by_block(self) -> bool:
        """Return whether parts of the UNet have strengths of their own."""
        return bool(self.parts) or self.blocks is not None

    @property
    def errors(self) -> tuple[str, ...]:
        """Return why it cannot be baked into a file; empty where it can."""
        return tuple(_errors(self))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return what the user should know of a tag that can be baked."""
        return tuple(_warnings(self))

    def gain(self, block: str) -> float:
        """Return the factor for the deltas of one block (``TE1``, ``IN04``, ``MID``, ``TIME``, …).

        As in SD.Next, all of the UNet except the middle and the output blocks counts as ``in``.
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
        raise ValueError("a schedule has no strength of its own; check its errors first")
    return value


def _errors(tag: Tag) -> Iterator[str]:
    for name, strength in (("te", tag.te), ("unet", tag.unet), *tag.parts):
        if isinstance(strength, Schedule) and strength.constant is None and not (name == "te" and tag.te == tag.unet):
            word = "its strength" if tag.te == tag.unet == strength else f"{name}="
            yield f"{word} changes between steps ({strength}), but a file has one strength for all steps"
    yield from (error for name, text in tag.others if (error := _option_error(name, text)) is not None)
    if tag.blocks is not None and tag.blocks.error:
        yield tag.blocks.error
    if tag.schedule:
        yield f"it is inside {tag.schedule}, but a file applies to all steps and images"


def _option_error(name: str, text: str) -> str | None:
    if name in _TIMED:
        return f"{name}={text} turns it on or off between steps, but a file applies to all steps"
    if name in _HIRES:
        return f"{name}={text} sets another strength for the second pass, but a file has one strength for both"
    if name == "lbwe":
        return f"lbwe={text} weights single elements by a list of your own, which is not supported"
    return None


def _warnings(tag: Tag) -> Iterator[str]:
    yield from unknown_options(tag)
    if tag.parts:
        yield "in=, mid= and out= are baked as in SD.Next; A1111 and Forge ignore them"
    if tag.dyn is not None:
        yield f"dyn={tag.dyn} is baked as in A1111; Forge ignores it"


def unknown_options(tag: Tag) -> Iterator[str]:
    """Yield a sentence for each option that no host knows."""
    known = (*_TIMED, *_HIRES, "lbwe")
    for name, text in tag.others:
        if name not in known:
            yield f"{name}={text} is not an option of any known host and was ignored"


@dataclass(frozen=True)
class Prompt:
    """A prompt, split into texts and tags."""

    pieces: tuple[str | Tag, ...]

    @property
    def tags(self) -> tuple[Tag, ...]:
        """Return all tags, in order."""
        return tuple(piece for piece in self.pieces if isinstance(piece, Tag))

    def __str__(self) -> str:
        return "".join(map(str, self.pieces))


def replaced(text: str, gone: Collection[Tag], new: str, presets: Presets = BLOCK_PRESETS) -> str:
    """Return the prompt with `new` in place of the first of the tags `gone`, and without the others.

    The rest is unchanged. Raises PromptError where the prompt cannot be read.
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
    """Yield each piece of a prompt with its source text."""
    at = 0
    for piece in parse_prompt(text, presets).pieces:
        length = piece.length if isinstance(piece, Tag) else len(piece)
        yield piece, text[at : at + length]
        at += length


def _joined(before: str, after: str) -> str:
    """Join the texts around a removed tag, without its comma or space."""
    if re.search(r"(,\s*|^\s*)$", before) and (comma := re.match(r"\s*,[ \t]*", after)):
        return before + after[comma.end() :]
    return before[:-1] + after if before[-1:] == " " and after[:1] in (" ", ",") else before + after


def check_bakeable(tags: Sequence[Tag]) -> None:
    """Raise PromptError, with all reasons, if one of the tags cannot be baked into a file."""
    faults = [(tag, reason) for tag in tags for reason in tag.errors]
    if faults:
        reasons = "; ".join(f"column {tag.column}, <{tag.kind}:{tag.name}>: {reason}" for tag, reason in faults)
        error = PromptError(f"the prompt cannot be baked: {reasons}. Use a fixed strength, or remove the tag.")
        error.column = faults[0][0].column
        raise error


# Reading ------------------------------------------------------------------------------------------------------

_TAG = re.compile(r"<(lora|lyco):([^<>]*)(>?)")
_LONGEST = 100_000


def parse_prompt(text: str, presets: Presets = BLOCK_PRESETS) -> Prompt:
    """Parse a prompt, with the block weights of these presets.

    Raises PromptError, with the column, for a tag that no host can read.

    >>> [tag.name for tag in parse_prompt("a cat, <lora:ink:0.8>").tags]
    ['ink']
    """
    if len(text) > _LONGEST:
        raise PromptError(f"the prompt has {len(text)} characters, more than {_LONGEST}; give only its LoRA tags.")
    pieces: list[str | Tag] = []
    at = 0
    scheduled = schedules_in(text)
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
        self._values = 0

    def tag(self) -> Tag:
        match = self._match
        if not match[3]:
            raise self._fault("the tag is not closed; expected >", match.start())
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
            values=self._values,
        )

    def _sort(self) -> None:
        at = self._match.start(2)
        for item in self._match[2].split(":"):
            name, equals, value = item.partition("=")
            if not equals:
                self._positional.append((item, at))
            elif name.strip() in self._named:
                raise self._fault(f"{name.strip()}= is given twice", at)
            else:
                self._named[name.strip()] = (value.strip(), at + len(name) + 1)
            at += len(item) + 1
        self._values = len(self._positional) - 1
        self._old_forms()
        if len(self._positional) > 4:
            text, where = self._positional[4]
            raise self._fault(f"{text!r} is one too many; <lora:name:te:unet:dyn> has four", where)

    def _old_forms(self) -> None:
        """Accept block weights under their former name w, and in the place of the UNet's strength."""
        if "w" in self._named and "lbw" not in self._named:
            self._named["lbw"] = self._named.pop("w")
        if "lbw" in self._named or len(self._positional) < 3:
            return
        if looks_like_blocks(self._positional[2][0], self._presets):
            self._named["lbw"] = self._positional.pop(2)

    def _te_and_unet(self) -> tuple[Strength, Strength]:
        """Return both strengths. As in A1111, te is 1 by default, and unet is te."""
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
            raise self._fault(f"dyn is {text.strip()!r}; expected a number of ranks, 1 or more", at)
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
            raise self._fault(f"{text.strip()!r}: expected one @, as in 0.6@6", at)
        return self._value(strength, at), self._value(moment[0], at) if moment else 1.0

    def _value(self, text: str, at: int) -> float:
        try:
            return parse_number(text)
        except ValueError as error:
            raise self._fault(str(error), at) from None

    def _blocks(self) -> Blocks | None:
        found = self._named.pop("lbw", None)
        if found is None:
            return None
        try:
            return parse_blocks(found[0].strip(), self._presets)
        except ValueError as error:
            raise self._fault(str(error), found[1]) from None

    def _fault(self, what: str, at: int) -> PromptError:
        error = PromptError(f"prompt, column {at + 1}: {self._match[0][:60]}: {what}.")
        error.column = at + 1
        return error


# Text --------------------------------------------------------------------------------------------------------


def str_of(strength: Strength) -> str:
    """Return a strength as text."""
    return str(strength) if isinstance(strength, Schedule) else number_text(strength)


def common_names(tags: Sequence[Tag]) -> str:
    """Return ``a + b`` or ``a + b and 3 more``, for titles."""
    names = list(dict.fromkeys(tag.name for tag in tags))
    return first_of(names, 2, " + ")
