"""Read the tables of `lib_resize.names.transformers`.

A table is a text with one matrix a line, in sections::

    [double_blocks.{double} | transformer_blocks.{double}] D
    img_attn.qkv | attn.to_q + attn.to_k + attn.to_v | 3w w | img_attn_qkv

The head of a section gives the beginning of the names of its lines: in single-file checkpoints (native), and in
diffusers. ``{double}`` counts from 0 to the number of that name, ``{a:b:step}`` as Python's range does; a section
without a counter is used once. The word after the brackets is the blocks' label, and ``?number`` leaves a section out
if that number is 0.

A line gives the native name, diffusers' name, the shape of the native weight, and further forms of the native name.
``=`` in place of diffusers' name means the same name. If diffusers cuts the weight, its pieces are given in the order
of the rows with ``+`` between; ``2 name`` has two shares, and ``name=other`` gives a piece a second name. ``~name``
holds the same rows with its two halves swapped. ``part: native[1:2/3]`` is a part of the native weight, from share 1
to share 2 of 3, that some trainer calls ``part``.

A dimension is a sum of numbers: ``3w+f`` is three times the number w and once f, and ``256`` is 256.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

Numbers = Mapping[str, int]
"""Name of a number of an architecture -> its value."""


@dataclass(frozen=True)
class Share:
    """The rows of a weight from share `first` to share `last`, where all rows are `of` equal shares."""

    first: int = 0
    last: int = 1
    of: int = 1

    @property
    def is_whole(self) -> bool:
        return (self.first, self.last) == (0, self.of)

    def rows(self, count: int) -> tuple[int, int] | None:
        """Return the half-open range of rows out of `count`; None if they cannot be divided so."""
        if count % self.of:
            return None
        unit = count // self.of
        return self.first * unit, self.last * unit


WHOLE = Share()


class Matrix(NamedTuple):
    """One weight of a table, or a piece of one.

    `names` are its dotted names; its id is made of the first. `whole` is the native name of the weight that it is a
    piece of, None for a native weight itself. `swapped` means that its two halves are in the opposite order in the
    whole. `shape` is its own.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    label: str
    whole: str | None = None
    share: Share = WHOLE
    swapped: bool = False


def read_table(text: str, numbers: Numbers) -> Iterator[Matrix]:
    """Yield every weight of a table, native ones and pieces, for an architecture of these numbers."""
    for section in _sections(text):
        rows = [row for line in section.lines for row in _line(line, numbers)]
        for place in section.places(numbers):
            yield from (row.at(place) for row in rows)


def roots(text: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return the first words of all names of a table, native and diffusers', without making the names."""
    native: set[str] = set()
    own: set[str] = set()
    for section in _sections(text):
        lines = [_cells(line) for line in section.lines]
        native |= {section.native or name for cells in lines for name in _bare(cells[0])}
        own |= {section.own or name for cells in lines for name in _bare(cells[1] if cells[1] != "=" else cells[0])}
    return _first_words(native), _first_words(own)


def _first_words(names: set[str]) -> frozenset[str]:
    return frozenset(name.split(".")[0] for name in names if name)


@dataclass(frozen=True)
class _Place:
    """One repetition of a section: the beginnings of native names and of diffusers', and the block's label."""

    native: str
    own: str
    label: str


@dataclass(frozen=True)
class _Section:
    native: str
    own: str
    label: str
    condition: str
    lines: tuple[str, ...]

    def places(self, numbers: Numbers) -> Iterator[_Place]:
        if self.condition and not numbers[self.condition]:
            return
        counter = re.search(r"\{(.*?)\}", self.native)
        if counter is None:
            yield _Place(_dotted(self.native), _dotted(self.own), self.label)
            return
        for index in range(*_bounds(counter[1], numbers)):
            native, own = (words.replace(counter[0], str(index)) for words in (self.native, self.own))
            yield _Place(_dotted(native), _dotted(own), f"{self.label}{index:02d}")


@dataclass(frozen=True)
class _Row:
    """A line, or a piece of one, without the beginnings of its names."""

    native: tuple[str, ...]
    own: tuple[str, ...]
    shape: tuple[int, ...]
    whole: str | None = None
    share: Share = WHOLE
    swapped: bool = False

    def at(self, place: _Place) -> Matrix:
        names = [place.native + name for name in self.native[:1]]
        names += [place.own + name for name in self.own]
        names += [place.native + name for name in self.native[1:]]
        whole = None if self.whole is None else place.native + self.whole
        return Matrix(tuple(dict.fromkeys(names)), self.shape, place.label, whole, self.share, self.swapped)


_HEAD = re.compile(r"\[(?P<native>.*?)\|(?P<own>.*?)\]\s*(?P<label>\w+)\s*(?:\?(?P<condition>\w+))?$")


def _sections(text: str) -> Iterator[_Section]:
    for block in text.strip().split("\n["):
        head, *lines = block.strip().splitlines()
        found = _HEAD.fullmatch(head if head.startswith("[") else "[" + head)
        assert found is not None, head
        yield _Section(
            found["native"].strip(),
            found["own"].strip(),
            found["label"],
            found["condition"] or "",
            tuple(line.strip() for line in lines if line.strip()),
        )


def _bounds(counter: str, numbers: Numbers) -> list[int]:
    return [_sum(part, numbers) for part in counter.split(":")]


def _cells(line: str) -> list[str]:
    cells = [cell.strip() for cell in line.split("|")]
    return [*cells, ""][:4]


def _bare(cell: str) -> list[str]:
    """Return the names in a cell, without shares, marks and second names."""
    return [piece.strip().lstrip("~0123456789 ").split("=")[0].partition(": ")[0] for piece in cell.split("+")]


_PART = re.compile(r"(?P<name>\S+): (?P<whole>\S+)\[(?P<first>\d+):(?P<last>\d+)/(?P<of>\d+)\]")


def _line(line: str, numbers: Numbers) -> Iterator[_Row]:
    native, own, dimensions, others = _cells(line)
    shape = tuple(_sum(dimension, numbers) for dimension in dimensions.split())
    part = _PART.fullmatch(native)
    if part is not None:
        share = Share(int(part["first"]), int(part["last"]), int(part["of"]))
        yield _Row((part["name"], *others.split()), (), shape, part["whole"], share)
        return
    is_cut = "+" in own or own.startswith("~")
    same = () if is_cut else (native if own == "=" else own,)
    yield _Row((native, *others.split()), same, shape)
    if is_cut:
        yield from _pieces(own, native, shape)


_PIECE = re.compile(r"(?P<shares>\d+ )?(?P<swapped>~)?(?P<names>\S+)")


def _pieces(cell: str, whole: str, shape: tuple[int, ...]) -> Iterator[_Row]:
    found = [_PIECE.fullmatch(text.strip()) for text in cell.split("+")]
    pieces = [(int(piece["shares"] or 1), piece["swapped"], piece["names"].split("=")) for piece in found if piece]
    of, first = sum(shares for shares, *_ in pieces), 0
    for shares, swapped, names in pieces:
        own_shape = (shape[0] * shares // of, *shape[1:])
        yield _Row((), tuple(names), own_shape, whole, Share(first, first + shares, of), bool(swapped))
        first += shares


def _dotted(prefix: str) -> str:
    return f"{prefix}." if prefix else ""


def _sum(text: str, numbers: Numbers) -> int:
    """Return the value of a dimension: 286 for ``3w+256`` and w = 10."""
    return sum(_term(term, numbers) for term in text.split("+"))


def _term(term: str, numbers: Numbers) -> int:
    found = re.fullmatch(r"(?P<times>\d*)(?P<name>[a-z_]*)", term.strip())
    assert found is not None, term
    return int(found["times"] or 1) * (numbers[found["name"]] if found["name"] else 1)
