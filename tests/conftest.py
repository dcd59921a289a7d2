"""Material that many tests share: a small SDXL-shaped checkpoint and LoRAs for it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from lib_resize.linalg.threads import ask_for_one_blas_thread

ask_for_one_blas_thread()  # before numpy and torch: several workers with several threads each cost many times the CPU

from lib_resize.archive.place import NAME as ARCHIVE  # noqa: E402
from lib_resize.demo.synthetic import LoraOptions, write_checkpoint, write_lora  # noqa: E402

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell does that to what it starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


settings.register_profile("without deadline", deadline=None)  # no test depends on the time that a busy machine needs
settings.load_profile("without deadline")


@pytest.fixture(autouse=True)
def _nothing_next_to_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail a test that leaves an archive next to its own folder: other tests would find it."""
    yield
    assert not (tmp_path_factory.getbasetemp() / ARCHIVE).exists()


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
