"""Run a module with the Python of `.venv`, which `python develop.py test` makes, on every system:

python -m tools.in_venv ruff check
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main(arguments: list[str]) -> int:
    """Return the exit status of the module, or 1 where there is no environment."""
    python = ROOT / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        sys.stderr.write("No environment in .venv: run python develop.py test once.\n")
        return 1
    return subprocess.run([python, "-m", *arguments], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
