"""Laws of the report on the disk: whole or not there, never over a foreign file, nothing kept in memory."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from lib_resize.cli.ledger import Ledger
from lib_resize.engine.settings import Outcome
from lib_resize.errors import FileError, OutputError, UsageError
from lib_resize.files.target import Inputs
from lib_resize.plans import LayerPlan, Plan

FAILED = Outcome("caf\udce9\x1b[2J.safetensors", error=FileError("it is broken"))


def made(number: int = 1) -> Outcome:
    layer = LayerPlan("x", 8, 4, 0.1, None)
    plan = Plan(f"{number}.safetensors", "b", "high", None, 10, 4, 0.9, (layer,), (), ())
    return Outcome(plan.source, plan)


def read(path: Path) -> list[dict[str, Any]]:
    text = path.read_text("utf-8")
    found = json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    assert all(next(iter(one)) == "resize_lora" for one in found)
    return found


@pytest.mark.parametrize("name", ["r.json", "r.jsonl", "r.JSONL"])
def test_both_forms_have_the_same_objects(tmp_path: Path, name: str) -> None:
    with Ledger(tmp_path / name) as ledger:
        ledger.add(FAILED)
        ledger.add(made())
    text = (tmp_path / name).read_text("utf-8")
    first, second, last = [json.loads(line.rstrip(",")) for line in text.splitlines() if line.startswith("{")]
    assert (first["source"], first["error"]) == (FAILED.source, "it is broken")
    assert os.fsencode(first["source"]) == b"caf\xe9\x1b[2J.safetensors"
    assert second["bytes_after"] == 4
    assert "layers" not in second
    assert last["totals"] == {"results": 1, "failed": 1, "skipped": 0, "bytes_before": 10, "bytes_after": 4}
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["r.json", "r.jsonl"])
def test_an_empty_report_and_one_with_layers(tmp_path: Path, name: str) -> None:
    with Ledger(tmp_path / name):
        pass
    assert [one["totals"]["results"] for one in read(tmp_path / name)] == [0]
    with Ledger(tmp_path / name, layers=True) as ledger:  # replaces a report of ours
        ledger.add(made())
    assert read(tmp_path / name)[0]["layers"][0]["name"] == "x"


def test_lines_are_on_the_disk_while_the_run_goes_on(tmp_path: Path) -> None:
    with Ledger(tmp_path / "r.jsonl") as ledger:
        for count in range(1, 4):
            ledger.add(made(count))
            assert len(read(tmp_path / "r.jsonl")) == count


@pytest.mark.parametrize("name", ["r.json", "r.jsonl"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_run_that_ends_early_has_its_report(tmp_path: Path, name: str, error: type[BaseException]) -> None:
    with contextlib.suppress(error), Ledger(tmp_path / name) as ledger:
        ledger.add(made())
        raise error
    first, last = read(tmp_path / name)
    assert first["retention"] == 0.9
    assert last["stopped"] is True


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'[{"source": "a"}]', b'{"files": []}', b"\x00" * 8])
@pytest.mark.parametrize("name", ["r.json", "r.jsonl", "notes.txt"])
def test_a_foreign_file_is_refused_before_the_work(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match="is not a report of Resize LoRA"), Ledger(tmp_path / name):
        pytest.fail("the work began")
    assert (tmp_path / name).read_bytes() == content
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["x.safetensors", "X.CKPT", "no/such/r.json", ".", "y" * 300 + ".json", "a\0.json"])
def test_names_that_cannot_be_a_report_are_refused_before_the_work(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="--report"), Ledger(tmp_path / name):
        pytest.fail("the work began")


def test_an_input_is_refused_although_it_is_a_report(tmp_path: Path) -> None:
    with Ledger(tmp_path / "r.json"):
        pass
    os.link(tmp_path / "r.json", tmp_path / "other.json")
    with (
        pytest.raises(UsageError, match="an input of this run"),
        Ledger(tmp_path / "other.json", Inputs([tmp_path / "r.json"])),
    ):
        pytest.fail("the work began")


@pytest.mark.parametrize("name", ["r.json", "r.jsonl"])
def test_a_file_that_appears_during_the_run_stays_and_the_report_has_another_name(tmp_path: Path, name: str) -> None:
    with Ledger(tmp_path / name) as ledger:
        (tmp_path / name).write_bytes(b"mine")
        ledger.add(made())
    assert (tmp_path / name).read_bytes() == b"mine"
    assert ledger.path == (tmp_path / name).with_stem("r_2")
    assert len(read(ledger.path)) == 2


def test_a_full_disk_ends_the_report_and_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    def run(added: list[int]) -> None:
        with Ledger(tmp_path / "r.jsonl") as ledger:
            monkeypatch.setattr(os, "write", full)
            for count in range(3):
                ledger.add(made(count))
                added.append(count)

    added: list[int] = []
    with pytest.raises(OutputError, match=r"--report .*no space"):
        run(added)
    assert added == [0, 1, 2]
    assert list(tmp_path.iterdir()) == []


def test_all_bytes_are_synced_before_the_name_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bool] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append((tmp_path / "r.json").exists())
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with Ledger(tmp_path / "r.json") as ledger:
        ledger.add(made())
    assert synced[0] is False
