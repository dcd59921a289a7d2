"""The search for a size: what it finds, and how many images it needs for that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from lib_resize.effect.search import (
    BRACKET,
    DOWNHILL,
    FEW,
    MORE,
    WORST_MARGIN,
    SizeRange,
    SizeSearch,
    Step,
    Tried,
    is_accepted,
    is_lost,
)

MB = 1_000_000
SIZES = SizeRange(2 * MB, 20 * MB, 217 * MB)
Curve = Callable[[int, int], tuple[float, float]]
"""Bytes and seeds -> kept and worst."""


def power(scale: float, exponent: float = 2.0) -> Curve:
    """A curve that keeps more at each larger size; its worst image is half as bad again."""
    return lambda size, _: (1 - (scale / size) ** exponent, 1 - 1.5 * (scale / size) ** exponent)


@dataclass
class Run:
    """A search to its end."""

    search: SizeSearch
    curve: Curve
    grid: int = 1
    """Files have sizes that are multiples of it."""
    steps: list[Step] = field(default_factory=list)
    images: int = 0
    drawn: dict[int, int] = field(default_factory=dict)

    def tried(self, step: Step) -> Tried:
        size = max(step.bytes // self.grid, 1) * self.grid
        self.images += max(0, step.seeds - self.drawn.get(size, 0))
        self.drawn[size] = max(step.seeds, self.drawn.get(size, 0))
        return Tried(size, *self.curve(size, step.seeds), step.seeds)

    def end(self) -> Run:
        while (step := self.search.next()) is not None:
            self.steps.append(step)
            assert len(self.steps) < 40
            self.search.learn(step, self.tried(step))
        return self


def run(curve: Curve, target: float = 0.98, sizes: SizeRange = SIZES, seeds: int = 4, grid: int = 1) -> Run:
    return Run(SizeSearch(sizes, target, seeds), curve, grid).end()


def least(curve: Curve, target: float, sizes: SizeRange = SIZES) -> int:
    """The smallest size that the curve accepts, by looking at many."""
    low, high = sizes.smallest - 1, sizes.largest
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_accepted(*curve(middle, 4), target) else (middle, high)
    return high


@pytest.mark.parametrize("seeds", [1, 2, 4])
@pytest.mark.parametrize("target", [0.98, 0.95, 0.9])
@pytest.mark.parametrize("scale", [0.3, 0.5, 0.8, 1.2, 1.7, 2.4, 3.3])
def test_what_is_found_keeps_the_target_and_is_at_most_a_bracket_larger_than_needed(
    scale: float, target: float, seeds: int
) -> None:
    curve = power(scale * MB)
    found = run(curve, target, seeds=seeds)
    best = found.search.best
    assert best is not None
    assert is_accepted(best.kept, best.worst, target)
    assert best.seeds == seeds
    assert least(curve, target) <= best.bytes < BRACKET * max(least(curve, target), SIZES.smallest) + 1


@pytest.mark.parametrize("target", [0.98, 0.95, 0.9])
@pytest.mark.parametrize("scale", [0.3, 0.5, 0.8, 1.2, 1.7, 2.4])
def test_four_seeds_need_about_twenty_images(scale: float, target: float) -> None:
    found = run(power(scale * MB), target)
    of_the_original = 4 + 4 + 1  # with the LoRA, without it, and one a second time
    assert 15 <= of_the_original + found.images <= 25
    all_images = 4 * len({step.bytes for step in found.steps})
    assert found.images <= all_images / 2 + 2


def test_high_is_tried_first_and_with_few_images() -> None:
    found = run(power(MB))
    assert found.steps[0] == Step(SIZES.first, FEW)
    assert all(step.bytes <= SIZES.first for step in found.steps)


def test_all_images_are_used_within_the_last_bracket_alone() -> None:
    found = run(power(MB))
    assert [step.seeds for step in found.steps[:-1]] == [FEW] * (len(found.steps) - 1)
    assert found.steps[-1].seeds == 4


def test_where_high_misses_the_target_larger_files_are_tried() -> None:
    curve = power(8 * MB)
    assert not is_accepted(*curve(SIZES.first, 4), 0.98)
    found = run(curve)
    best = found.search.best
    assert best is not None
    assert SIZES.first < least(curve, 0.98) <= best.bytes < BRACKET * least(curve, 0.98)
    assert min(step.bytes for step in found.steps) == SIZES.first


def test_a_target_that_even_the_largest_misses_ends_with_the_largest() -> None:
    found = run(lambda size, _: (0.9 - MB / size, 0.8))
    best = found.search.best
    assert best is not None
    assert best.bytes == SIZES.largest
    assert not found.search.accepts(best)
    assert not found.search.can_be("larger")
    assert found.search.can_be("smaller")


def test_a_target_that_even_the_smallest_reaches_ends_with_the_smallest() -> None:
    found = run(lambda *_: (0.999, 0.999))
    best = found.search.best
    assert best is not None
    assert best.bytes == SIZES.smallest
    assert best.seeds == 4
    assert found.images == FEW * (1 + DOWNHILL) + 4
    assert not found.search.can_be("smaller")


def test_a_size_that_more_images_reject_is_not_found() -> None:
    """Two of four images are too kind: the file that they accept is measured with all, and rejected."""
    kind, strict = power(MB), power(2 * MB)
    found = run(lambda size, seeds: (kind if seeds < 4 else strict)(size, seeds))
    best = found.search.best
    assert best is not None
    assert found.search.accepts(best)
    assert best.seeds == 4
    assert best.bytes >= least(strict, 0.98)


def test_one_bad_image_rejects_a_file_that_is_good_on_average() -> None:
    found = run(lambda size, _: (0.99, 0.94 if size < 10 * MB else 0.96))
    best = found.search.best
    assert best is not None
    assert best.bytes >= 10 * MB
    assert is_accepted(0.98, 0.98 - WORST_MARGIN + 1e-9, 0.98)
    assert not is_accepted(0.98, 0.98 - WORST_MARGIN - 1e-9, 0.98)
    assert not is_accepted(0.97999, 0.98, 0.98)


@pytest.mark.parametrize("grid", [3 * MB, 30 * MB, 500_000])
@pytest.mark.parametrize("scale", [0.5, 1.1, 2.4, 9.0])
def test_sizes_with_gaps_between_them_end_the_search_too(grid: int, scale: float) -> None:
    sizes = SizeRange(grid, max(20 * MB // grid, 1) * grid, 217 * MB // grid * grid)
    curve = power(scale * MB)
    found = run(curve, sizes=sizes, grid=grid)
    best = found.search.best
    assert best is not None
    assert best.bytes % grid == 0
    if found.search.accepts(best):
        needed = -(-least(curve, 0.98, sizes) // grid) * grid
        assert best.bytes <= max(needed, BRACKET * needed)


@pytest.mark.parametrize("sizes", [SizeRange(MB, MB, MB), SizeRange(MB, 5 * MB, 2 * MB), SizeRange(5 * MB, MB, 6 * MB)])
def test_ranges_without_room_are_searched_too(sizes: SizeRange) -> None:
    found = run(power(MB), sizes=sizes)
    assert found.search.best is not None
    assert all(sizes.smallest <= step.bytes <= sizes.largest for step in found.steps)


def test_the_best_so_far_is_the_smallest_accepted_else_the_largest_that_was_tried() -> None:
    search = SizeSearch(SIZES, 0.98, 4)
    assert search.best is None
    assert not search.can_be("smaller")
    search.learn(Step(20 * MB, 2), Tried(20 * MB, 0.5, 0.5, 2))
    search.learn(Step(60 * MB, 2), Tried(60 * MB, 0.7, 0.7, 2))
    assert search.best == Tried(60 * MB, 0.7, 0.7, 2)
    search.learn(Step(100 * MB, 2), Tried(99 * MB, 0.99, 0.99, 2))
    search.learn(Step(80 * MB, 2), Tried(80 * MB, 0.985, 0.98, 2))
    assert search.best == Tried(80 * MB, 0.985, 0.98, 2)


def test_one_step_more_is_the_best_whether_it_keeps_the_target_or_not() -> None:
    found = run(power(MB))
    before = found.search.best
    assert before is not None
    step = found.search.more("smaller")
    assert step == Step(int(before.bytes / MORE), 4)
    found.search.learn_more(Tried(step.bytes, 0.9, 0.9, 4))
    assert found.search.best == Tried(step.bytes, 0.9, 0.9, 4)
    assert found.search.more("larger").bytes == int(step.bytes * MORE)
    assert found.search.beyond(Step(SIZES.largest - 1, 4)).bytes == SIZES.largest


@pytest.mark.parametrize("grid", [1, MB, 5 * MB, 9 * MB])
@pytest.mark.parametrize("needed", [3 * MB, 10 * MB, 20 * MB])
def test_a_file_that_all_images_reject_is_not_accepted_by_few_again(grid: int, needed: int) -> None:
    """Steps between two sizes meet the file of the lower one again, where there are few files."""

    def curve(size: int, seeds: int) -> tuple[float, float]:
        return (0.99, 0.99) if seeds == FEW or size >= needed else (0.9, 0.9)

    sizes = SizeRange(*(max(1, size // grid) * grid for size in (SIZES.smallest, SIZES.first, SIZES.largest)))
    best = run(curve, sizes=sizes, grid=grid).search.best
    assert best is not None
    assert best.seeds == 4
    assert best.bytes >= needed


@pytest.mark.parametrize("scale", [0.3, 0.8, 1.7])
def test_the_estimate_of_images_that_are_left_ends_at_none(scale: float) -> None:
    ran = Run(SizeSearch(SIZES, 0.98, 4), power(scale * MB))
    assert ran.search.images_left() >= 10
    assert ran.search.sizes_left() >= 4
    ran.end()
    assert ran.search.images_left() == ran.search.sizes_left() == 0


def test_a_file_is_lost_once_one_image_misses_too_much_for_the_others_to_matter() -> None:
    without = [1.0, 3.0]
    assert not is_lost([0.09], without, 0.98)
    assert is_lost([0.11], without, 0.98)
    assert is_lost([0.0, 0.11], without, 0.98)
    for resized in (0.0, 0.05, 0.5):  # the second image cannot save it
        kept, worst = 1 - (0.11 + resized) / 4, 1 - max(0.11, resized) / 2
        assert not is_accepted(kept, worst, 0.98)
