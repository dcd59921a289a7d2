"""The files and folders that scenes need."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two LoRAs, one of them with a description, and two checkpoints."""
    from tests.hostile import scenes

    folder = tmp_path_factory.mktemp("sources")
    scenes.lora(folder / "a.safetensors", 1)
    scenes.lora(folder / "b.safetensors", 2)
    scenes.checkpoint(folder / "base.safetensors", 3)
    scenes.checkpoint(folder / "tuned.safetensors", 4)
    (folder / "a.txt").write_text("trigger " * 3000)
    return folder


@pytest.fixture(scope="module")
def earlier(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result of ours, of another recipe, with what was copied next to it."""
    from lib_resize.cli import main as cli

    folder = tmp_path_factory.mktemp("earlier")
    words = ["resize", str(sources / "a.safetensors"), "-r", "rank=1", "--suffix", "_x", "-o", str(folder)]
    assert cli.main([*words, "--threads", "1"]) == 0
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where the system has such a place: thousands of runs bring everything to the disk."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as made:
        yield Path(made)
