"""The benchmark of the search, and the laws behind it on a trained model."""

from __future__ import annotations

import json
import os
import statistics
from pathlib import Path
from typing import Any

import numpy as np
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
    _check_spread(report["spread"])


def _check_spread(spread: list[dict[str, Any]]) -> None:
    """Four images are within 10 % of all others in eight of ten draws, once the image that loses most is set aside.

    With that image among them the mean itself is uncertain; the rule about the worst image only asks for more.
    """
    whole, others = spread[: len(find.FEW)], spread[len(find.FEW) :]
    assert [(one["images"], one["of"]) for one in whole] == [(images, find.IMAGES) for images in find.FEW]
    assert [(one["images"], one["of"]) for one in others] == [(images, find.IMAGES - 1) for images in find.FEW]
    four = others[find.FEW.index(4)]
    assert 0.9 <= four["mean"][0] <= four["mean"][2] <= 1.1
    assert 0.9 <= four["both"][0] <= four["both"][2] <= 1.1
    widths = [one["mean"][2] / one["mean"][0] for one in others]
    assert widths == sorted(widths, reverse=True)  # more images are more certain
    assert all(both >= mean for one in spread for mean, both in zip(one["mean"], one["both"], strict=True))
    assert 0.85 <= whole[find.FEW.index(4)]["mean"][1] <= 1.1


def test_the_needed_size_is_between_the_points_of_the_curve() -> None:
    curve = [find.Point(100, 0.9, 0.9), find.Point(200, 0.99, 0.99), find.Point(400, 0.999, 0.999)]
    assert find.needed_bytes(curve, 0.99) == pytest.approx(200)
    assert find.needed_bytes(curve, 1 - 10**-2.5) == pytest.approx(200 * 2**0.5)
    assert find.needed_bytes(curve, 0.5) == pytest.approx(100)


def test_a_single_image_decides_what_few_images_need_where_it_loses_most() -> None:
    """Of ten images one loses as much as all others together, so most draws need less than all do."""
    lost = np.array([9.0] + [1.0] * 9) * 16 / 90
    curve = [find.Point(100 * 2**i, 1 - lost.mean() / 4**i, 0.0, tuple(map(float, lost / 4**i))) for i in range(6)]
    heaviest, share = find.heaviest_of(curve, 200.0)
    assert heaviest == 0
    assert share == pytest.approx(0.5)
    one, *_ = find.spread_of(curve, [1.0] * 10, 0.98, range(10))
    whole = find.needed_bytes(curve, 0.98)
    assert one.mean[0] == one.mean[1] < 1.0  # a quarter of the loss takes half the bytes
    assert one.mean[1] == pytest.approx((lost[1] / lost.mean()) ** 0.5)
    assert whole == pytest.approx(100 * (lost.mean() / 0.02) ** 0.5)
    rest, *_ = find.spread_of(curve, [1.0] * 10, 0.98, range(1, 10))
    assert rest.mean == pytest.approx((1.0, 1.0, 1.0))
    assert rest.both == rest.mean


def test_a_report_is_printed_in_lines() -> None:
    curve = (find.Point(100, 0.9, 0.8), find.Point(200, 0.99, 0.98))
    report = find.FindReport("one", 0.95, 1000, curve, 150.0, (find.FoundSize(150 * 2, 0.96, 21),))
    text = find.as_text(report)
    assert report.is_falling
    assert "95.0% is kept from 150 bytes on" in text
    assert "2.000" in text
