"""The analysis of a LoRA in the tab: four plots, in both themes, with a description in words."""

# ruff: noqa: E501 (lines of script)
from __future__ import annotations

from typing import Any

import pytest

from tests.browser.browser_kit import ask, expect, heard, row, setup

ONE_GRADIO = True  # see conftest.py


def looked_into(page: Any, name: str = "pastry-sdxl") -> None:
    row(page, name).click()
    expect(page.locator("#resize_lora_look")).to_be_enabled()
    page.click("#resize_lora_look")
    expect(page.locator("#resize_lora_study figure")).to_have_count(4)


def test_one_press_brings_the_four_pictures_of_the_chosen_lora(page: Any) -> None:
    looked_into(page)
    assert [one["params"] for one in heard(page) if one["method"] == "spectra"] == [{"name": "pastry-sdxl"}]
    expect(page.locator("#resize_lora_study")).to_contain_text("pastry-sdxl")
    expect(page.locator("#resize_lora_study .resize-lora-spectra svg")).to_have_count(7)
    cells = page.locator("#resize_lora_study .resize-lora-cell")
    expect(cells).to_have_count(18 * 10 - 2 * 4)
    assert page.locator("#resize_lora_study polyline.resize-lora-method").count() == 7
    expect(page.locator("#resize_lora_study .resize-lora-bytes")).to_have_count(18 + 10)
    first, second = (page.locator("#resize_lora_study .resize-lora-pair svg").nth(i).bounding_box() for i in (0, 1))
    assert first["y"] == second["y"]  # side by side


def test_pictures_are_described_in_words(page: Any) -> None:
    looked_into(page)
    labels = page.locator('#resize_lora_study svg[role="img"]').evaluate_all(
        "all => all.map(one => one.getAttribute('aria-label'))"
    )
    assert all(labels)
    assert labels[0] == "all layers: effective rank 5.5, first value 40 %"
    numbers = page.locator("#resize_lora_study .resize-lora-cell + text")
    expect(numbers.nth(6)).to_have_text("14")  # the second block, 1 + 31 sin(1) / 2


def test_a_line_is_found_by_its_name_with_the_keyboard(page: Any) -> None:
    looked_into(page)
    expect(page.locator("#resize_lora_study polyline.resize-lora-marked")).to_have_count(1)
    page.locator(".resize-lora-legend", has_text="sv_fro").focus()
    marked = page.locator("#resize_lora_study polyline.resize-lora-marked")
    expect(marked).to_have_count(1)
    dashes = page.locator(".resize-lora-legend", has_text="sv_fro").locator("line").get_attribute("stroke-dasharray")
    assert marked.get_attribute("stroke-dasharray") == dashes
    every = page.locator("#resize_lora_study polyline.resize-lora-method").evaluate_all(
        "all => all.map(one => one.getAttribute('stroke-dasharray'))"
    )
    assert len(set(every)) == len(every)


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_on_every_tint_in_both_themes(page: Any, dark: bool) -> None:
    looked_into(page)
    page.evaluate("dark => document.body.classList.toggle('dark', dark)", dark)
    contrasts = page.evaluate("""() => {
        const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
        const light = colour => {
            canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
            const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        return [...document.querySelectorAll('#resize_lora_study .resize-lora-cell')].map(cell => {
            const pair = [getComputedStyle(cell).fill, getComputedStyle(cell.nextElementSibling).fill].map(light).sort((a, b) => a - b);
            return (pair[1] + 0.05) / (pair[0] + 0.05);
        });
    }""")
    assert min(contrasts) >= 4.5


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_is_drawn_in_both_themes(page: Any, theme: str, shot: Any) -> None:
    page.evaluate("dark => document.body.classList.toggle('dark', dark)", theme == "dark")
    page.set_viewport_size({"width": 1280, "height": 2400})
    looked_into(page)
    grounds = {
        part: page.evaluate("part => getComputedStyle(document.querySelector(part)).fill", f"#resize_lora_study {part}")
        for part in (".resize-lora-cell", ".resize-lora-bytes", ".resize-lora-area", ".resize-lora-number")
    }
    assert len(set(grounds.values())) == 4
    shot(page, f"study-{theme}")
    page.set_viewport_size({"width": 1280, "height": 900})


def test_a_failure_is_shown_and_the_button_works_again(page: Any) -> None:
    row(page, "flat-extracted").click()
    page.click("#resize_lora_look")
    expect(page.locator("#resize_lora_toasts")).to_contain_text("holds NaN")
    expect(page.locator("#resize_lora_look")).to_be_enabled()


def test_without_a_lora_or_with_a_broken_one_there_is_nothing_to_press(page: Any) -> None:
    setup(page)
    expect(page.locator("#resize_lora_look")).to_be_disabled()
    row(page, "broken").click()
    expect(page.locator("#resize_lora_look")).to_be_disabled()


def test_it_fits_a_narrow_page(page: Any) -> None:
    page.set_viewport_size({"width": 420, "height": 900})
    looked_into(page)
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    page.set_viewport_size({"width": 1280, "height": 900})


def test_a_name_is_text_and_never_markup(page: Any) -> None:
    from tests.browser.browser_kit import AWKWARD

    looked_into(page, AWKWARD)
    expect(page.locator("#resize_lora_study b")).to_have_count(0)
    assert ask(page, "heard")
