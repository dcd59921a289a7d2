"""The search for the smallest file that keeps a share of a LoRA's effect: which size to measure next, and how well.

Bisection on the logarithm of the size. A figure falls with the size, so that every rejected size excludes all smaller
ones. Most sizes are measured with a few images; the size that is found is measured with all of them. Pure: no file is
planned and no image is made here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

BRACKET = 1.10
"""The search ends where the smallest accepted size is less than this times a rejected one."""
MOST_STEPS = 5
"""Bisections, besides both ends of the range."""
DOWNHILL = 2
"""Bisections after which the smallest file is tried, where all sizes were accepted so far."""
FEW = 2
"""Images for most sizes."""
WORST_MARGIN = 0.03
"""By how much the image that differs most may miss the target."""
MORE = 1.15
"""Factor of one step beyond what was found."""


@dataclass(frozen=True)
class SizeRange:
    """The sizes that files of one LoRA can have, in bytes."""

    smallest: int
    first: int
    """The size to begin with, such as that of the preset High."""
    largest: int


@dataclass(frozen=True)
class Step:
    """A size to measure."""

    bytes: int
    """The file is the largest one that is not larger."""
    seeds: int
    """Images to measure it with."""


@dataclass(frozen=True)
class Tried:
    """A file that was measured."""

    bytes: int
    kept: float
    worst: float
    seeds: int


def is_accepted(kept: float, worst: float, target: float) -> bool:
    """Return whether a figure reaches the target, on average and nearly in every image."""
    return kept >= target and worst >= target - WORST_MARGIN


def is_lost(resized: Sequence[float], without: Sequence[float], target: float) -> bool:
    """Return whether no further image can save a file: one of them misses the target by too much.

    `resized` are the squared differences of the images made so far, `without` those of all images of the step.
    """
    pool = sum(without) / len(without)
    return max(resized) > (1 - target + WORST_MARGIN) * pool


class SizeSearch:
    """Ask for the `next` step until there is none, and report each with `learn`."""

    def __init__(self, sizes: SizeRange, target: float, seeds: int) -> None:
        self._sizes = replace(sizes, first=min(max(sizes.first, sizes.smallest), sizes.largest))
        self._target = target
        self._seeds = seeds
        self._tried: dict[int, Tried] = {}
        """Bytes -> the last measurement of that file."""
        self._asked: dict[int, int] = {}
        """Bytes -> the most images that a step wanted of that file."""
        self._ends = (self._sizes.smallest, self._sizes.first, self._sizes.largest)
        self._low = sizes.smallest
        """No smaller file is accepted, or there is none."""
        self._smallest_is_known = False
        self._steps = 0
        self._chosen: Tried | None = None

    @property
    def target(self) -> float:
        """The share of the effect that is to be kept."""
        return self._target

    @property
    def best(self) -> Tried | None:
        """The smallest accepted file, else the largest that was tried; after `learn_more` the one of that step."""
        if self._chosen is not None:
            return self._chosen
        accepted = self._accepted()
        return accepted[0] if accepted else max(self._tried.values(), key=lambda one: one.bytes, default=None)

    def accepts(self, tried: Tried) -> bool:
        """Return whether a file keeps the target."""
        return is_accepted(tried.kept, tried.worst, self._target)

    def next(self) -> Step | None:
        """Return the next size to measure; None where the search is over."""
        if not self._tried:
            return Step(self._sizes.first, self._few)
        if self._steps >= DOWNHILL and self._is_downhill():
            return Step(self._sizes.smallest, self._few)
        if self._wants_bisection():
            return Step(math.isqrt(self._low * self._high), self._few)
        accepted = self._accepted()
        if not accepted:
            return Step(self._sizes.largest, self._seeds) if self._low < self._sizes.largest else None
        found = accepted[0]
        if self._is_downhill() and self._sizes.smallest < found.bytes:
            return Step(self._sizes.smallest, self._few)
        return Step(found.bytes, self._seeds) if found.seeds < self._seeds else None

    def learn(self, step: Step, tried: Tried) -> None:
        """Note the measurement of a step. Its file may be smaller than the step asked for: sizes are not continuous.

        So steps may meet a file again. What more images showed of it counts, or the search would not end.
        """
        if self.knows(tried.bytes, step.seeds):
            tried = self._tried[tried.bytes]
        self._asked[tried.bytes] = max(step.seeds, self._asked.get(tried.bytes, 0))
        if tried.bytes not in self._tried and step.bytes not in self._ends:
            self._steps += 1
        self._tried[tried.bytes] = tried
        self._smallest_is_known |= tried.bytes <= self._sizes.smallest
        if not self.accepts(tried):
            self._low = max(self._low, step.bytes)

    def knows(self, bytes: int, seeds: int) -> bool:
        """Return whether a file was measured in a step that wanted more images than this."""
        return seeds < self._asked.get(bytes, 0)

    def images_left(self) -> int:
        """Estimate how many images the search still needs, without those of the original."""
        accepted = self._accepted()
        last = self._seeds - accepted[0].seeds if accepted else self._seeds - self._few
        first = 0 if self._tried else self._few
        return first + self._few * self._steps_left() + max(0, last)

    def sizes_left(self) -> int:
        """Estimate how many files the search still measures that were not measured before."""
        return (0 if self._tried else 1) + self._steps_left()

    # One step beyond ---------------------------------------------------------------------------------------------

    def can_be(self, direction: str) -> bool:
        """Return whether a file that is "smaller" or "larger" than the best exists."""
        best = self.best
        if best is None:
            return False
        return best.bytes > self._sizes.smallest if direction == "smaller" else best.bytes < self._sizes.largest

    def more(self, direction: str) -> Step:
        """Return a step that is "smaller" or "larger" than the best, with all images."""
        assert self.best is not None
        size = self.best.bytes / MORE if direction == "smaller" else self.best.bytes * MORE
        return Step(min(max(math.floor(size), self._sizes.smallest), self._sizes.largest), self._seeds)

    def beyond(self, step: Step) -> Step:
        """Return a step larger than one whose file was no larger than the best."""
        return replace(step, bytes=min(math.ceil(step.bytes * MORE), self._sizes.largest))

    def learn_more(self, tried: Tried) -> None:
        """Note the measurement of such a step: it is the best from now on, accepted or not."""
        self._tried[tried.bytes] = self._chosen = tried

    # The bracket -------------------------------------------------------------------------------------------------

    @property
    def _few(self) -> int:
        return min(FEW, self._seeds)

    @property
    def _high(self) -> int:
        accepted = self._accepted()
        return accepted[0].bytes if accepted else self._sizes.largest

    def _accepted(self) -> list[Tried]:
        """Return the accepted files, smallest first: all are above every rejected one, since steps are between them."""
        accepted = (one for one in self._tried.values() if self.accepts(one))
        return sorted(accepted, key=lambda one: one.bytes)

    def _is_downhill(self) -> bool:
        """Return whether no size was rejected, and the smallest was not tried."""
        return self._low == self._sizes.smallest and not self._smallest_is_known and bool(self._accepted())

    def _wants_bisection(self) -> bool:
        return self._steps < MOST_STEPS and self._high >= BRACKET * self._low and self._high > self._low + 1

    def _steps_left(self) -> int:
        high = self._high if self._tried else self._sizes.first
        width = math.log(max(high, 1) / max(self._low, 1)) / math.log(BRACKET)
        needed = math.ceil(math.log2(width)) if width > 1 else 0
        return min(needed, max(0, MOST_STEPS - self._steps))
