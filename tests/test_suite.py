"""Laws of the tests themselves: they are cheap, and pass on machines of any speed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from lib_resize.linalg import threads

TESTS = Path(__file__).parent
CLOCK = r"(?:perf_counter|monotonic|process_time|thread_time|time\.time)\(\)"
ABSOLUTE = re.compile(rf"^\s*assert [^#\n]*{CLOCK}[^#\n]*<=?\s*[\d.]+\s*(?:#.*)?$", re.MULTILINE)
"""An assertion that compares a clock with a number."""


def test_numpy_computes_on_one_thread() -> None:
    """Several workers with several threads each cost many times the CPU."""
    assert np.ones((2, 2)).sum() == 4
    blas = threads._numpys_blas()
    assert blas is None or blas.threads() == 1


def test_no_assertion_compares_a_clock_with_a_number() -> None:
    found = [str(path) for path in TESTS.rglob("*.py") if ABSOLUTE.search(path.read_text("utf-8"))]
    assert found == []


@pytest.mark.parametrize("line", ["    assert time.monotonic() - start < 1.0", "    assert time.time() - t <= 2  # s"])
def test_such_an_assertion_is_found(line: str) -> None:
    assert ABSOLUTE.search(f"def test():\n{line}\n    more()\n")
