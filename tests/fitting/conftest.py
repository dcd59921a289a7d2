"""Helpers of this folder are found by their bare names; torch is needed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")

sys.path.insert(0, str(Path(__file__).parent))

import torch

from tests.fitting.small_net import Net, Scene, save_lora, scene_of


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """For matrices as small as these, other threads only wait."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(3)
    return Net().eval().requires_grad_(False)


@pytest.fixture
def scene(net: Net, tmp_path: Path) -> Iterator[Scene]:
    with scene_of(net, save_lora(tmp_path / "a.safetensors")) as found:
        yield found
