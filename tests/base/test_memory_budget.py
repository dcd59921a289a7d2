"""Workers share a fixed room of memory."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from lib_resize.base.memory_budget import MemoryBudget


def test_all_together_never_hold_more_than_there_is() -> None:
    room, lock, held, most = MemoryBudget(100), threading.Lock(), [0], [0]

    def work(wanted: int) -> None:
        with room.of(wanted):
            with lock:
                held[0] += min(wanted, 100)
                most[0] = max(most[0], held[0])
            threading.Event().wait(0.002)
            with lock:
                held[0] -= min(wanted, 100)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [10, 60, 70, 250, 30, 100, 5, 90, 40, 55] * 3))
    assert 60 < most[0] <= 100
    assert held[0] == 0


def test_room_comes_back_after_a_failure() -> None:
    room = MemoryBudget(10)
    with pytest.raises(ValueError, match="broken"), room.of(10):
        raise ValueError("broken")
    with room.of(10):
        pass
