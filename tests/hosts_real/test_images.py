"""Figures of images, the search for the smallest file and the fit, with the images that the WebUI really makes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.hosts_real.kit import choose, long_wait, prompt, result_of, small, take
from tests.hosts_real.rest import Api, Rest, until
from tests.hosts_real.test_replacing import image
from tests.panel_page import expect, open_tab

pytestmark = pytest.mark.needs("generate")
STEPS = 4


@pytest.fixture
def name(api: Api) -> str:
    """A small LoRA of the loaded model's family whose rank can be reduced; not in fp8, where a fit may gain nothing."""
    sound = [one for one in api.files() if not one["problem"] and not one["ours"] and one["fits"] is not False]
    exact = [one for one in sound if not str(one["dtype"]).startswith("F8")]
    return str(min((one for one in exact if (one["rank"] or 0) > 4), key=lambda one: one["bytes"])["name"])


@pytest.fixture
def largest(api: Api) -> str:
    """The LoRA with the most layers: one with text encoders, if there is any."""
    sound = [one for one in api.files() if not one["problem"] and not one["ours"] and one["fits"] is not False]
    return str(max((one for one in sound if (one["rank"] or 0) > 4), key=lambda one: one["layers"])["name"])


def settings(name: str, seed: int = 7) -> dict[str, Any]:
    prompt = f"a cake <lora:{name}:1>"
    return {"prompt": prompt, "seed": seed, "steps": STEPS, "width": 64, "height": 64, "cfg_scale": 4}


def pixels_of(host: Rest, name: str | None, seed: int) -> Any:
    """Return an image through the WebUI's own API, 0 to 1."""
    asked = settings(name or "", seed)
    return image(host, asked if name else {**asked, "prompt": "a cake"}) / 255


def test_a_comparison_has_a_figure_and_a_host_that_repeats_itself_no_noise(api: Api, name: str) -> None:
    made = api.resized(name, target={"rank": 1})
    result = api.done(
        api.post("compare", 202, result=made["result"], settings=settings(name), without=True, seeds=2)["job"]
    )["result"]
    assert result["basis"] == "latents"
    assert result["noise"] < result["effect"] / 3
    assert result["kept"] < 1
    assert result["worst"] <= result["kept"]
    assert api.results()[made["result"]]["effect"]["kept"] == pytest.approx(result["kept"], abs=1e-3)


def test_the_smallest_file_is_found_saved_and_nothing_else_is_left(host: Rest, api: Api, name: str) -> None:
    before, listed = image(host, settings(name)), api.names()
    order = {"name": name, "target": 0.9, "settings": settings(name), "seeds": 2}
    job = api.done(api.post("find", 202, **order)["job"])
    assert job["state"] == "done", job["error"]
    found = job["result"]
    assert not found["weak"], found["text"]
    best = found["best"]
    assert best["accepted"]
    assert best["kept"] >= 0.9
    assert all(one["bytes"] > best["bytes"] for one in found["trials"] if one["accepted"] and one != best)
    assert api.names() == listed
    assert np.array_equal(image(host, settings(name)), before)
    larger = api.done(api.post("find_more", 202, find=found["find"], direction="larger")["job"])["result"]["best"]
    assert larger["bytes"] > best["bytes"]
    saved = api.done(api.post("find_save", 202, find=found["find"])["job"])["result"]
    assert saved["effect"]["kept"] == pytest.approx(larger["kept"], abs=1e-3)
    assert api.names() == listed | {saved["output"]}
    assert kept(host, name, saved["output"], [7, 8]) == pytest.approx(larger["kept"], abs=0.05)  # of pixels


@pytest.mark.needs("prompt", "a1111_page")
def test_a_person_finds_the_smallest_file_in_the_tab_and_saves_it(webui: Any, api: Api, name: str) -> None:
    small(webui, steps=STEPS)
    prompt(webui, f"a cake <lora:{name}:1>")
    open_tab(webui, "resize_lora")
    choose(webui, name)
    webui.locator("#resize_lora_find").click()
    expect(webui.locator("#resize_lora_find_prompt")).to_have_value(f"a cake <lora:{name}:1>")
    webui.locator("#resize_lora_find_seeds").select_option("2")
    webui.locator("#resize_lora_find_goal_9").check(force=True)
    take(webui, "find-form")
    listed = api.names()
    webui.locator("#resize_lora_find_run").click()
    expect(webui.locator("#resize_lora_find_steps button").first).to_be_visible(timeout=long_wait())
    take(webui, "find-running")
    expect(webui.locator("#resize_lora_find_save")).to_be_visible(timeout=long_wait())
    take(webui, "find-found")
    assert api.names() == listed
    webui.locator("#resize_lora_find_save").click()
    expect(webui.locator("dialog[open]")).to_have_count(0, timeout=long_wait())
    (saved,) = until(lambda: api.names() - listed, "the saved file")
    expect(result_of(webui, saved)).to_contain_text("%")
    take(webui, "find-saved")


@pytest.mark.needs("fit")
def test_a_fitted_file_is_nearer_to_the_original_on_seeds_that_were_not_used(host: Rest, api: Api, name: str) -> None:
    target = {"rank": 2}
    before = image(host, settings(name))
    plain = api.resized(name, target=target, options={"suffix": "_plain"})
    fit = {"settings": settings(name, 100), "images": 4, "steps": 4}
    fitted = api.resized(name, target=target, options={"suffix": "_fitted"}, fit=fit)
    assert any(note.startswith("fitted to images") for note in fitted["notes"]), fitted["notes"]
    assert np.array_equal(image(host, settings(name)), before)
    seeds = [31, 32, 33, 34]
    assert kept(host, name, fitted["output"], seeds) > kept(host, name, plain["output"], seeds)


@pytest.mark.needs("fit")
def test_text_encoders_are_fitted_and_left_as_they_were(host: Rest, api: Api, largest: str) -> None:
    """Every fit reports the layers of text encoders, fitted or not."""
    name = largest
    before = image(host, settings(name))
    fit = {"settings": settings(name, 100), "images": 1, "steps": 1}
    notes = api.resized(name, target={"rank": 2}, options={"suffix": "_fitted"}, fit=fit)["notes"]
    of_texts = [note for note in notes if "text encoder" in note]
    if not of_texts:
        pytest.skip(f"{name} has no layers of text encoders")
    assert any(note.startswith("text encoder 1: error on an image that was not used") for note in of_texts), notes
    assert not any(note.startswith("layers truncated plainly") for note in of_texts), notes
    assert np.array_equal(image(host, settings(name)), before)


def kept(host: Rest, name: str, other: str, seeds: list[int]) -> float:
    """Return how much of the effect a file keeps, of the pixels of the WebUI's own images.

    Each image is rounded to 8 bits, which adds 1/12 of a squared level to its variance and 1/6 to a difference's. The
    effect of a small LoRA is not much more than one level.
    """
    rounding = len(seeds) / 6 / 255**2
    originals = [pixels_of(host, name, seed) for seed in seeds]
    away = [np.square(pixels_of(host, other, seed) - one).mean() for seed, one in zip(seeds, originals, strict=True)]
    effect = [np.square(pixels_of(host, None, seed) - one).mean() for seed, one in zip(seeds, originals, strict=True)]
    return float(1 - (np.sum(away) - rounding) / (np.sum(effect) - rounding))
