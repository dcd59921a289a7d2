"""The published table of kinds and hosts is what the hosts' rules make of one layer of every kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.readers.matrix import HOSTS, SAMPLES, table, verdict

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"


def published() -> str:
    text = PAGE.read_text("utf-8").partition("## Which kind loads where\n")[2].partition("\n## ")[0]
    return "\n".join(line for line in text.splitlines() if line.startswith("|"))


def test_the_published_table_is_the_one_that_the_rules_make() -> None:
    assert published() == table(), "run python tests/readers/matrix.py and put its table into docs/formats.md"


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.kind)
def test_every_host_says_something_of_every_kind(sample) -> None:
    known = {"loads", "loads, to another effect", "loads, without the bias", "leaves it out", "refuses the file"}
    assert {verdict(sample, host) for host in HOSTS} <= known


def test_the_rules_tell_hosts_apart() -> None:
    columns = {host: tuple(verdict(sample, host) for sample in SAMPLES) for host in HOSTS}
    assert columns["A1111"] != columns["ComfyUI"] != columns["diffusers"]
    apart = {one.kind for one, a, b in zip(SAMPLES, columns["Forge"], columns["ComfyUI"], strict=True) if a != b}
    assert apart == {"OFT", "OFT with rescale", "OFT with a limit", "BOFT"}
