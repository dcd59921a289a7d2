"""The panel's tests share a folder of small LoRAs, which each test gets as a copy of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib_resize.demo.synthetic import LoraOptions, write_lora
from lib_resize.panel.service import Service
from tests.panel.drawing import Drawing, write_small_lora
from tests.panel.panelhost import Browser, fake_host


@pytest.fixture(scope="session")
def pantry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pantry")
    write_lora(folder / "pastry.safetensors", LoraOptions(rank=8, text_encoders=False, seed=1))
    write_lora(folder / "ink.safetensors", LoraOptions(rank=4, text_encoders=False, seed=2, dtype="F32"))
    return folder


@pytest.fixture
def root(tmp_path: Path, pantry: Path) -> Path:
    """The host's LoRA folder."""
    return Path(shutil.copytree(pantry, tmp_path / "models" / "Lora"))


@pytest.fixture
def drawing(root: Path) -> Drawing:
    """A host's images, which depend on the LoRA files of the folder."""
    return Drawing(lambda name: root / f"{name}.safetensors")


@pytest.fixture
def host(root: Path):
    return fake_host(root)


@pytest.fixture
def browser(host, tmp_path: Path) -> Iterator[Browser]:
    service = Service(host, tmp_path / "cache" / "library.json")
    yield Browser(service)
    service.close()
    service.desk.queue.join()
    service.desk.library.join()


@pytest.fixture(scope="session")
def broth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA small enough for many searches."""
    return write_small_lora(tmp_path_factory.mktemp("broth") / "broth.safetensors")


@pytest.fixture
def broth_root(tmp_path: Path, broth: Path) -> Path:
    """A LoRA folder with `broth` alone."""
    folder = tmp_path / "models" / "Lora"
    folder.mkdir(parents=True)
    shutil.copyfile(broth, folder / broth.name)
    return folder
