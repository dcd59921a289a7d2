"""Material that many tests share: a small SDXL-shaped checkpoint and LoRAs for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib_resize.synthetic import LoraOptions, write_checkpoint, write_lora


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the norms of the person who runs it."""
    monkeypatch.setenv("RESIZE_LORA_CACHE", str(tmp_path_factory.getbasetemp() / "norms"))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("base") / "small_sdxl.safetensors")


@pytest.fixture(scope="session")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lora(tmp_path_factory.mktemp("lora") / "pastry.safetensors", LoraOptions(rank=8, conv=True, seed=1))
