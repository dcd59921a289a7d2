"""What is typed and what is shown for it: one truth at a time."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.browser.browser_kit import ask, expect, heard, open_advanced, row, setup, shown_in, until_heard

ONE_GRADIO = True  # see conftest.py

GENERATE, FIGURES = "#resize_lora_generate", ".resize-lora-figures"
NONE = "\u2013"


def analysed(page: Any, name: str = "pastry-sdxl") -> None:
    row(page, name).click()
    expect(page.locator("#resize_lora_figureSize")).to_contain_text("→")
    expect(page.locator(FIGURES)).to_have_attribute("aria-busy", "false")


def asked(page: Any, method: str) -> list[dict[str, Any]]:
    return [one["params"] for one in heard(page) if one["method"] == method]


def test_half_a_recipe_is_never_planned_and_old_figures_look_old(page: Any) -> None:
    analysed(page)
    open_advanced(page)
    ask(page, "set", {"delays": {"plan": 0.5}})
    page.locator("#resize_lora_low").check(force=True)  # its plan is on the way while the recipe is typed
    page.wait_for_timeout(150)
    page.locator("#resize_lora_recipe").fill("fro_lora=1,siz")
    assert "resize-lora-stale" in page.locator(FIGURES).get_attribute("class")
    expect(page.locator(GENERATE)).to_be_disabled()
    expect(page.locator("#resize_lora_fault")).to_contain_text("unknown word 'siz'")
    expect(page.locator("#resize_lora_figureSaved")).to_have_text(NONE)
    page.locator("#resize_lora_recipe").fill("fro_lora=1,retain=0.95")
    expect(page.locator(GENERATE)).to_be_enabled()
    expect(page.locator("#resize_lora_figureSaved")).not_to_have_text(NONE)
    assert [one["recipe"] for one in asked(page, "plan") if "recipe" in one] == ["fro_lora=1,retain=0.95"]


def test_an_answer_about_an_older_recipe_is_dropped(page: Any) -> None:
    ask(page, "set", {"held": ["check_recipe"]})
    open_advanced(page)
    shown = shown_in(page, "#resize_lora_fault")
    page.fill("#resize_lora_recipe", "fro_lora=1,siz")
    until_heard(page, "check_recipe", 1)
    page.fill("#resize_lora_recipe", "fro_lora=1,tnr=3")
    ask(page, "set", {"held": []})
    expect(page.locator("#resize_lora_fault")).to_contain_text("unknown word 'tnr'")
    assert "'siz'" not in shown()


def test_figures_are_those_of_the_last_choice_however_late_the_answers_come(page: Any) -> None:
    analysed(page)
    ask(page, "set", {"delays": {"plan": 0.4}})
    page.select_option("#resize_lora_meaning", "rank")
    for rank in (20, 4):
        page.fill("#resize_lora_number", str(rank))
        page.wait_for_timeout(350)
    assert "resize-lora-stale" in page.locator(FIGURES).get_attribute("class")
    assert page.locator(FIGURES).get_attribute("aria-busy") == "true"
    expect(page.locator("#resize_lora_figureRanks")).to_contain_text("…4")
    expect(page.locator(FIGURES)).to_have_attribute("aria-busy", "false")
    expect(page.locator(FIGURES)).not_to_have_class(re.compile("resize-lora-stale"))
    expect(page.locator("#resize_lora_plot")).not_to_have_class(re.compile("resize-lora-stale"))


@pytest.mark.parametrize("typed", ["0.5", "4"])  # below the curve; and below what the server can do
def test_a_size_that_cannot_be_reached_is_refused_everywhere_at_once(page: Any, typed: str) -> None:
    analysed(page)
    page.fill("#resize_lora_number", typed)
    expect(page.locator("#resize_lora_warnings")).to_contain_text(re.compile("cannot be reached|too small"))
    expect(page.locator(GENERATE)).to_be_disabled()
    expect(page.locator("#resize_lora_figureSize")).to_have_text("218 MB")
    expect(page.locator("#resize_lora_figureSaved")).to_have_text(NONE)
    expect(page.locator("#resize_lora_plot .resize-lora-choice")).to_have_count(0)
    expect(page.locator("#resize_lora_number")).to_have_value(typed)
    expect(page.locator("#resize_lora_number")).to_have_attribute("aria-invalid", "true")
    assert page.locator("#resize_lora_slider").input_value() == "0"
    expect(row(page, "pastry-sdxl").locator(".resize-lora-col-after")).to_have_text(NONE)
    page.fill("#resize_lora_number", "40")
    expect(page.locator(GENERATE)).to_be_enabled()
    expect(page.locator("#resize_lora_plot .resize-lora-choice")).to_have_count(1)
    expect(page.locator("#resize_lora_warnings")).to_be_empty()


def test_a_number_counts_as_it_is_typed_and_nonsense_runs_nothing(page: Any) -> None:
    analysed(page)
    page.fill("#resize_lora_number", "")
    expect(page.locator(GENERATE)).to_be_disabled()
    page.fill("#resize_lora_number", "40")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".resize-lora-result")).to_have_count(1)
    assert asked(page, "resize")[-1]["target"] == {"size": 40}


def test_what_was_typed_into_a_field_counts_though_it_was_not_left(page: Any) -> None:
    analysed(page)
    open_advanced(page)
    page.fill("#resize_lora_suffix", "_mine")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".resize-lora-result")).to_have_count(1)
    assert asked(page, "resize")[-1]["options"] == {"suffix": "_mine"}


def test_another_loaded_checkpoint_makes_the_figures_old(page: Any) -> None:
    setup(page)
    analysed(page)
    before = len(asked(page, "plan"))
    ask(page, "set", {"reference": {"kind": "memory", "title": "another", "family": "SDXL", "note": ""}})
    page.click("#resize_lora_generate")
    expect(page.locator("#resize_lora_reference")).to_contain_text("another")
    expect(page.locator(FIGURES)).to_have_attribute("aria-busy", "false")
    assert len(asked(page, "plan")) > before
