"""Rates of a device and the CPU that an earlier process has measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lib_resize.demo.synthetic import LoraOptions, write_lora
from lib_resize.engine.batch import resize
from lib_resize.engine.settings import Settings
from lib_resize.engine.solver_cache import keep_rates, rates_of
from lib_resize.linalg.solver_rates import CPU, DEVICE, SolverRates
from lib_resize.prompts.sources import expand
from lib_resize.recipe.grammar import parse_recipes


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("RESIZE_LORA_CACHE", str(tmp_path / "cache"))
    rates_of.cache_clear()
    yield tmp_path / "cache"
    rates_of.cache_clear()


def measure(rates: SolverRates, rank: int, device: float, cpu: float) -> None:
    rates.add(rank, DEVICE, 10, 99.0)  # the first is not counted
    for _ in range(2):
        rates.add(rank, DEVICE, 10, 10 * device)
        rates.add(rank, CPU, 10, 10 * cpu)


def next_process() -> None:
    rates_of.cache_clear()


def test_the_next_process_knows_the_faster_place() -> None:
    measure(rates_of("a card", 2), 16, 3.0, 1.0)
    measure(rates_of("a card", 2), 128, 1.0, 3.0)
    keep_rates("a card", 2)
    next_process()
    assert rates_of("a card", 2).measured() == {16: (3.0, 1.0), 128: (1.0, 3.0)}
    assert (rates_of("a card", 2).place(16), rates_of("a card", 2).place(128)) == (CPU, DEVICE)
    measure(rates_of("a card", 2), 64, 1.0, 2.0)
    keep_rates("a card", 2)
    next_process()
    assert rates_of("a card", 2).measured().keys() == {16, 64, 128}


@pytest.mark.parametrize(("device", "workers"), [("another card", 2), ("a card", 3)])
def test_each_card_and_number_of_workers_has_its_own(device: str, workers: int) -> None:
    measure(rates_of("a card", 2), 16, 3.0, 1.0)
    keep_rates("a card", 2)
    next_process()
    assert rates_of(device, workers).measured() == {}
    measure(rates_of(device, workers), 16, 1.0, 3.0)
    keep_rates(device, workers)
    next_process()
    assert (rates_of("a card", 2).place(16), rates_of(device, workers).place(16)) == (CPU, DEVICE)


def test_a_rank_that_avoids_the_device_is_tried_again_by_the_next_process() -> None:
    measure(rates_of("a card", 2), 16, 1.0, 3.0)
    rates_of("a card", 2).avoid_device(16)
    keep_rates("a card", 2)
    next_process()
    assert not rates_of("a card", 2).is_measured(16)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"x": 3}', '{"x": {"a": [1, 2]}}', '{"x": {"8": [1]}}', '{"x": {"8": ["1", NaN]}}']
)
def test_a_damaged_file_counts_as_missing(text: str, folder: Path) -> None:
    folder.mkdir()
    (folder / "solver-rates.json").write_text(text, "utf-8")
    assert rates_of("a card", 2).measured() == {}
    measure(rates_of("a card", 2), 16, 3.0, 1.0)
    keep_rates("a card", 2)
    next_process()
    assert rates_of("a card", 2).place(16) == CPU


def test_a_folder_that_cannot_be_written_is_ignored(folder: Path) -> None:
    folder.write_text("a file")
    measure(rates_of("a card", 2), 16, 3.0, 1.0)
    keep_rates("a card", 2)
    assert folder.read_text() == "a file"


def test_nothing_is_written_where_nothing_is_new(folder: Path) -> None:
    keep_rates("a card", 2)
    assert not folder.exists()


def test_a_run_keeps_its_rates(tmp_path: Path, folder: Path) -> None:
    torch = pytest.importorskip("torch")
    hardware = f"cpu:0, {torch.__version__}"
    measure(rates_of(hardware, 2), 64, 1.0, 3.0)
    write_lora(tmp_path / "a.safetensors", LoraOptions(rank=64))
    settings = Settings(recipes=parse_recipes("rank=8"), output=tmp_path, device="cpu:0", threads=2)
    assert [one.error for one in resize(expand([str(tmp_path / "a.safetensors")]), settings)] == [None]
    next_process()
    assert rates_of(hardware, 2).place(64) == DEVICE
