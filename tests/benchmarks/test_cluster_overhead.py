"""The measure of what a cluster costs a file, on small files."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from benchmarks import cluster_overhead
from lib_resize.demo.synthetic import LoraOptions, write_lora

pytest.importorskip("distributed")


@pytest.mark.parametrize("more", [[], ["--shards"]])
def test_each_way_is_measured_against_the_plain_command(
    more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lora(tmp_path / "a.safetensors", LoraOptions(rank=4))
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "a.safetensors"), "2", "--recipe", "rank=2", *more])
    cluster_overhead.main()
    printed = capsys.readouterr().out
    ways = cluster_overhead.SHARDS if more else cluster_overhead.CLUSTER
    assert re.findall(r"^([^:]+): \d", printed, re.MULTILINE) == list(ways)
    assert printed.splitlines()[0].count("(+0.0%)") == 2, "the plain way is compared with itself"
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
