"""The measure of what a cluster costs a file, on small files."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from benchmarks import cluster_overhead
from lib_resize.demo.synthetic import LoraOptions, write_lora

pytest.importorskip("distributed")


def test_each_way_is_measured_against_the_plain_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lora(tmp_path / "a.safetensors", LoraOptions(rank=4))
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "a.safetensors"), "2", "--recipe", "rank=2"])
    cluster_overhead.main()
    printed = capsys.readouterr().out
    assert re.findall(r"^([^:]+): \d", printed, re.MULTILINE) == list(cluster_overhead.WAYS)
    assert len(re.findall(r"\(\+0\.0%\)", printed)) >= 4, "the plain ways are compared with themselves"
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
