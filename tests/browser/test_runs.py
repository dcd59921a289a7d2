"""Runs over a library: the dialog before anything is written, the row of a run, its report, and the archive."""

# ruff: noqa: E501, RUF001 (lines of script; figures as the page shows them)
from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.browser.browser_kit import AWKWARD, ask, drawn, expect, heard, open_advanced, row, setup, until_heard

DIALOG = "dialog.resize-lora-dialog"
RUN = ".resize-lora-run"
TOASTS = "#resize_lora_toasts"
GOOD = ["pastry-sdxl", "hogs", "dpo", "snorlax_sd15", "flat-extracted", AWKWARD]
"""LoRAs of the stub that can be resized and were not."""


def estimated(page: Any, **settings: Any) -> None:
    """Loads the page anew with the sizes of all presets known."""
    setup(page, **settings)
    ask(page, "estimate")
    for _ in range(5):
        ask(page, "status")
    page.reload(wait_until="commit")
    drawn(page)


def opened(page: Any) -> Any:
    page.click("#resize_lora_shrink")
    box = page.locator(DIALOG)
    expect(box).to_have_attribute("aria-busy", "false")
    return box


def act(place: Any, action: str) -> Any:
    """The button of an action; a toast in an open dialog has its own."""
    return place.locator(f'[data-action="{action}"]:not(.resize-lora-toast *)')


def sums(box: Any, preset: str) -> str:
    text: str = box.locator(f'tr[data-key="{preset}"]').inner_text()
    return re.sub(r"\s+", " ", text).strip()


def asked(page: Any, method: str) -> list[dict[str, Any]]:
    return [one["params"] for one in heard(page) if one["method"] == method]


def shrunk(page: Any, **settings: Any) -> None:
    """A run over the whole library that has ended."""
    estimated(page, **settings)
    act(opened(page), "run").click()
    expect(page.locator(f'{RUN}[data-state="done"]')).to_have_count(1)


def report(page: Any) -> Any:
    act(page.locator(RUN).first, "report").click()
    return page.locator(DIALOG)


def listed(box: Any) -> list[str]:
    names = box.locator(".resize-lora-item:visible")
    keyed = [(float(one.get_attribute("aria-posinset")), one.get_attribute("data-key")) for one in names.all()]
    return [name for _, name in sorted(keyed)]


# Before anything is written


def test_the_dialog_shows_all_presets_and_writes_nothing(page: Any, shot: Any) -> None:
    estimated(page, pace=1e-7)
    box = opened(page)
    assert sums(box, "high") == "High 5 1.98 GB → 912 MB 1.09 GB (−55 %)"
    assert sums(box, "low").startswith("Low 6 2.07 GB → ")
    expect(box.locator(".resize-lora-left-list")).to_contain_text("Left alone: 3")
    expect(box.get_by_role("status").first).to_contain_text("freed · about")
    expect(act(box, "run")).to_have_text("Shrink 5 LoRAs")
    shot(page, "runs-shrink")
    act(box, "cancel").click()
    expect(box).to_have_count(0)
    assert asked(page, "shrink") == []


def test_a_limit_changes_the_sums_without_asking_the_server(page: Any) -> None:
    estimated(page)
    box = opened(page)
    before = len(heard(page))
    box.locator("#resize_lora_least_gain").fill("4")
    expect(act(box, "run")).to_have_text("Shrink 6 LoRAs")
    box.locator("#resize_lora_least_gain").fill("50")
    expect(act(box, "run")).to_have_text("Shrink 5 LoRAs")  # flat-extracted gains 5 %
    group = box.locator('.resize-lora-left-list [data-key="gain"]')
    expect(group.locator("summary")).to_have_text("Gains too little: 1")
    group.locator("summary").click()
    expect(group.locator("li")).to_contain_text("flat-extracted")
    folders = box.locator('details[data-key="folders"]')
    folders.locator("summary").click()
    folders.locator('input[data-key="styles"]').check()
    expect(act(box, "run")).to_have_text("Shrink 2 LoRAs")
    expect(folders.locator("summary")).to_have_text("Excluded folders: styles")
    folders.locator('input[data-key="styles"]').uncheck()
    families = box.locator('details[data-key="families"]')
    families.locator("summary").click()
    families.locator('input[data-key="SD1.5"]').check()
    expect(act(box, "run")).to_have_text("Shrink 4 LoRAs")
    assert len(heard(page)) == before


def test_a_limit_that_is_no_percentage_is_marked_and_ignored(page: Any) -> None:
    estimated(page)
    box = opened(page)
    field = box.locator("#resize_lora_least_gain")
    for text in ("-1", "101", ""):
        field.fill(text)
        expect(field).to_have_attribute("aria-invalid", "true")
        expect(act(box, "run")).to_have_text("Shrink 5 LoRAs")
    floor = box.locator("#resize_lora_floor")
    floor.fill("97")
    expect(box).to_contain_text("This preset keeps 92 % or a little more: LoRAs below 97 % are left alone.")
    floor.fill("")
    expect(floor).to_have_attribute("aria-invalid", "false")
    expect(box).not_to_contain_text("a little more")


def test_files_that_were_resized_before_are_included_when_asked(page: Any) -> None:
    estimated(page)
    box = opened(page)
    expect(box.locator('.resize-lora-left-list [data-key="resized"]')).to_be_visible()
    box.locator("#resize_lora_again").check()
    expect(act(box, "run")).to_have_text("Shrink 6 LoRAs")
    expect(box.locator('.resize-lora-left-list [data-key="resized"]')).to_be_hidden()
    assert [one["again"] for one in asked(page, "shrink_plan")] == [False, True]


def test_sizes_that_are_unknown_are_named_and_estimated_on_request(page: Any, shot: Any) -> None:
    setup(page)
    box = opened(page)
    expect(box).to_contain_text("6 LoRAs, 2.07 GB, are not estimated yet.")
    assert sums(box, "medium") == "Medium 6 – –"
    shot(page, "runs-shrink-unknown")
    act(box, "estimate").click()
    expect(box.locator(".resize-lora-unknown")).to_be_hidden()
    expect(act(box, "run")).to_have_text("Shrink 5 LoRAs")
    assert "GB" in sums(box, "medium")


def test_the_scope_is_all_the_selection_or_what_the_filter_shows(page: Any) -> None:
    estimated(page)
    row(page, "hogs").click()
    row(page, "dpo").click(modifiers=["Control"])
    page.fill("#resize_lora_search", "styles")
    foot = act(page, "shrink-foot")
    expect(foot).to_have_text("Shrink 2 selected…")
    foot.click()
    box = page.locator(DIALOG)
    expect(act(box, "run")).to_have_text("Shrink 2 LoRAs")
    expect(box.locator(".resize-lora-radios").first).to_contain_text("All 8")
    act(box, "scope-filtered").check()
    expect(act(box, "run")).to_have_text("Shrink 3 LoRAs")
    act(box, "scope-all").check()
    expect(act(box, "run")).to_have_text("Shrink 5 LoRAs")
    act(box, "scope-selected").check()
    act(box, "run").click()
    expect(page.locator(RUN)).to_have_count(1)
    assert sorted(asked(page, "shrink")[0]["names"]) == ["dpo", "hogs"]


def test_the_target_of_the_tab_is_one_of_the_choices(page: Any) -> None:
    estimated(page)
    open_advanced(page)
    page.fill("#resize_lora_recipe", "fro_lora=1,retain=0.7")
    page.locator("#resize_lora_recipe").blur()
    box = opened(page)
    expect(act(box, "preset-panel")).to_be_checked()
    expect(box).to_contain_text("are not estimated yet")
    expect(act(box, "estimate")).to_be_hidden()  # estimates are of presets
    act(box, "run").click()
    expect(page.locator(RUN)).to_have_count(1)
    sent = asked(page, "shrink")[0]
    assert sent["recipe"] == "fro_lora=1,retain=0.7"
    assert "target" not in sent


def test_limits_and_originals_are_sent_as_they_are_shown(page: Any) -> None:
    estimated(page)
    box = opened(page)
    box.locator("#resize_lora_least_gain").fill("12.5")
    box.locator("#resize_lora_floor").fill("88")
    box.locator('details[data-key="families"] summary').click()
    box.locator('input[data-key="SD1.5"]').check()
    act(box, "preset-low").check()
    act(box, "originals-none").check()
    expect(act(box, "run")).to_be_disabled()
    box.locator("#resize_lora_sure").check()
    act(box, "run").click()
    expect(page.locator(RUN)).to_have_count(1)
    assert asked(page, "shrink") == [
        {
            "target": {"preset": "low"}, "options": {}, "again": False, "least_gain": 12.5, "floor": 0.88,
            "excluded_folders": [], "excluded_families": ["SD1.5"], "originals": "none", "confirm": True,
        }
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"archive_problem": "The archive is read-only."}, "The archive is read-only."),
        ({"free": 1 << 20}, "The disk of the archive has 1.00 MB free, and "),
        ({"plan_left": dict.fromkeys(GOOD, "link")}, "no LoRA is left to resize"),
    ],
)
def test_a_run_that_cannot_start_says_why_before_it_is_started(page: Any, settings: Any, text: str) -> None:
    estimated(page, **settings)
    box = opened(page)
    expect(box.get_by_role("alert")).to_contain_text(text)
    expect(act(box, "run")).to_be_disabled()


def test_two_thousand_rows_are_planned_and_few_are_in_the_page(page: Any) -> None:
    left = {f"style {i:04}": "copy" for i in range(1000)}
    estimated(page, files="many", plan_left=left, free=1 << 50)
    box = opened(page)
    group = box.locator('.resize-lora-left-list [data-key="copy"]')
    expect(group.locator("summary")).to_have_text("Same content as another LoRA: 1,000")
    group.locator("summary").click()
    expect(group.locator("li")).to_have_count(301)
    expect(group.locator("li").last).to_have_text("and 700 more")
    act(box, "run").click()
    act(page.locator(RUN), "unfold").click()
    expect(page.locator(f"{RUN} .resize-lora-item:visible").first).to_be_visible()
    assert page.locator(f"{RUN} .resize-lora-item").count() < 40


def test_the_dialog_is_used_by_keyboard_and_returns_the_focus(page: Any) -> None:
    estimated(page)
    page.focus("#resize_lora_shrink")
    page.keyboard.press("Enter")
    box = page.locator(DIALOG)
    expect(act(box, "preset-medium")).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(act(box, "preset-low")).to_be_checked()
    page.keyboard.press("Escape")
    expect(box).to_have_count(0)
    expect(page.locator("#resize_lora_shrink")).to_be_focused()


# The run


def test_a_run_is_one_row_with_progress_and_the_page_has_it_in_its_title(page: Any, shot: Any) -> None:
    estimated(page)
    ask(page, "set", {"paused": 1})
    title = page.title()
    act(opened(page), "run").click()
    run = page.locator(RUN)
    expect(run).to_contain_text("2 of 8 files")
    expect(page.locator("#resize_lora_queue")).to_be_hidden()
    act(run, "unfold").click()
    expect(act(run, "unfold")).to_have_attribute("aria-expanded", "true")
    expect(run.locator('[data-key="hogs"]')).to_contain_text("waiting")
    ask(page, "set", {"paused": 0})
    ask(page, "status")
    ask(page, "status")
    ask(page, "set", {"paused": 1})
    expect(run).to_contain_text(re.compile(r"[4-7] of 8 files · .* freed"))
    assert re.fullmatch(rf"\d+ % · {re.escape(title)}", page.title())
    shot(page, "runs-row")
    ask(page, "set", {"paused": 0})
    expect(page.locator(TOASTS)).to_contain_text("5 resized")
    expect(run).to_have_attribute("data-state", "done")
    assert page.title() == title
    expect(run.locator('[data-key="hogs"]')).to_contain_text("860 → 215 MB")


def test_a_run_pauses_goes_on_and_stops(page: Any) -> None:
    estimated(page)
    ask(page, "set", {"paused": 1})
    act(opened(page), "run").click()
    run = page.locator(RUN)
    act(run, "pause").click()
    expect(run).to_have_attribute("data-state", "paused")
    expect(act(run, "pause")).to_be_hidden()
    act(run, "continue").click()
    expect(run).to_have_attribute("data-state", "running")
    act(run, "stop").click()
    expect(run).to_have_attribute("data-state", "stopped")
    expect(run).to_contain_text("Stopped")
    assert [one["action"] for one in asked(page, "run_control")] == ["pause", "continue", "stop"]
    expect(act(run, "report")).to_be_visible()


def test_escape_in_the_tab_does_not_end_a_run(page: Any) -> None:
    estimated(page)
    ask(page, "set", {"paused": 1})
    act(opened(page), "run").click()
    expect(page.locator(RUN)).to_have_attribute("data-state", "running")
    page.focus("#resize_lora_list")
    page.keyboard.press("Escape")
    page.wait_for_timeout(300)
    assert asked(page, "cancel") == []


def test_a_full_disk_pauses_the_run_with_its_reason(page: Any) -> None:
    estimated(page, full_disk="dpo")
    act(opened(page), "run").click()
    run = page.locator(RUN)
    expect(run).to_have_attribute("data-state", "paused")
    expect(run).to_contain_text("The disk is full: 12 MB are free")
    act(run, "continue").click()
    expect(run).to_have_attribute("data-state", "done")


def test_a_run_is_there_after_a_reload_and_goes_on_after_a_restart(page: Any) -> None:
    estimated(page)
    ask(page, "set", {"paused": 1})
    act(opened(page), "run").click()
    run = page.locator(RUN)
    expect(run).to_have_attribute("data-state", "running")
    page.reload(wait_until="commit")
    expect(run).to_have_attribute("data-state", "running")
    expect(page).to_have_title(re.compile(r"^\d+ % · "))
    ask(page, "interrupt", {"run": run.get_attribute("data-key")})
    ask(page, "set", {"recovered": ["hogs: the replacement was completed."]})
    ask(page, "restart")
    expect(run).to_have_attribute("data-state", "interrupted")
    expect(run).to_contain_text("Interrupted when the server ended")
    found = page.locator(".resize-lora-toast").filter(has_text="hogs: the replacement was completed.")
    expect(found).to_have_count(1)
    expect(page).not_to_have_title(re.compile("%"))
    ask(page, "set", {"paused": 0})
    act(run, "continue").click()
    expect(run).to_have_attribute("data-state", "done")
    expect(found).to_have_count(1)


def test_the_browser_is_asked_for_notifications_by_the_click_alone(page: Any) -> None:
    estimated(page)
    page.evaluate(
        """() => { window.shown = []; window.Notification = class { constructor(title, more) { window.shown.push(more.body); } };
            window.Notification.permission = 'default';
            window.Notification.requestPermission = () => { window.asks = (window.asks || 0) + 1; window.Notification.permission = 'granted'; }; }"""
    )
    box = opened(page)
    assert page.evaluate("window.asks") is None
    act(box, "run").click()
    expect(page.locator(TOASTS)).to_contain_text("resized")
    assert page.evaluate("window.asks") == 1
    assert [re.sub(r"^[\d.]+ GB", "", text) for text in page.evaluate("window.shown")] == [
        " freed · 5 resized · 3 left alone"
    ]


def test_an_order_without_an_answer_is_looked_for_and_not_sent_twice(page: Any) -> None:
    estimated(page)
    page.clock.install()
    box = opened(page)
    ask(page, "set", {"kept": ["shrink"], "paused": 1})
    act(box, "run").click()
    until_heard(page, "shrink", 1)
    page.clock.fast_forward(61_000)
    page.wait_for_function(f"{text_of('request')}.includes('\"runs\"')")  # Gradio 3 drops it: another one is under way
    ask(page, "set", {"kept": []})
    page.wait_for_function(f"{text_of('reply')}.includes('\"run\"')")
    page.clock.fast_forward(61_000)
    expect(page.locator(RUN)).to_have_count(1)
    expect(box).to_have_count(0)
    assert len(asked(page, "shrink")) == 1


def text_of(name: str) -> str:
    """A script for the text in one of the two boxes between page and server."""
    return f"document.querySelector('#resize_lora_{name} textarea').value"


# The end


def test_the_report_has_figures_orders_and_filters(page: Any, shot: Any) -> None:
    shrunk(page, run_fails=["dpo"])
    box = report(page)
    figure = lambda key: box.locator(f'.resize-lora-run-figure[data-key="{key}"]')  # noqa: E731
    expect(figure("resized")).to_have_text("4")
    expect(figure("left")).to_have_text("3")
    expect(figure("failed")).to_have_text("1")
    expect(box.locator('[data-key="dpo"]')).to_contain_text("dpo: a layer has NaN.")
    shot(page, "runs-report")
    assert set(listed(box)[:4]) == {"pastry-sdxl", "hogs", "snorlax_sd15", AWKWARD}
    page.select_option("#resize_lora_run_order", "name")
    expect(box.locator('.resize-lora-item[aria-posinset="1"]')).to_have_attribute("data-key", "broken")
    box.locator('[data-filter="failed"]').click()
    assert listed(box) == ["dpo"]
    expect(box.locator('[data-filter="failed"]')).to_be_focused()
    box.locator('[data-filter="left"]').click()
    assert sorted(listed(box)) == ["broken", "flat-extracted", "pastry-sdxl_46mb"]
    expect(box.locator('[data-key="flat-extracted"]')).to_contain_text("Gains too little")


def test_the_report_restores_rows_the_selection_and_the_run(page: Any) -> None:
    shrunk(page)
    box = report(page)
    act(box.locator('[data-key="hogs"]'), "restore").click()
    expect(box.locator('.resize-lora-item[data-key="hogs"]')).to_have_attribute("data-state", "restored")
    expect(page.locator(TOASTS)).to_contain_text("1 original restored, 860 MB")
    for name in ("dpo", "pastry-sdxl"):
        box.locator(f'[data-key="{name}"] input').check()
    act(box, "restore-chosen").click()
    expect(box.get_by_role("group", name="Restore 2 originals?")).to_be_visible()
    act(box, "yes").click()
    expect(box.locator('.resize-lora-item[data-key="dpo"]')).to_have_attribute("data-state", "restored")
    expect(act(box, "restore-chosen")).to_be_disabled()
    act(box, "undo-run").click()
    act(box, "no").click()
    expect(act(box, "undo-run")).to_be_visible()
    act(box, "undo-run").click()
    act(box, "yes").click()
    expect(box.locator('[data-state="resized"]')).to_have_count(0)
    expect(act(box, "undo-run")).to_have_count(0)
    assert len(asked(page, "restore_originals")) == 3
    assert {one["bytes"] for one in ask(page, "library")["files"] if one["name"] == "hogs"} == {860 << 20}


def test_what_cannot_be_restored_is_named_with_its_reason(page: Any) -> None:
    shrunk(page, changed=["hogs"])
    box = report(page)
    act(box, "undo-run").click()
    act(box, "yes").click()
    expect(page.locator(TOASTS)).to_contain_text("hogs: hogs was changed since it was replaced.")
    expect(page.locator(TOASTS)).to_contain_text("4 originals restored")
    expect(box.locator('.resize-lora-item[data-key="hogs"]')).to_have_attribute("data-state", "resized")


def test_compare_reads_the_original_of_the_archive(page: Any) -> None:
    shrunk(page)
    box = report(page)
    act(box.locator('[data-key="hogs"]'), "compare").click()
    expect(page.locator(".resize-lora-stage").first).to_be_visible()
    entry = next(one["entry"] for one in ask(page, "archive")["entries"] if one["name"] == "hogs")
    assert asked(page, "compare")[0]["entry"] == entry
    page.keyboard.press("Escape")
    expect(box.locator('[data-key="hogs"]')).to_contain_text("Effect kept: 97.8 %")


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_the_report_is_saved_as_it_is_shown(page: Any, kind: str, tmp_path: Path) -> None:
    shrunk(page, run_fails=["dpo"])
    box = report(page)
    box.locator('[data-filter="resized"]').click()
    with page.expect_download() as saved:
        act(box, kind).click()
    path = tmp_path / saved.value.suggested_filename
    saved.value.save_as(path)
    text = path.read_text("utf-8-sig")
    if kind == "json":
        items = json.loads(text)["items"]
        assert json.loads(text)["run"]["state"] == "done"
    else:
        items = list(csv.DictReader(io.StringIO(text)))
    assert sorted(one["name"].lstrip("'") for one in items) == sorted(
        name.lstrip("'") for name in GOOD if name not in ("dpo", "flat-extracted")
    )
    assert {str(one["bytes_before"]) for one in items if one["name"] == "hogs"} == {str(860 << 20)}


# The archive


def test_the_archive_shows_gigabytes_and_restores(page: Any, shot: Any) -> None:
    shrunk(page)
    expect(page.locator("#resize_lora_archive")).to_have_text(re.compile("Archive: 5 originals, 1.98 GB"))
    page.click("#resize_lora_archive")
    box = page.locator(DIALOG)
    expect(box).to_contain_text("/data/Resize LoRA archive")
    act(box, "unfold").click()
    expect(box.locator('[data-key="hogs"]')).to_contain_text("860 MB")
    shot(page, "runs-archive")
    act(box.locator('[data-key="hogs"]'), "restore").click()
    expect(box.locator('[data-key="hogs"]')).to_have_count(0)
    expect(box).to_contain_text("4 originals")
    act(box, "restore-all").click()
    act(box, "yes").click()
    expect(box).to_contain_text("The archive is empty.")
    assert {one["name"] for one in ask(page, "library")["files"] if one["archived"]} == set()


def test_originals_are_deleted_only_after_their_size_was_shown(page: Any) -> None:
    shrunk(page)
    page.click("#resize_lora_archive")
    box = page.locator(DIALOG)
    act(box, "purge-older").click()
    expect(page.locator(TOASTS)).to_contain_text("The archive has no such originals.")
    act(box, "purge-all").click()
    question = box.get_by_role("group", name=re.compile("Permanently delete 5 originals, 1.98 GB"))
    expect(question).to_be_visible()
    expect(act(question, "no")).to_be_focused()
    page.keyboard.press("Enter")
    assert [one for one in asked(page, "purge") if one.get("confirm")] == []
    act(box, "purge-run").click()
    act(box, "yes").click()
    expect(box).to_contain_text("The archive is empty.")
    expect(page.locator(TOASTS)).to_contain_text("5 originals deleted, 1.98 GB freed")
    expect(page.locator("#resize_lora_archive")).to_be_hidden()
    page.keyboard.press("Escape")
    assert asked(page, "purge")[-1]["confirm"] is True
    expect(act(report(page), "restore")).to_have_count(0)


# On cards and rows


def test_replace_opens_the_dialog_for_one_file_or_runs_at_once_where_that_was_chosen(page: Any) -> None:
    estimated(page)
    row(page, "hogs").click(button="right")
    page.get_by_role("menuitem", name="Replace by Medium…").click()
    box = page.locator(DIALOG)
    expect(act(box, "run")).to_have_text("Replace")
    expect(box).to_contain_text("860 → 215 MB")
    box.locator("#resize_lora_at_once").check()
    act(box, "run").click()
    expect(page.locator(TOASTS)).to_contain_text("hogs 860 → 215 MB")
    row(page, "dpo").click(button="right")
    page.get_by_role("menuitem", name=re.compile("Replace by Medium$")).click()
    expect(page.locator(TOASTS)).to_contain_text("dpo is being replaced…")
    expect(page.locator(TOASTS)).to_contain_text("dpo 751 → 188 MB")
    assert [one["names"] for one in asked(page, "shrink")] == [["hogs"], ["dpo"]]
    row(page, "dpo").click(button="right")
    page.get_by_role("menuitem", name="Replace by Medium").click()
    expect(page.locator(TOASTS)).to_contain_text("dpo: Resized before")
    page.locator('.resize-lora-toast [data-action="ask-again"]').first.click()
    row(page, "pastry-sdxl").click(button="right")
    expect(page.get_by_role("menuitem", name="Replace by Medium…")).to_be_visible()


# On a phone


def test_on_a_phone_no_part_is_wider_than_the_page(phone: Any, shot: Any) -> None:
    shrunk(phone, run_fails=["dpo"])

    def fits(selector: str) -> None:
        over = phone.evaluate(
            """selector => [...document.querySelectorAll(`${selector}, ${selector} *`)]
                .filter(one => one.checkVisibility() && one.getBoundingClientRect().right > innerWidth + 1)
                .map(one => one.className || one.tagName)""",
            selector,
        )
        assert over == []

    fits(RUN)
    box = report(phone)
    act(box, "undo-run").click()
    fits(DIALOG)
    shot(phone, "runs-report-phone")
    phone.keyboard.press("Escape")
    phone.click("#resize_lora_archive")
    act(phone.locator(DIALOG), "unfold").click()
    act(phone.locator(DIALOG), "purge-all").click()
    expect(act(phone.locator(DIALOG), "yes")).to_be_visible()
    fits(DIALOG)
    phone.keyboard.press("Escape")
    opened(phone)
    fits(DIALOG)
    shot(phone, "runs-shrink-phone")
