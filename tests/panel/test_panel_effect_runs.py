"""Runs over a library by the effect on images: each LoRA is replaced by the smallest file that keeps the target."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lib_resize.files.header import MODEL_HASH, read_header
from lib_resize.files.own_record import image_records
from lib_resize.files.reader import SafeFile
from lib_resize.panel.faults import Fault
from lib_resize.panel.picturing import candidates
from lib_resize.panel.runs.document import RunOrder, read_document
from lib_resize.panel.service import Service
from tests.panel.drawing import Drawing, Refining, write_small_lora
from tests.panel.panelhost import Browser, fake_host

TARGET = {"effect": 0.9}
SETTINGS = {"prompt": "a photo of {trigger}", "seed": 5}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "Lora"
    folder.mkdir(parents=True)
    for seed, name in enumerate(("salt", "sugar")):
        write_small_lora(folder / f"{name}.safetensors", seed=seed)
    (folder / "salt.json").write_text('{"activation text": "grains"}', "utf-8")
    return folder


@pytest.fixture
def host(root: Path, drawing: Drawing) -> Any:
    return fake_host(root, latent=drawing.latent)


def shrunk(browser: Browser, **params: Any) -> dict[str, Any]:
    started = browser.ask("shrink", **{"target": TARGET, "settings": SETTINGS, "seeds": 2, "least_gain": 0.0, **params})
    browser.done(started["job"])
    return browser.ask("run", run=started["run"])  # type: ignore[no-any-return]


def test_each_lora_is_replaced_by_the_file_that_a_search_finds(browser: Browser, drawing: Drawing, root: Path) -> None:
    before = {path.stem: path.stat().st_size for path in root.glob("*.safetensors")}
    searched = {}
    for name in before:
        job = browser.ask("find", names=[name], target=0.9, seeds=2, settings=SETTINGS)["job"]
        searched[name] = browser.done(job)["best"]
    found = shrunk(browser)
    assert found["run"]["effect"] == 0.9
    items = {item["name"]: item for item in found["items"]}
    assert {item["state"] for item in items.values()} == {"resized"}
    for name, item in items.items():
        path = root / f"{name}.safetensors"
        assert path.stat().st_size == item["bytes_after"] < before[name]
        assert item["effect"]["kept"] == round(searched[name]["kept"], 4)
        assert item["retention"] == searched[name]["retention"]
        with SafeFile(path) as file:
            assert json.loads(file.header.metadata["resize_lora"])["effect"]["kept"] == item["effect"]["kept"]
    prompts = {one["prompt"] for one in drawing.drawn if one.get("loras") == ["salt"]}
    assert prompts == {"a photo of grains <lora:salt:1>"}
    assert not list((browser.service.desk.library.cache.parent / candidates.FOLDER).rglob("*"))


def test_a_lora_that_its_prompt_hardly_shows_is_left_alone_with_that_reason(
    browser: Browser, host: Any, drawing: Drawing, root: Path
) -> None:
    plain = drawing.latent
    host.latent = lambda request: plain(
        {**request, "loras": [] if "sugar" in str(request) else request.get("loras", [])}
    )
    before = (root / "sugar.safetensors").read_bytes()
    items = {item["name"]: item for item in shrunk(browser)["items"]}
    assert (items["sugar"]["state"], items["sugar"]["reason"]) == ("left", "weak")
    assert items["sugar"]["message"]
    assert items["salt"]["state"] == "resized"
    assert (root / "sugar.safetensors").read_bytes() == before


def test_a_lora_of_which_no_size_keeps_the_target_is_left_alone(
    browser: Browser, host: Any, drawing: Drawing, root: Path
) -> None:
    plain = drawing.latent
    host.latent = lambda request: plain(request) + (3.0 if request.get("files") else 0.0)
    before = {path: path.read_bytes() for path in root.glob("*.safetensors")}
    items = shrunk(browser)["items"]
    assert {(item["state"], item["reason"]) for item in items} == {("left", "effect")}
    assert all("Even the largest file" in item["message"] for item in items)
    assert all(item["effect"]["worst"] <= item["effect"]["kept"] < TARGET["effect"] for item in items)
    assert {path: path.read_bytes() for path in root.glob("*.safetensors")} == before


def test_limits_of_a_run_hold_for_files_that_are_found_by_images(browser: Browser) -> None:
    items = shrunk(browser, least_gain=99.0)["items"]
    assert {(item["state"], item["reason"]) for item in items} == {("left", "gain")}


def test_restoring_brings_the_original_back(browser: Browser, root: Path) -> None:
    before = (root / "salt.safetensors").read_bytes()
    run = shrunk(browser)["run"]["run"]
    assert (root / "salt.safetensors").read_bytes() != before
    browser.done(browser.ask("restore_originals", run=run)["job"])
    assert (root / "salt.safetensors").read_bytes() == before


def test_the_share_of_a_run_rises_from_image_to_image_and_from_file_to_file(
    browser: Browser, host: Any, drawing: Drawing
) -> None:
    seen: list[tuple[int, float]] = []

    def latent(request: Any) -> Any:
        job = Browser(browser.service).ask("status")["queue"][-1]
        seen.append((job["file"], job["share"]))
        return drawing.latent(request)

    host.latent = latent
    shrunk(browser)
    assert seen == sorted(seen)
    first, second = ([share for file, share in seen if file == number] for number in (1, 2))
    assert 0.3 < first[-1] < 0.5 <= second[0] < second[-1] < 1


def test_stopping_the_job_stops_its_image(browser: Browser, host: Any, drawing: Drawing, root: Path) -> None:
    before = {path: path.read_bytes() for path in root.glob("*.safetensors")}
    ids: list[str] = []

    def latent(request: Any) -> Any:
        if len(drawing.drawn) == 6:
            browser.until(lambda: ids)
            Browser(browser.service).ask("cancel", job=ids[0])
        return drawing.latent(request)

    host.latent = latent
    started = browser.ask("shrink", target=TARGET, settings=SETTINGS, seeds=2, least_gain=0.0)
    ids.append(started["job"])
    assert browser.wait(started["job"])["state"] == "cancelled"
    assert ("stop_generating",) in host.events
    assert len(drawing.drawn) == 7
    assert {path: path.read_bytes() for path in root.glob("*.safetensors")} == before


def test_a_paused_run_goes_on_with_its_settings(browser: Browser, host: Any, drawing: Drawing) -> None:
    runs: list[str] = []

    def latent(request: Any) -> Any:
        if len(drawing.drawn) == 6:
            browser.until(lambda: runs)
            Browser(browser.service).ask("run_control", run=runs[0], action="pause")
        return drawing.latent(request)

    host.latent = latent
    started = browser.ask("shrink", target=TARGET, settings=SETTINGS, seeds=2, least_gain=0.0)
    runs.append(started["run"])
    browser.wait(started["job"])
    assert browser.ask("run", run=runs[0])["run"]["state"] == "paused"
    assert len(drawing.drawn) == 7  # after the image of that moment
    going_on = browser.ask("run_control", run=runs[0], action="continue")
    browser.done(going_on["run"]["job"])
    items = browser.ask("run", run=runs[0])["items"]
    assert {item["state"] for item in items} == {"resized"}, items


@pytest.mark.parametrize(
    ("params", "kind"),
    [
        ({"target": {"effect": 0.1}}, "request"),
        ({"target": {"effect": 0.9, "preset": "low"}}, "request"),
        ({"seeds": 3}, "request"),
        ({"options": {"rescale": 0.5}}, "request"),
        ({"settings": {"outdir": "x"}}, "request"),
    ],
)
def test_what_cannot_be_searched_is_reported_before_the_run(browser: Browser, params: Any, kind: str) -> None:
    assert browser.error("shrink", **{"target": TARGET, "settings": SETTINGS, **params})["kind"] == kind
    assert browser.ask("runs")["runs"] == []


def test_a_host_without_images_refuses_such_a_run(browser: Browser, host: Any) -> None:
    host.features = frozenset()
    assert browser.error("shrink", target=TARGET)["kind"] == "unavailable"


def test_the_plan_lists_what_would_be_searched(browser: Browser) -> None:
    plan = browser.ask("shrink_plan", target=TARGET)
    assert [(row["name"], row["left"], row["after"]) for row in plan["rows"]] == [
        ("salt", None, None),
        ("sugar", None, None),
    ]


def test_other_methods_refuse_the_target(browser: Browser) -> None:
    error = browser.error("resize", names=["salt"], target=TARGET)
    assert error["kind"] == "request"
    assert "find" in error["message"]


def test_runs_of_earlier_versions_have_no_target() -> None:
    order = {"recipe": "rank=1", "options": {}, "again": False, "least_gain": 1.0, "floor": None, "originals": "none"}
    document = {
        "version": 1, "id": "a", "began": 0, "ended": None, "state": "done", "message": "", "order": order, "items": [],
    }  # fmt: skip
    assert read_document(document, "a").order == RunOrder("rank=1", {}, least_gain=1.0, originals="none")


# Fitted files ------------------------------------------------------------------------------------------------------


class Fits:
    """What was fitted: the checked `Fit` of each LoRA, and one fit that changes nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: dict[str, Any] = {}
        self.refining = Refining()
        self.fault: Fault | None = None
        for module in ("picturing.finder", "runs.one_file"):
            monkeypatch.setattr(f"lib_resize.panel.{module}.refine_for", self._refine_for)
        for module in ("picturing.orders", "methods.runs"):
            monkeypatch.setattr(f"lib_resize.panel.{module}.check_can_fit", self._check)

    def _check(self, _: Any) -> None:
        if self.fault is not None:
            raise self.fault

    def _refine_for(self, desk: Any, lora: Any, source: Any, fit: Any, lists: Any) -> Any:
        self.asked[lora.name] = fit
        return self if self.fault is not None else self.refining

    @property
    def longest(self) -> Any:
        return self.refining.longest

    @property
    def images_left(self) -> int:
        return self.refining.images_left

    def __call__(self, job: Any, runtime: Any) -> Any:
        self._check(None)
        return job


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> Fits:
    return Fits(monkeypatch)


PLAIN = {"target": {"preset": "low"}}


@pytest.mark.parametrize("target", [{"target": TARGET}, PLAIN], ids=["images", "recipe"])
def test_a_run_fits_each_lora_with_a_prompt_of_its_own(browser: Browser, fits: Fits, target: Any) -> None:
    items = {item["name"]: item for item in shrunk(browser, **target, fit=True)["items"]}
    assert {item["state"] for item in items.values()} == {"resized"}
    prompts = {name: fit["settings"]["prompt"] for name, fit in fits.asked.items()}
    assert prompts == {"salt": "a photo of grains <lora:salt:1>", "sugar": "a photo of  <lora:sugar:1>"}
    seeds = {fit["settings"]["seed"] for fit in fits.asked.values()}
    assert seeds == {SETTINGS["seed"] if target is PLAIN else 1005}  # none of those that the figure is of
    if target is PLAIN:
        assert {item["bytes_after"] for item in items.values()} <= set(fits.refining.bytes)


def test_a_run_writes_the_fitted_tensors_that_were_drawn(
    browser: Browser, host: Any, fits: Fits, drawing: Drawing, root: Path, tmp_path: Path
) -> None:
    names = {path.stem: read_header(path).metadata.get("ss_output_name") for path in root.glob("*.safetensors")}
    drawn = set[str]()

    def latent(request: Any) -> Any:
        drawn.update(read_header(path).metadata[MODEL_HASH] for path in request.get("files", {}).values())
        return drawing.latent(request)

    host.latent = latent
    items = shrunk(browser, target=TARGET, fit=True)["items"]
    assert {item["state"] for item in items} == {"resized"}
    for item in items:
        path = root / f"{item['name']}.safetensors"
        assert path.stat().st_size == item["bytes_after"]
        metadata = read_header(path).metadata
        assert metadata[MODEL_HASH] in drawn
        assert metadata.get("ss_output_name") == names[item["name"]]
        assert image_records(metadata).effect is not None
    assert not list((tmp_path / "cache" / "trials").rglob("*.safetensors"))


def test_without_fit_nothing_is_fitted(browser: Browser, fits: Fits) -> None:
    shrunk(browser)
    shrunk(browser, **PLAIN, again=True)
    assert fits.asked == {}


def test_limits_hold_before_any_image_of_a_fit(browser: Browser, fits: Fits) -> None:
    items = shrunk(browser, **PLAIN, fit=True, least_gain=99.0)["items"]
    assert {item["reason"] for item in items} == {"gain"}
    assert fits.refining.bytes == []


def test_a_lora_that_the_model_does_not_fit_is_left_alone(browser: Browser, host: Any, fits: Fits, root: Path) -> None:
    before = {path: path.read_bytes() for path in root.glob("*.safetensors")}
    host.working_on = "an image of the person"
    run = browser.ask("shrink", **PLAIN, settings=SETTINGS, fit=True, least_gain=0.0)
    fits.fault = Fault("reference", "No model is loaded.")
    host.working_on = None
    browser.done(run["job"])
    items = browser.ask("run", run=run["run"])["items"]
    left = {(item["state"], item["reason"], item["message"]) for item in items}
    assert left == {("left", "reference", "No model is loaded.")}
    assert {path: path.read_bytes() for path in root.glob("*.safetensors")} == before


def test_a_run_goes_on_with_its_fit_after_a_restart(
    browser: Browser, host: Any, fits: Fits, tmp_path: Path, drawing: Drawing
) -> None:
    host.working_on = "an image of the person"
    started = browser.ask("shrink", target=TARGET, settings=SETTINGS, seeds=2, least_gain=0.0, fit=True)
    browser.service.close()
    browser.service.desk.queue.join()
    host.working_on = None
    later = Service(host, tmp_path / "cache" / "library.json")
    page = Browser(later)
    try:
        assert page.ask("run", run=started["run"])["run"]["state"] == "interrupted"
        fits.fault = Fault("reference", "No model is loaded.")
        assert page.error("run_control", run=started["run"], action="continue")["kind"] == "reference"
        assert page.ask("run", run=started["run"])["run"]["state"] == "interrupted"
        fits.fault = None
        page.done(page.ask("run_control", run=started["run"], action="continue")["run"]["job"])
        assert {item["state"] for item in page.ask("run", run=started["run"])["items"]} == {"resized"}
    finally:
        later.close()
        later.desk.queue.join()
    assert {fit["settings"]["seed"] for fit in fits.asked.values()} == {1005}
    assert set(fits.asked) == {"salt", "sugar"}


def test_a_host_that_cannot_fit_refuses_before_the_run(browser: Browser) -> None:
    assert browser.error("shrink", **PLAIN, settings=SETTINGS, fit=True)["kind"] == "unavailable"
    assert browser.ask("runs")["runs"] == []


# The model of the images -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [{"target": TARGET}, {**PLAIN, "fit": True}], ids=["images", "fit"])
def test_a_lora_of_another_family_than_the_loaded_checkpoint_is_left_alone(
    browser: Browser, host: Any, fits: Fits, drawing: Drawing, params: Any
) -> None:
    family = browser.listed()["salt"]["family"]
    assert family is not None
    host.model = SimpleNamespace(title="other", path=None, family="Flux", quantised=lambda: None)
    host.selected = None
    rows = browser.ask("shrink_plan", **params)["rows"]
    assert {row["left"] for row in rows} == {"reference"}
    assert f"It is made for {family}, the checkpoint of the images other is Flux." in {row["message"] for row in rows}
    shrunk(browser, **params)
    assert drawing.drawn == []
    assert {row["left"] for row in browser.ask("shrink_plan", **PLAIN)["rows"]} == {None}


def test_the_plan_has_the_pace_of_images_once_it_was_measured(browser: Browser) -> None:
    assert browser.ask("shrink_plan", target=TARGET)["image_pace"] is None
    shrunk(browser)  # the steps are the host's own
    assert browser.ask("shrink_plan", target=TARGET)["image_pace"] is None
    shrunk(browser, settings={**SETTINGS, "steps": 20}, again=True)
    plan = browser.ask("shrink_plan", target=TARGET)
    assert plan["image_pace"] > 0
    assert plan["pace"] is None  # bytes do not tell how long images take
