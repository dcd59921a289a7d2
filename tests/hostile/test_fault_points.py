"""Death, a failing disk and a full disk at every system call of `resize`, `merge` and `extract`.

At every moment: sources keep their bytes, what has a final name is whole and right, nothing else is left by a run
that could clean up, and the next run succeeds and leaves nothing behind. The suite strikes at some calls, evenly
spread; with ``RESIZE_LORA_FAULTS=all`` at each.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Sequence

import pytest

from tests.hostile import faults
from tests.hostile.scenes import COMMANDS, Scene

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
LOGGER = logging.getLogger(__name__)
LONG = os.environ.get("RESIZE_LORA_FAULTS") == "all"
SHORT = 2
"""How many calls of each run the suite strikes at, by mode."""


def points(calls: Sequence[str], seed: int) -> list[int]:
    """All calls, or some: those that write and name files more often than those that look."""
    if LONG:
        return list(range(1, len(calls) + 1))
    busy = [k for k, name in enumerate(calls, 1) if name not in ("open", "preadv", "scandir")]
    return random.Random(seed).sample(busy, SHORT)


SHORT_CASES = [
    *(("resize", mode) for mode in faults.MODES),
    ("resize over", "torn"),
    ("merge", "enospc"),
    ("extract", "after"),
]
CASES = [(command, mode) for command in COMMANDS for mode in faults.MODES] if LONG else SHORT_CASES


@pytest.mark.parametrize(("command", "mode"), CASES)
def test_nothing_is_lost_at_any_moment(sources, earlier, folder, monkeypatch, command, mode):
    scene = Scene(sources, earlier, folder / "run", command, monkeypatch)
    scene.fresh()
    whole = faults.traced(scene.run)
    assert whole.code == 0, whole.text
    assert {"write", "fsync"} <= set(whole.calls)
    right = scene.look()
    struck = points(whole.calls, len(command) * 10 + faults.MODES.index(mode))
    LOGGER.info("%s, %s: %d of %d calls", command, mode, len(struck), len(whole.calls))
    for k in struck:
        scene.fresh()
        end = faults.struck(scene.run, k, mode)
        where = f"{command}, {mode} at call {k} of {len(whole.calls)} ({whole.calls[k - 1]}): {end.text}"
        if mode in faults.FAILING:
            assert end.code in (0, 1), where
            assert "Traceback" not in end.text, where
        scene.judge(right, where, may_leave=end.was_killed)
