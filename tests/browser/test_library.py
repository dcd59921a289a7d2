"""Rows that know each other, filters that stay, and selecting with mouse and keyboard."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.browser.browser_kit import ask, estimated, expect, heard, row, setup

ONE_GRADIO = True  # see conftest.py

NAMES = ".resize-lora-row:visible"
SMALL = "pastry-sdxl_46mb"


def shown(page: Any) -> list[str]:
    found: list[str] = page.locator(NAMES).evaluate_all("rows => rows.map(row => row.dataset.key)")
    return sorted(found)


def selected(page: Any) -> list[str]:
    found: list[str] = page.locator('.resize-lora-row[aria-selected="true"]').evaluate_all(
        "rows => rows.filter(row => !row.hidden).map(row => row.dataset.name)"
    )
    return sorted(found)


def test_an_original_and_its_versions_are_one_row_that_unfolds(page: Any, shot: Any) -> None:
    original = row(page, "pastry-sdxl")
    expect(original.locator(".resize-lora-badge")).to_have_text("\u221279 %")
    expect(original).to_have_attribute("aria-expanded", "false")
    expect(row(page, SMALL)).to_have_count(0)
    original.locator('[data-action="unfold"]').click()
    expect(original).to_have_attribute("aria-expanded", "true")
    expect(row(page, SMALL)).to_have_attribute("aria-level", "2")
    expect(row(page, SMALL).locator(".resize-lora-badge")).to_have_text("\u221279 %")
    shot(page, "unfolded")
    original.locator('[data-action="unfold"]').click()
    expect(row(page, SMALL)).to_have_count(0)
    expect(row(page, "hogs")).not_to_have_attribute("aria-expanded", re.compile("."))


def test_the_keyboard_unfolds_too_and_goes_from_a_version_to_its_original(page: Any) -> None:
    row(page, "pastry-sdxl").click()
    page.focus("#resize_lora_list")
    page.keyboard.press("ArrowRight")
    expect(row(page, SMALL)).to_be_visible()
    page.keyboard.press("ArrowDown")
    expect(page.locator(".resize-lora-cursor")).to_have_attribute("data-key", SMALL)
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".resize-lora-cursor")).to_have_attribute("data-key", "pastry-sdxl")
    page.keyboard.press("ArrowLeft")
    expect(row(page, SMALL)).to_have_count(0)


def test_a_version_that_a_search_finds_is_shown_below_its_original(page: Any) -> None:
    page.fill("#resize_lora_search", "46mb")
    expect(row(page, SMALL)).to_be_visible()
    assert shown(page) == ["pastry-sdxl", SMALL]


def test_two_files_of_one_name_are_two_rows_and_the_unused_one_says_so(page: Any) -> None:
    ask(page, "appear", {"name": "twin", "mib": 30, "same_name": [{"folder": "old", "bytes": 20 << 20}]})
    page.click("#resize_lora_refresh")
    used, unused = row(page, "twin"), page.locator('.resize-lora-row[data-other="true"]:visible')
    expect(used).to_contain_text("used by the WebUI")
    expect(unused).to_have_count(1)
    expect(unused).to_contain_text("20.0 MB")
    expect(unused).to_have_attribute("title", "Not used: the WebUI uses the file of this name in styles.")
    unused.click()
    assert selected(page) == []


def test_filters_stay_for_the_next_visit_and_one_press_clears_them(page: Any) -> None:
    estimated(page)
    page.select_option("#resize_lora_show", "new")
    page.fill("#resize_lora_gain", "50")
    page.click('[data-column="gain"]')
    expect(page.locator("#resize_lora_row_0")).to_have_attribute("data-key", "hogs")
    assert shown(page) == ["dpo", "hogs", "snorlax_sd15"]
    page.reload(wait_until="commit")
    expect(row(page, "hogs")).to_be_visible()
    assert shown(page) == ["dpo", "hogs", "snorlax_sd15"]
    expect(page.locator("#resize_lora_show")).to_have_value("new")
    expect(page.locator("#resize_lora_gain")).to_have_value("50")
    expect(page.locator('[data-column="gain"]')).to_have_attribute("data-order", "down")
    page.click('[data-action="clear-filter"]')
    expect(row(page, "broken")).to_be_visible()
    expect(page.locator('[data-action="clear-filter"]')).to_be_hidden()


def test_by_folder_and_by_what_cannot_be_resized(page: Any) -> None:
    page.select_option("#resize_lora_in_folder", "styles/animals")
    expect(row(page, "dpo")).to_have_count(0)
    assert shown(page) == ["hogs"]
    page.select_option("#resize_lora_in_folder", "")
    page.select_option("#resize_lora_show", "broken")
    expect(row(page, "hogs")).to_have_count(0)
    assert shown(page) == ["broken"]


def test_a_filter_of_which_nothing_is_left_says_so_and_can_be_cleared(page: Any) -> None:
    page.evaluate("""localStorage.setItem('resize-lora-filter', '{"family": "Flux", "sort": "nonsense"}')""")
    page.reload(wait_until="commit")
    expect(page.locator("#resize_lora_list")).to_contain_text("No LoRA matches the filter.")
    expect(page.locator("#resize_lora_family")).to_have_value("Flux")
    page.click('[data-action="clear-filter"]')
    expect(row(page, "hogs")).to_be_visible()


def test_what_is_not_known_is_shown_as_unknown_and_an_estimate_as_one(page: Any) -> None:
    after, gain = (row(page, "hogs").locator(f".resize-lora-col-{name}") for name in ("after", "gain"))
    expect(after).to_have_text("not analysed")
    expect(gain).to_be_empty()
    estimated(page)
    expect(after).to_have_text(re.compile("^≈ .* MB$"))
    expect(gain).to_have_text(re.compile("^≈ .* MB$"))
    for cell in (after, gain):
        for text in ("≈ 88.8 MB", "≈ 888 MB", "≈ 8.88 GB"):
            cell.evaluate("(cell, text) => { cell.textContent = text; }", text)
            assert cell.evaluate("cell => cell.scrollWidth <= cell.clientWidth"), f"{text} is cut"
    row(page, "hogs").click()
    expect(after).to_have_text(re.compile("^→ .* MB$"))
    expect(row(page, "broken").locator(".resize-lora-col-after")).to_have_text("not resizable")


def test_dragging_selects_rows_and_a_finger_does_not(page: Any, phone: Any) -> None:
    first, last = (row(page, name).bounding_box() for name in ("hogs", "pastry-sdxl"))
    page.mouse.move(first["x"] + 150, first["y"] + 10)
    page.mouse.down()
    page.mouse.move(last["x"] + 150, last["y"] + 5, steps=8)
    page.mouse.move(last["x"] + 150, last["y"] + 15)
    page.mouse.up()
    assert selected(page) == ["dpo", "hogs", "pastry-sdxl"]
    expect(page.locator("#resize_lora_subject")).to_have_text("3 LoRAs selected")
    row(phone, "hogs").tap()
    assert selected(phone) == ["hogs"]


def test_a_preview_is_shown_large_under_the_mouse_and_on_demand(page: Any) -> None:
    image = row(page, "pastry-sdxl").locator(".resize-lora-preview")
    expect(image).to_have_attribute("src", re.compile("^data:"))
    small = image.bounding_box()["height"]
    image.hover()
    expect(page.locator("#resize_lora_preview img")).to_be_visible()
    page.mouse.move(5, 5)
    expect(page.locator("#resize_lora_preview")).to_have_count(0)
    page.click('[data-action="large"]')
    assert image.bounding_box()["height"] > 2 * small
    page.reload(wait_until="commit")
    expect(page.locator('[data-action="large"]')).to_have_attribute("aria-pressed", "true")


def test_a_question_mark_shows_the_keys_but_not_while_one_types(page: Any) -> None:
    page.focus("#resize_lora_search")
    page.keyboard.press("?")
    expect(page.locator("dialog")).to_have_count(0)
    page.focus("#resize_lora_list")
    page.keyboard.press("?")
    expect(page.locator("#resize_lora_keys")).to_contain_text("Ctrl+Enter")


def test_trigger_words_the_page_and_the_folder_of_a_lora(page: Any) -> None:
    row(page, "pastry-sdxl").click()
    details = page.locator("#resize_lora_details")
    expect(details).to_contain_text("prbstyle, a <b>cake</b>")
    link = details.locator('[data-action="civitai"]')
    expect(link).to_have_attribute("href", "https://civitai.com/models/7?modelVersionId=12")
    expect(link).to_have_attribute("rel", "noopener noreferrer")
    expect(details.locator('[data-what="record"]')).to_have_text(
        [
            "Effect kept: 97.8 % · Worst image: 96.1 % · Images: 4 · Euler a · 20 steps · 64×64",  # noqa: RUF001
            "Fitted to images: 771 layers · Images: 4 · 4 steps · unet: error 0.241 instead of 0.357",
        ]
    )
    details.locator('[data-action="open-folder"]').click()
    page.wait_for_timeout(300)
    assert [one["params"] for one in heard(page) if one["method"] == "open_folder"] == [{"name": "pastry-sdxl"}]
    row(page, "hogs").click()
    expect(details.locator('[data-action="civitai"]')).to_have_count(0)
    expect(details.locator('[data-what="record"]')).to_have_count(0)


def test_a_remote_page_offers_no_folder(page: Any) -> None:
    setup(page, remote=True)
    row(page, "pastry-sdxl").click()
    expect(page.locator("#resize_lora_details")).to_contain_text("prbstyle")
    expect(page.locator('[data-action="open-folder"]')).to_have_count(0)


@pytest.mark.parametrize("name", ["a_very_long_name_of_a_lora_that_has_no_room_at_all_in_the_row_46mb"])
def test_a_long_name_shows_its_end(page: Any, name: str) -> None:
    ask(page, "appear", {"name": name, "mib": 30})
    page.click("#resize_lora_refresh")
    title = row(page, name).locator(".resize-lora-title")
    expect(title).to_have_attribute("title", name)
    places = title.evaluate("one => [one, one.lastChild].map(part => part.getBoundingClientRect().right)")
    assert places[1] <= places[0] + 0.5  # its end is inside
    assert title.evaluate("one => one.firstChild.scrollWidth > one.firstChild.clientWidth")  # and its middle is cut
    expect(title.locator("span").last).to_have_text(name[-8:])


def test_sizes_below_ten_kilobytes_and_single_files_read_right(page: Any) -> None:
    setup(page, files="none")
    ask(page, "appear", {"name": "tiny", "mib": 8 / 1024})
    page.click("#resize_lora_refresh")
    expect(row(page, "tiny").locator(".resize-lora-col-bytes")).to_have_text("8.00 KB")
    expect(page.locator("#resize_lora_library")).to_contain_text("1 file · 8.00 KB")
    assert "1 files" not in page.locator("#resize_lora_root").inner_text()
