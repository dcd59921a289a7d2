"""The benchmark of the search, and the laws behind it on a trained model."""

from __future__ import annotations

import json
import os
import statistics
from pathlib import Path

import pytest

pytest.importorskip("torch")

from benchmarks import find

DATA = Path(os.environ.get("RESIZE_LORA_TRAINED") or Path(__file__).parents[2].parent / "shared" / "data")
TOY = DATA.parent / "tools" / "toy_unet"
LORAS = ("toy_unet_thick_rank32", "toy_unet_outline_rank64")

trained = pytest.mark.skipif(
    not TOY.is_dir(), reason=f"no trained model: {TOY} (RESIZE_LORA_TRAINED names the folder next to tools)"
)


@trained
@pytest.mark.parametrize("name", LORAS)
def test_kept_falls_with_the_size_and_four_images_find_what_all_need(name: str, capsys) -> None:
    words = ["--toy", str(TOY), "--lora", str(DATA / f"{name}.safetensors"), "--target", "0.98", "--json"]
    assert find.main(words) == 0
    report = json.loads(capsys.readouterr().out)
    kept = [point["kept"] for point in report["curve"]]
    assert kept == sorted(kept)
    assert kept[0] < 0.98 < kept[-1]
    assert 0.9 <= statistics.median(report["ratios"]) <= 1.1
    assert max(one["images"] for one in report["found"]) <= 25
    assert all(one["kept"] >= 0.98 for one in report["found"])
    assert report["curve"][0]["bytes"] < min(one["bytes"] for one in report["found"])


def test_the_needed_size_is_between_the_points_of_the_curve() -> None:
    curve = [find.Point(100, 0.9, 0.9), find.Point(200, 0.99, 0.99), find.Point(400, 0.999, 0.999)]
    assert find.needed_bytes(curve, 0.99) == pytest.approx(200)
    assert find.needed_bytes(curve, 1 - 10**-2.5) == pytest.approx(200 * 2**0.5)
    assert find.needed_bytes(curve, 0.5) == pytest.approx(100)


def test_a_report_is_printed_in_lines() -> None:
    curve = (find.Point(100, 0.9, 0.8), find.Point(200, 0.99, 0.98))
    report = find.FindReport("one", 0.95, 1000, curve, 150.0, (find.FoundSize(150 * 2, 0.96, 21),))
    text = find.as_text(report)
    assert report.is_falling
    assert "95.0% is kept from 150 bytes on" in text
    assert "2.000" in text
