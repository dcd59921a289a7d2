"""Sizes that are estimated while nothing else is to be done, and the plan that is made of them."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lib_resize.demo.synthetic import LoraOptions, write_lora
from lib_resize.panel.service import Service
from lib_resize.studies.survey import SurveyOptions, estimated_entry, survey
from tests.panel.panelhost import Browser, fake_host

ON = {"resize_lora_estimate": True}


def serve(root: Path, tmp_path: Path, **settings: Any) -> Browser:
    return Browser(Service(fake_host(root, set=settings), tmp_path / "cache" / "library.json"))


def end(browser: Browser) -> None:
    browser.service.close()
    browser.service.desk.queue.join()
    browser.service.desk.library.join()


@pytest.fixture
def browser(root: Path, tmp_path: Path) -> Iterator[Browser]:
    made = serve(root, tmp_path)
    made.listed()
    yield made
    end(made)


def estimated(browser: Browser, **params: Any) -> Any:
    return browser.done(browser.ask("estimate", **params)["job"])


def test_estimates_are_those_of_a_survey_and_are_marked(browser: Browser, root: Path, tmp_path: Path) -> None:
    assert estimated(browser) == {"files": 2, "known": 0, "failed": 0}
    found = browser.listed()
    expected = survey(root, SurveyOptions(cache=tmp_path / "other.json"))
    for entry in expected.entries:
        assert entry.figures is not None
        file = found[entry.path.stem]
        assert (file["predicted"], file["estimated"]) == (entry.figures.presets, True)
    assert estimated(browser) == {"files": 0, "known": 2, "failed": 0}


def test_an_analysis_replaces_an_estimate_and_stays(browser: Browser) -> None:
    estimated(browser)
    (exact,) = browser.analysed("pastry")["files"]
    sizes = {preset: found["bytes"] for preset, found in exact["presets"].items()}
    file = browser.listed()["pastry"]
    assert (file["predicted"], file["estimated"]) == (sizes, False)
    estimated(browser)
    assert browser.listed()["pastry"]["predicted"] == sizes


def test_estimates_outlive_a_restart(browser: Browser, root: Path, tmp_path: Path) -> None:
    estimated(browser)
    before = browser.listed()
    end(browser)
    again = serve(root, tmp_path)
    after = again.listed()
    assert {name: (file["predicted"], file["estimated"]) for name, file in after.items()} == {
        name: (file["predicted"], True) for name, file in before.items()
    }
    assert estimated(again) == {"files": 0, "known": 2, "failed": 0}
    end(again)


def test_a_file_that_changed_has_no_estimate_any_more(browser: Browser, root: Path) -> None:
    estimated(browser)
    write_lora(root / "ink.safetensors", LoraOptions(rank=16, text_encoders=False, seed=9))
    browser.ask("library", refresh=True)
    browser.service.desk.library.join()
    assert browser.listed()["ink"]["predicted"] is None
    assert browser.listed()["pastry"]["predicted"] is not None
    estimated(browser)
    assert [job["title"] for job in browser.ask("status")["queue"]] == ["Estimate 2 LoRAs", "Estimate ink"]


def test_files_that_cannot_be_estimated_are_counted_and_not_tried_again(root: Path, tmp_path: Path) -> None:
    text = bytearray((root / "ink.safetensors").read_bytes())
    text[-40000:] = b"\xff" * 40000  # NaN in a layer
    (root / "nan.safetensors").write_bytes(text)
    (root / "broken.safetensors").write_bytes(b"no header")
    browser = serve(root, tmp_path, **ON)
    browser.listed()
    browser.until(lambda: browser.ask("status")["active"] == 0 and browser.ask("status")["queue"])
    (job,) = browser.ask("status")["queue"]
    assert (job["kind"], job["result"]) == ("estimate", {"files": 2, "known": 0, "failed": 1})
    browser.listed()
    assert len(browser.ask("status")["queue"]) == 1, "it is not begun again for the file that failed"
    end(browser)


def test_they_begin_by_themselves_only_where_the_setting_is_on(root: Path, tmp_path: Path) -> None:
    browser = serve(root, tmp_path / "off", resize_lora_estimate=False)
    browser.listed()
    assert browser.ask("status")["queue"] == []
    end(browser)
    browser = serve(root, tmp_path / "on", **ON)
    browser.until(lambda: all(file["predicted"] for file in browser.listed().values()))
    end(browser)


def test_estimates_give_way_to_everything(browser: Browser, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        write_lora(root / f"more {number}.safetensors", LoraOptions(rank=4, text_encoders=False, seed=20 + number))
    browser.listed()
    gate, entered, order = threading.Semaphore(0), threading.Semaphore(0), []

    def held(path: Path, *more: Any) -> Any:
        entered.release()
        gate.acquire(timeout=20)
        order.append("estimate")
        return estimated_entry(path, *more)

    monkeypatch.setattr("lib_resize.panel.estimates.estimated_entry", held)
    job = browser.ask("estimate")["job"]
    assert entered.acquire(timeout=20)
    run = browser.ask("shrink", names=["ink"], target={"preset": "low"}, least_gain=0.0)
    many = browser.ask("analyse", names=["pastry", "more 0"])["job"]
    gate.release()  # the second file is held until all others are done
    browser.done(run["job"])
    browser.done(many)
    assert len(order) == 1, "it went on although a run and an analysis of many files waited"
    for _ in range(10):
        gate.release()
    result = browser.done(job)
    assert result["files"] + result["failed"] == 5


# The plan --------------------------------------------------------------------------------------------------------


def row(browser: Browser, name: str, **params: Any) -> dict[str, Any]:
    (found,) = browser.ask("shrink_plan", names=[name], **params)["rows"]
    return found  # type: ignore[no-any-return]


def test_a_plan_has_what_is_known(browser: Browser) -> None:
    assert row(browser, "pastry", target={"preset": "low"})["predicted"] is None
    assert row(browser, "pastry", target={"preset": "low"})["after"] is None
    estimated(browser)
    found = row(browser, "pastry", target={"preset": "medium"})
    assert found["after"] == found["predicted"]["medium"] < found["bytes"]
    sizes = found["predicted"]
    assert sizes["low"] < row(browser, "pastry", target={"retention": 0.9})["after"] < sizes["medium"]
    assert row(browser, "pastry", target={"retention": 0.5})["after"] is None
    assert row(browser, "pastry", recipe="spn_lora=1,retain=0.9")["after"] is None, "of another score nothing is known"
    assert row(browser, "pastry", target={"rank": 2})["after"] is None
    assert row(browser, "pastry", target={"size": 0.02})["after"] == int(0.02 * 2**20)
    half = row(browser, "pastry", target={"preset": "low"}, options={"dtype": "8"})["after"]
    assert half == round(sizes["low"] / 2)
    assert row(browser, "pastry")["after"] is None
    assert browser.ask("shrink_plan")["recipe"] is None


def test_a_recipe_that_needs_a_base_model_leaves_others_alone(browser: Browser) -> None:
    found = row(browser, "pastry", recipe="fro_ckpt=1,retain=0.9", options={"reference": "none"})
    assert found["left"] == "reference"
    assert "base model" in found["message"]


def test_a_plan_reports_the_disk_and_the_pace(browser: Browser, root: Path) -> None:
    plan = browser.ask("shrink_plan")
    assert plan["pace"] is None
    assert plan["archive"]["folder"] == str(root.parent / "Resize LoRA archive")
    assert plan["archive"]["same_disk"] is True
    assert 0 < plan["archive"]["free"] <= shutil.disk_usage(root).total
    browser.done(browser.ask("shrink", names=["ink"], target={"preset": "low"}, least_gain=0.0)["job"])
    assert browser.ask("shrink_plan")["pace"] > 0
