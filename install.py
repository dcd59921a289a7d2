"""Run by WebUIs before they start. There is nothing to install: numpy, safetensors and torch are the host's own."""

from __future__ import annotations

import sys
from importlib.util import find_spec

NEEDED = ("numpy", "safetensors")

missing = [name for name in NEEDED if find_spec(name) is None]
if missing:
    sys.stderr.write(
        f"Resize LoRA: {', '.join(missing)} comes with every WebUI and is not there; the tab cannot start.\n"
    )
