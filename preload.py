"""Our arguments of a WebUI's command line. Runs before the host's modules are there, and imports none."""

from __future__ import annotations

import argparse


def preload(parser: argparse.ArgumentParser) -> None:
    """Called by the host with its own parser."""
    parser.add_argument(
        "--resize-lora-cpu",
        action="store_true",
        help="Resize LoRA: measure the loaded model on the CPU, even where there is a GPU",
    )
    parser.add_argument(
        "--resize-lora-api",
        action="store_true",
        help="Resize LoRA: serve the HTTP API /resize-lora/v1, behind --api-auth and --gradio-auth where they are set",
    )
