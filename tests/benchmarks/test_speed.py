"""Speed as a ratio in CPU seconds, never as a time: machines differ and neighbours disturb."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.harness import ONE_THREAD

ROOT = Path(__file__).parents[2]


def test_decomposing_costs_at_most_half_the_cpu_of_qr_qr_svd() -> None:
    # A process of its own: the number of BLAS threads is fixed when numpy is first imported.
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.decomposition"],
        cwd=ROOT,
        env={**os.environ, **ONE_THREAD},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["layers"] == 60
    assert outcome["error"] < 1e-12
    assert outcome["ratio"] >= 2, outcome
