"""Settings of the process while jobs run: the first caller sets them, the last one restores them."""

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lib_resize.engine.runtime import cpu_runtime
from lib_resize.progress import Quiet
from lib_resize.shared_setting import SELDOM, SharedSetting, seldom_collected

ROOT = Path(__file__).parents[1]


class Box:
    """A setting with the value 8."""

    def __init__(self) -> None:
        self.value = 8
        self.setting = SharedSetting(lambda: self.value, lambda value: setattr(self, "value", value), 1)


def test_callers_may_be_nested_and_fail() -> None:
    box = Box()
    with box.setting.held(), contextlib.suppress(KeyError):
        with box.setting.held():
            assert box.value == 1
        assert box.value == 1
        raise KeyError
    assert box.value == 8


def test_the_last_of_several_threads_restores_the_value() -> None:
    box, both, leave = Box(), threading.Barrier(3), threading.Event()

    def work(*, waits: bool) -> None:
        with box.setting.held():
            both.wait()
            if waits:
                leave.wait()

    first, last = (threading.Thread(target=work, kwargs={"waits": waits}) for waits in (False, True))
    first.start()
    last.start()
    both.wait()
    first.join()
    assert box.value == 1
    leave.set()
    last.join()
    assert box.value == 8


@pytest.mark.parametrize("between", [1, 2])
def test_a_value_that_another_has_set_meanwhile_stays(between: int) -> None:
    box = Box()
    for _ in range(between):
        with box.setting.held():
            box.value = 4
        assert box.value == 4


PROBE = """
import gc
from lib_resize.engine.runtime import cpu_runtime
from lib_resize.progress import Quiet
gc.set_threshold(700, 9, 8)
with cpu_runtime(Quiet()):
    print(gc.get_threshold())
print(gc.get_threshold())
"""


def test_a_job_searches_for_cycles_seldom_and_leaves_the_host_its_thresholds() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str((SELDOM, 9, 8)), str((700, 9, 8))]


def test_the_collector_stays_on() -> None:
    with seldom_collected(), cpu_runtime(Quiet()):
        assert gc.isenabled()
