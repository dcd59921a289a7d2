"""Sizes by headers alone are those of real files, and those that the paper reports where it could be the same LoRA."""

from __future__ import annotations

import pytest

from benchmarks.paper_sizes import MIB, kinds, measure, table, written
from lib_resize.demo.models import SMALL

MATCHING = [kind for kind in kinds() if kind.rank in (8, 16, 32) or "convolutions" in kind.what]


def test_headers_alone_give_the_size_that_writing_gives() -> None:
    kind = kinds(SMALL)[0]
    (planned,), real = measure([kind]), written(kind)
    assert planned.before == real.before
    # SMALL has three layers in its first text encoder, of which the last is the untrained one.
    assert planned.after == pytest.approx(real.after, rel=0.05)


@pytest.mark.parametrize("kind", MATCHING, ids=lambda kind: f"{kind.rank}, {kind.what}")
def test_full_shapes_have_the_papers_sizes(kind) -> None:
    (row,) = measure([kind])
    assert min(abs(row.before / MIB - size) for size in kind.paper) < 0.006
    assert f"| {row.before / MIB:.2f} | " in table([row])


def test_rank_one_does_not_depend_on_the_rank_before() -> None:
    first, second = measure([kind for kind in kinds() if kind.what == "UNet and text encoders, F16"][:2])
    assert abs(first.after - second.after) < 64
