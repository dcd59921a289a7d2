"""Print the section of the changelog for a version, after checking that it is the version of the package:

python -m tools.release_notes 0.2.0
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from lib_resize import __version__

CHANGELOG = Path(__file__).parents[1] / "CHANGELOG.md"


def notes(version: str, changelog: str) -> str:
    """Return the text of the version's section. Raises ValueError where version or changelog do not match."""
    if version != __version__:
        raise ValueError(f"the tag is {version}, lib_resize/__init__.py has {__version__}.")
    found = re.search(
        rf"^## {re.escape(version)} - \d{{4}}-\d\d-\d\d\n(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL
    )
    if not found:
        raise ValueError(f'CHANGELOG.md has no section "## {version} - DATE".')
    return found[1].strip()


if __name__ == "__main__":
    sys.stdout.write(notes(sys.argv[1], CHANGELOG.read_text("utf-8")) + "\n")
