"""Results in groups, one main action and a menu for each, undo with a countdown, and notes that cover nothing."""

# ruff: noqa: E501 (lines of script)
from __future__ import annotations

import re
from typing import Any

import pytest

from tests.browser.browser_kit import ask, expect, heard, press, row, setup

ONE_GRADIO = True  # see conftest.py

OVERLAPS = """() => {
    const boxes = query => [...document.querySelectorAll(query)].filter(one => one.checkVisibility({visibilityProperty: true, contentVisibilityAuto: true})).map(one => [one, one.getBoundingClientRect()]);
    const found = [];
    for (const [note, a] of boxes('.resize-lora-toast')) for (const [button, b] of boxes('button, input, select, a'))
        if (!note.contains(button) && a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom) found.push(button.outerHTML);
    return found; }"""


def run(page: Any, *names: str) -> None:
    """Resize several LoRAs in one run."""
    setup(page, slow=1)
    row(page, names[0]).click()
    for name in names[1:]:
        row(page, name).click(modifiers=["Control"])
    page.focus("#resize_lora_low")
    page.keyboard.press("Space")
    page.click("#resize_lora_generate")
    expect(page.locator(".resize-lora-result")).to_have_count(len(names))


def test_a_row_has_one_main_action_and_a_menu(page: Any) -> None:
    run(page, "hogs", "dpo", "pastry-sdxl")
    rows = page.locator(".resize-lora-result")
    for i in range(3):
        assert rows.nth(i).locator("button").count() == 2
    rows.first.locator('[data-action="menu"]').click()
    keys = page.locator("#resize_lora_menu [role=menuitem]").evaluate_all("all => all.map(one => one.dataset.key)")
    assert keys == ["generate", "copy", "compare", "find", "show", "undo"]


def test_the_files_of_one_run_are_a_group_with_its_totals(page: Any) -> None:
    run(page, "hogs", "dpo")
    head = page.locator(".resize-lora-run-head")
    expect(head).to_contain_text("2 files")
    before = (860.0 + 750.9) / 1024
    expect(head).to_contain_text(f"{before:.2f} GB →")
    head.locator('[data-action="fold"]').click()
    expect(page.locator(".resize-lora-result").first).to_be_hidden()
    page.locator('[data-action="fold"]').click()
    expect(page.locator(".resize-lora-result").first).to_be_visible()


def test_all_of_a_run_is_undone_by_one_press_and_what_is_refused_stays(page: Any) -> None:
    run(page, "hogs", "dpo", "pastry-sdxl")
    results = page.locator(".resize-lora-result")
    press(page, results.first, "undo")
    expect(page.locator('.resize-lora-result[data-state="trashed"]')).to_have_count(1)
    ask(page, "set", {"faults": {"undo": 1}})
    page.locator('[data-action="undo-all"]').click()
    expect(page.locator('.resize-lora-result[data-state="trashed"]')).to_have_count(2)
    expect(page.locator("#resize_lora_toasts")).to_contain_text("the server stumbled")
    expect(page.locator("#resize_lora_toasts")).to_contain_text("1 file moved to the trash")
    page.locator('[data-action="undo-all"]').click()
    expect(page.locator('.resize-lora-result[data-state="trashed"]')).to_have_count(3)
    expect(page.locator('[data-action="undo-all"]')).to_have_count(0)


@pytest.mark.parametrize("width", [320, 390])
def test_the_buttons_above_the_results_fit_a_phone(page: Any, width: int) -> None:
    run(page, "hogs", "dpo", "pastry-sdxl")
    page.locator('[data-action="undo-all"]').click()
    expect(page.locator("#resize_lora_trash")).to_contain_text("Trash: 3 files")
    page.set_viewport_size({"width": width, "height": 844})
    head = page.locator("#resize_lora_results .resize-lora-results-head")
    wide = "head => [...head.querySelectorAll('button')].filter(one => one.scrollWidth > one.clientWidth).length"
    assert head.evaluate(wide) == 0
    assert head.evaluate("head => head.scrollWidth - head.clientWidth") <= 0


def test_every_run_ends_with_a_toast_that_undoes_it_while_it_counts_down(page: Any) -> None:
    run(page, "hogs", "dpo")
    toast = page.locator('.resize-lora-toast:has([data-action="undo-run"])')
    expect(toast).to_have_count(1)
    expect(toast).to_contain_text("2 files:")
    expect(toast.locator(".resize-lora-clock")).to_have_text(re.compile(r"^1\d s$"))
    toast.locator('[data-action="undo-run"]').click()
    expect(page.locator('.resize-lora-result[data-state="trashed"]')).to_have_count(2)
    assert len([one for one in heard(page) if one["method"] == "undo"]) == 2
    expect(toast).to_have_count(0)


def test_the_countdown_stops_under_the_mouse_and_ends_the_toast(page: Any) -> None:
    setup(page, slow=1)
    page.clock.install()
    row(page, "hogs").click()
    page.clock.run_for(1000)
    page.click("#resize_lora_generate")
    toast = page.locator('.resize-lora-toast:has([data-action="undo-run"])')
    for _ in range(20):
        page.clock.run_for(500)
        if toast.count():
            break
        page.wait_for_timeout(100)
    toast.hover()
    page.clock.run_for(60_000)
    expect(toast).to_have_count(1)
    page.mouse.move(0, 0)
    page.clock.run_for(30_000)
    expect(toast).to_have_count(0)
    expect(page.locator('.resize-lora-result[data-state="there"]')).to_have_count(1)


@pytest.mark.parametrize("width", [1280, 700])
def test_notes_cover_no_button(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    run(page, "hogs", "dpo")
    page.click("#resize_lora_generate")
    expect(page.locator(".resize-lora-toast")).not_to_have_count(0)
    expect(page.locator(".resize-lora-toast").filter(has_text="already resized")).to_be_visible()
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")  # a narrow page has them in the bar at its foot
    assert page.evaluate(OVERLAPS) == []


def test_a_note_in_a_dialog_is_in_the_dialog(page: Any) -> None:
    page.click("#resize_lora_advanced summary")
    page.fill("#resize_lora_recipe", "nonsense=1")
    expect(page.locator("#resize_lora_fault")).to_contain_text("nonsense")  # which moves the buttons down
    page.click("#resize_lora_extract")
    page.select_option("#resize_lora_extract_target", "panel")
    page.click("#resize_lora_extract_run")
    expect(page.locator("dialog .resize-lora-toast")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".resize-lora-actions .resize-lora-toast")).to_be_visible()


def test_the_queue_is_in_view_of_the_button(page: Any) -> None:
    setup(page, paused=True)
    row(page, "hogs").click()
    page.click("#resize_lora_generate")
    expect(page.locator(".resize-lora-job")).to_have_count(1)
    button, queue, results = (
        page.locator(f"#resize_lora_{name}").bounding_box() for name in ("generate", "queue", "results")
    )
    assert button["y"] + button["height"] <= queue["y"] <= button["y"] + 160
    assert queue["y"] + queue["height"] <= results["y"]
