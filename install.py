"""Run by WebUIs before they start. Nothing is installed: numpy, safetensors and torch come with the host."""

from __future__ import annotations

import sys
from importlib.util import find_spec

NEEDED = ("numpy", "safetensors")

missing = [name for name in NEEDED if find_spec(name) is None]
if missing:
    sys.stderr.write(
        f"Resize LoRA: missing from the WebUI's environment: {', '.join(missing)}. The Resize LoRA tab will not load.\n"
    )
