"""Kills at random moments of `resize`, `merge` and `extract`, in the middle of a computation as of a write.

Long: ``RESIZE_LORA_KILLS=300 pytest -n 0 --log-cli-level=INFO tests/hostile/test_random_kills.py`` kills so
many runs.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import time

import pytest

from tests.hostile import faults
from tests.hostile.scenes import COMMANDS, Scene

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
LOGGER = logging.getLogger(__name__)
COUNT = int(os.environ.get("RESIZE_LORA_KILLS", "4"))


def killed(scene: Scene, after: float) -> bool:
    """Whether a run was ended that many seconds after its start, rather than by itself."""
    pid = faults.silent_child(scene.run)
    time.sleep(after)
    os.kill(pid, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def test_a_kill_at_a_random_moment_loses_nothing(sources, earlier, folder, monkeypatch):
    rng = random.Random(COUNT)
    scenes = {name: Scene(sources, earlier, folder / name, name, monkeypatch) for name in COMMANDS}
    rights, times = {}, {}
    for name, scene in scenes.items():
        scene.fresh()
        start = time.monotonic()
        assert faults.traced(scene.run).code == 0
        times[name] = time.monotonic() - start
        rights[name] = scene.look()
    kills, writing, runs = 0, 0, 0
    while kills < COUNT:
        name = list(COMMANDS)[runs % len(COMMANDS)]
        runs += 1
        scene = scenes[name]
        scene.fresh()
        moment = rng.uniform(0, times[name])
        was_killed = killed(scene, moment)
        kills += was_killed
        writing += any(left.endswith(".part") for left in scene.look())
        scene.judge(rights[name], f"{name}, killed after {moment:.4f} s", may_leave=was_killed)
        if not was_killed:
            times[name] *= 0.9
    LOGGER.info("%d kills in %d runs, %d of them in the middle of a write", kills, runs, writing)
