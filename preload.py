"""Command line options for WebUIs. Runs before the host's modules are loaded, and imports none."""

from __future__ import annotations

import argparse


def preload(parser: argparse.ArgumentParser) -> None:
    """Add options to the host's parser; called by the host."""
    parser.add_argument(
        "--resize-lora-cpu",
        action="store_true",
        help="Resize LoRA: compute on the CPU, even if there is a GPU",
    )
    parser.add_argument(
        "--resize-lora-api",
        action="store_true",
        help="Resize LoRA: serve the HTTP API at /resize-lora/v1, protected by --api-auth and --gradio-auth if set",
    )
