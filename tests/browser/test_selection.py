"""The right side where several LoRAs are selected, and at the first visit."""

from __future__ import annotations

import re
from typing import Any

from tests.browser.browser_kit import ask, estimated, expect, row, setup

ONE_GRADIO = True  # see conftest.py


def pick(page: Any, *names: str) -> None:
    row(page, names[0]).click()
    for name in names[1:]:
        row(page, name).click(modifiers=["Control"])


def megabytes(text: str) -> float:
    found = re.search(r"([\d.]+) (MB|GB)$", text.strip())
    assert found is not None, text
    return float(found[1]) * {"MB": 1, "GB": 1024}[found[2]]


def test_with_several_selected_the_right_side_is_about_all_of_them(page: Any, shot: Any) -> None:
    estimated(page)
    pick(page, "hogs", "dpo", "flat-extracted")
    expect(page.locator("#resize_lora_subject")).to_have_text("3 LoRAs selected")
    expect(page.locator("#resize_lora_plot")).to_be_hidden()
    for preset in ("high", "medium", "low"):
        files = [one for one in ask(page, "library")["files"] if one["name"] in ("hogs", "dpo", "flat-extracted")]
        after = sum(one["predicted"][preset] for one in files) / 2**20
        freed = sum(one["bytes"] for one in files) / 2**20 - after
        box = page.locator(f'#resize_lora_target label[data-key="{preset}"]')
        assert abs(megabytes(box.locator("span").nth(1).inner_text()) - after) < 0.01 * after + 6
        assert abs(megabytes(box.locator("span").nth(2).inner_text()) - freed) < 0.01 * freed + 6
        expect(page.locator(f'#resize_lora_sum_plot [data-key="{preset}"] circle')).to_have_count(1)
    expect(page.locator('#resize_lora_outliers [data-key="most"]')).to_have_text("hogs")
    expect(page.locator('#resize_lora_outliers [data-key="least"]')).to_have_text("flat-extracted")
    expect(page.locator('#resize_lora_outliers [data-key="worst"]')).to_have_count(0)  # no retention is known
    expect(page.locator("#resize_lora_totals")).to_contain_text(re.compile(r"3 selected, .* → .*, frees ≈ .* GB"))
    shot(page, "selection-light")
    page.evaluate("document.body.classList.add('dark')")
    shot(page, "selection-dark")
    row(page, "hogs").click()
    expect(page.locator("#resize_lora_selection")).to_be_hidden()
    expect(page.locator("#resize_lora_plot")).to_be_visible()


def test_what_is_not_known_is_counted_and_never_invented(page: Any) -> None:
    pick(page, "hogs", "dpo")
    page.click("#resize_lora_search")
    expect(page.locator("#resize_lora_selection")).to_contain_text("of 2")
    ask(page, "analyse", {"names": ["flat-extracted"]})
    pick(page, "flat-extracted", "snorlax_sd15")
    selection = page.locator("#resize_lora_selection")
    expect(selection).to_contain_text("1 of 2")
    expect(selection).to_contain_text("1 LoRA is left out: its size is not known.")
    expect(page.locator("#resize_lora_totals")).to_contain_text("1 unknown")


def test_an_outlier_is_found_in_the_library_by_a_press(page: Any) -> None:
    estimated(page)
    pick(page, "hogs", "dpo", "flat-extracted")
    page.locator('#resize_lora_outliers [data-key="least"]').click()
    expect(page.locator(".resize-lora-cursor")).to_have_attribute("data-key", "flat-extracted")
    expect(page.locator("#resize_lora_subject")).to_have_text("3 LoRAs selected")


def test_analysed_files_have_a_curve_and_a_lowest_retention(page: Any) -> None:
    for name in ("hogs", "flat-extracted"):
        row(page, name).click()
        expect(page.locator("#resize_lora_figureSize")).to_contain_text("→")
    row(page, "hogs").click(modifiers=["Control"])
    expect(page.locator('#resize_lora_outliers [data-key="worst"]')).to_have_count(1)
    points = page.locator("#resize_lora_sum_plot polyline").get_attribute("points")
    assert len(points.split()) > 20


def test_a_first_visit_says_what_to_do_until_the_first_resize(page: Any, shot: Any) -> None:
    intro = page.locator("#resize_lora_intro")
    expect(intro.locator("li")).to_have_count(3)
    expect(intro.locator("svg")).to_be_visible()
    shot(page, "first-visit")
    row(page, "hogs").click()
    expect(intro).to_be_hidden()
    page.click("#resize_lora_generate")
    expect(page.locator(".resize-lora-result")).to_have_count(1)
    page.evaluate("document.body.dataset.old = 'true'")
    setup(page)  # a server without results: the browser still knows
    expect(row(page, "hogs")).to_be_visible()
    expect(intro).to_be_hidden()


def test_words_of_experts_are_under_advanced_alone(page: Any) -> None:
    row(page, "hogs").click()
    expect(page.locator("#resize_lora_figureSize")).to_contain_text("→")
    for word in ("Dtype", "Key format", "fro_lora", "float16"):
        assert word not in page.locator("#resize_lora_root").inner_text()
    page.click("#resize_lora_advanced summary")
    expect(page.locator("#resize_lora_recipe")).to_be_visible()
    expect(page.locator("#resize_lora_advanced")).to_contain_text("Key format")
    page.reload(wait_until="commit")
    expect(page.locator("#resize_lora_recipe")).to_be_visible()  # still open
