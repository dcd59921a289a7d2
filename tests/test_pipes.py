"""A reader that leaves early, as ``head`` does, is no reason for a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows reports it by another error, at another time")
def test_output_that_nobody_reads_ends_the_command_quietly() -> None:
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "lib_resize", "demo", "-vv"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()
    complaint = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait() == 1
    assert complaint == ""
