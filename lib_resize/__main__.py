"""``python -m lib_resize``."""

from __future__ import annotations

import sys

from .cli.main import entry

if __name__ == "__main__":
    sys.exit(entry())
