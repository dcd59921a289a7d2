"""The tab: library, target, run, results, by mouse and by keyboard."""

# ruff: noqa: E501 (lines of script, and figures in rows)
from __future__ import annotations

import csv
import io
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.browser.browser_kit import AWKWARD, ask, expect, heard, open_advanced, press, row, setup, until_heard


def choose(page: Any, name: str) -> None:
    row(page, name).click()
    expect(page.locator("#resize_lora_subject")).to_have_text(name)


def analysed(page: Any, name: str = "pastry-sdxl") -> None:
    choose(page, name)
    expect(page.locator("#resize_lora_figureSize")).to_contain_text("→")
    expect(page.locator("#resize_lora_plot svg")).to_be_visible()


def test_the_library_lists_every_file_as_text(page: Any) -> None:
    expect(row(page, AWKWARD)).to_contain_text(AWKWARD)
    expect(page.locator("#resize_lora_list b")).to_have_count(0)
    expect(row(page, "broken")).to_have_attribute("title", re.compile("header ends early"))


def test_search_family_and_fit_filter_without_asking_the_server(page: Any) -> None:
    expect(row(page, "hogs")).to_be_visible()
    before = len(heard(page))
    page.fill("#resize_lora_search", "animals")
    expect(page.locator(".resize-lora-row:visible")).to_have_count(1)
    page.fill("#resize_lora_search", "")
    page.select_option("#resize_lora_family", "SD1.5")
    expect(page.locator(".resize-lora-row:visible")).to_have_count(1)
    page.select_option("#resize_lora_family", "")
    page.check("#resize_lora_fits")
    expect(row(page, "snorlax_sd15")).to_have_count(0)
    assert len([one for one in heard(page)[before:] if one["method"] not in ("previews",)]) == 0


def test_a_column_sorts_both_ways(page: Any) -> None:
    head = page.locator('[data-column="name"]')
    head.click()
    expect(page.locator("#resize_lora_row_0")).to_have_attribute("data-key", "broken")
    head.click()
    expect(page.locator("#resize_lora_row_0")).to_have_attribute("data-key", "snorlax_sd15")


def test_two_thousand_rows_are_a_few_in_the_page_however_far_one_scrolls(page: Any) -> None:
    setup(page, files="many")
    assert page.locator(".resize-lora-row").count() < 40
    seen = page.evaluate("""async () => {
        const list = document.querySelector('#resize_lora_list'), rows = () => [...list.querySelectorAll('.resize-lora-row')], seen = [];
        for (let i = 0; i < 30; i++) {
            list.scrollTop = i * 2900;
            await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
            seen.push([rows().length, rows().find(one => !one.hidden).dataset.name]);
        }
        return seen; }""")
    assert max(made for made, _ in seen) < 40
    assert len({name for _, name in seen}) == 30
    page.check("#resize_lora_fits")
    page.check("#resize_lora_all")
    expect(page.locator("#resize_lora_totals")).to_contain_text("1,000 selected")
    expect(page.locator("#resize_lora_generate")).to_have_text("Resize 1,000 LoRAs")


def test_choosing_a_lora_predicts_before_anything_is_written(page: Any, shot: Any) -> None:
    analysed(page)
    expect(page.locator("#resize_lora_figureSaved")).to_have_text(re.compile(r"^\u2212\d+ %$"))
    expect(page.locator("#resize_lora_figureRanks")).to_contain_text("32 →")
    expect(page.locator("#resize_lora_bars svg")).to_be_visible()
    assert "resize" not in {one["method"] for one in heard(page)}
    shot(page, "panel-wide-light")
    page.evaluate("document.body.classList.add('dark')")
    shot(page, "panel-wide-dark")


def test_the_slider_answers_at_once_and_asks_for_the_exact_size_on_release(page: Any) -> None:
    analysed(page)
    page.wait_for_timeout(300)
    before = len([one for one in heard(page) if one["method"] == "plan"])
    slider, figure = page.locator("#resize_lora_slider"), page.locator("#resize_lora_figureSize")
    seen = page.evaluate("""() => {
        const slider = document.querySelector('#resize_lora_slider'), seen = [];
        for (const value of [20, 60, 100]) {
            slider.value = value; slider.dispatchEvent(new Event('input', {bubbles: true}));
            seen.push(document.querySelector('#resize_lora_figureSize').textContent);
        }
        return seen; }""")
    assert len(set(seen)) == 3
    slider.dispatch_event("change")
    until_heard(page, "plan", before + 1)
    expect(figure).to_have_text(seen[-1])
    plans = [one for one in heard(page) if one["method"] == "plan"][before:]
    assert len(plans) == 1
    assert "size" in plans[0]["params"]["target"]


def test_the_slider_means_size_retention_or_rank(page: Any) -> None:
    analysed(page)
    open_advanced(page)
    for meaning, pattern in (("retention", r"retain=0\.92"), ("rank", r"^rank=\d+$"), ("size", r"size=\d")):
        page.select_option("#resize_lora_meaning", meaning)
        expect(page.locator("#resize_lora_recipe")).to_have_value(re.compile(pattern))
    page.fill("#resize_lora_number", "40")
    page.press("#resize_lora_number", "Tab")
    expect(page.locator("#resize_lora_recipe")).to_have_value(re.compile("size=40$"))


def test_a_preset_can_be_chosen_by_keyboard(page: Any) -> None:
    analysed(page)
    open_advanced(page)
    page.focus("#resize_lora_medium")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#resize_lora_low")).to_be_checked()
    expect(page.locator("#resize_lora_recipe")).to_have_value(re.compile("retain=0.88"))


def test_a_faulty_recipe_is_reported_while_typing_and_cannot_be_run(page: Any) -> None:
    analysed(page)
    open_advanced(page)
    page.fill("#resize_lora_recipe", "fro_lora=1,tnr=-3")
    expect(page.locator("#resize_lora_fault")).to_contain_text("unknown word 'tnr'")
    expect(page.locator("#resize_lora_fault code")).to_have_text("fro_lora=1,▸tnr=-3")
    expect(page.locator("#resize_lora_generate")).to_be_disabled()
    page.fill("#resize_lora_recipe", "fro_lora=1,size=40")
    expect(page.locator("#resize_lora_fault")).to_be_empty()
    expect(page.locator("#resize_lora_generate")).to_be_enabled()


def test_a_flat_spectrum_and_a_low_retention_are_reported_first(page: Any) -> None:
    analysed(page, "flat-extracted")
    expect(page.locator("#resize_lora_warnings")).to_contain_text("flat")
    analysed(page)
    page.select_option("#resize_lora_meaning", "retention")
    page.fill("#resize_lora_number", "70")
    page.press("#resize_lora_number", "Tab")
    expect(page.locator("#resize_lora_warnings")).to_contain_text("under 88 %")


def test_a_broken_file_says_why_and_cannot_be_run(page: Any) -> None:
    choose(page, "broken")
    expect(page.locator("#resize_lora_warnings")).to_contain_text("header ends early")
    expect(page.locator("#resize_lora_generate")).to_be_disabled()


def test_ctrl_enter_runs_and_the_result_can_be_undone_and_restored(page: Any, shot: Any) -> None:
    analysed(page)
    page.keyboard.press("Control+Enter")
    result = page.locator('.resize-lora-result[data-key="pastry-sdxl_47mb"]')
    expect(result).to_contain_text("pastry-sdxl →")
    shot(page, "panel-result")
    press(page, result, "undo")
    expect(result).to_have_attribute("data-state", "trashed")
    press(page, result, "restore")
    expect(result).to_have_attribute("data-state", "there")
    ask(page, "set", {"note": "a.txt was changed and stays."})
    press(page, result, "undo")
    expect(page.locator("#resize_lora_toasts")).to_contain_text("a.txt was changed and stays.")


def test_a_result_whose_file_was_changed_since_reports_it(page: Any) -> None:
    setup(page, slow=1)
    for name in ("hogs", "dpo"):
        ask(page, "resize", {"names": [name], "target": {"preset": "low"}})
        ask(page, "status")
    made = {one["name"]: one["output"] for one in ask(page, "results")["results"]}
    ask(page, "touch", {"output": made["hogs"]})
    page.reload(wait_until="commit")
    row_of = {name: page.locator(".resize-lora-result").filter(has_text=f"{name} →") for name in made}
    expect(row_of["hogs"].locator(".resize-lora-changed")).to_have_text("changed")
    expect(row_of["dpo"]).to_have_count(1)
    expect(row_of["dpo"].locator(".resize-lora-changed")).to_have_count(0)


def test_escape_cancels_our_jobs_only(page: Any) -> None:
    setup(page, slow=100)
    choose(page, "hogs")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".resize-lora-job")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(page.locator("#resize_lora_queue")).to_be_hidden()
    cancelled = [one for one in heard(page) if one["method"] == "cancel"]
    assert cancelled[-1]["params"]["jobs"]


def test_escape_cancels_in_a_hosts_page_too_and_ctrl_enter_is_left_to_it(page: Any) -> None:
    """Hosts press the current tab's run button at Ctrl+Enter, and at Esc only a button that they have shown themselves."""
    setup(page, slow=100)
    page.evaluate("window.get_uiCurrentTabContent = () => document.body")
    choose(page, "hogs")
    page.keyboard.press("Control+Enter")
    page.wait_for_timeout(300)
    expect(page.locator(".resize-lora-job")).to_have_count(0)
    page.click("#resize_lora_generate")
    expect(page.locator(".resize-lora-job")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(page.locator("#resize_lora_queue")).to_be_hidden()


def test_a_page_that_a_host_puts_away_ends_the_call_without_a_fault(page: Any) -> None:
    """A host's Reload UI empties the page while calls are under way; the fixture fails on any fault of a script."""
    page.evaluate(
        """() => { document.querySelector('#resize_lora_refresh').click();
            setTimeout(() => document.querySelector('#resize_lora_wire').remove(), 0); }"""
    )
    expect(page.locator("#resize_lora_toasts")).to_contain_text("The Resize LoRA tab is still loading.")


def test_a_file_that_fails_does_not_stop_the_rest(page: Any) -> None:
    expect(row(page, "hogs")).to_be_visible()
    page.check("#resize_lora_all")
    answer = ask(page, "resize", {"names": ["broken", "hogs"], "target": {"preset": "low"}})
    assert len(answer["jobs"]) == 2
    page.locator("#resize_lora_high").check(force=True)
    page.click("#resize_lora_generate")
    expect(page.locator(".resize-lora-failed")).to_contain_text("header ends early")
    expect(page.locator(".resize-lora-result").filter(has_text="hogs →")).not_to_have_count(0)


def test_a_job_waits_for_the_picture_and_reports_it(page: Any) -> None:
    setup(page, busy="generating")
    row(page, "hogs").click()
    page.click("#resize_lora_generate")
    expect(page.locator(".resize-lora-job").last).to_contain_text(
        re.compile("waiting for the current image|ahead|queued")
    )
    expect(page.locator("#resize_lora_generate")).to_contain_text("waiting for image")
    page.keyboard.press("Escape")


def test_the_list_works_by_keyboard(page: Any) -> None:
    page.focus("#resize_lora_list")
    page.keyboard.press("Home")
    page.keyboard.press("Space")
    page.keyboard.press("Shift+ArrowDown")
    expect(page.locator('.resize-lora-row[aria-selected="true"]')).to_have_count(2)
    page.keyboard.press("Control+a")
    expect(page.locator("#resize_lora_totals")).to_contain_text("6 selected")
    expect(page.locator("#resize_lora_left_out")).to_have_text("; 1 resized file left out")


def test_ticks_and_cursor_follow_their_loras_and_a_name_goes_only_when_the_server_reports_it(page: Any) -> None:
    row(page, "hogs").locator(".resize-lora-tick").click()
    row(page, "snorlax_sd15").locator(".resize-lora-tick").click()
    ask(page, "appear", {"name": "a new one", "mib": 500})
    page.click("#resize_lora_refresh")
    expect(row(page, "a new one")).to_be_visible()
    expect(page.locator(".resize-lora-row:visible")).to_have_count(8)
    expect(page.locator(".resize-lora-cursor")).to_contain_text("snorlax_sd15")
    expect(page.locator('.resize-lora-row[aria-selected="true"]')).to_have_count(2)
    ask(page, "drop", {"name": "hogs"})
    page.click("#resize_lora_refresh")
    expect(row(page, "hogs")).to_have_count(0)
    expect(page.locator("#resize_lora_totals")).to_contain_text("1 selected")
    ask(page, "appear", {"name": "hogs", "mib": 860})
    page.click("#resize_lora_refresh")
    expect(row(page, "hogs")).to_have_attribute("aria-selected", "true")


@pytest.mark.parametrize("name", ["=1+1", "-2", "+3", "@sum", "\tx"])
def test_no_name_is_a_formula_in_the_csv(page: Any, name: str) -> None:
    ask(page, "appear", {"name": name, "mib": 30})
    ask(page, "resize", {"names": [name], "target": {"preset": "medium"}})
    page.reload(wait_until="commit")
    with page.expect_download() as download:
        page.click("#resize_lora_csv")
    lines = list(csv.reader(io.StringIO(Path(download.value.path()).read_text("utf-8-sig"))))
    assert lines[1][0] == f"'{name}"
    assert float(lines[1][lines[0].index("saved")]) > 0


def test_the_longest_text_of_the_button_fits_into_it(page: Any) -> None:
    setup(page, files="many", busy="generating")
    page.check("#resize_lora_all")
    button = page.locator("#resize_lora_generate")
    ask(page, "resize", {"names": ["style 0001"], "target": {"preset": "low"}})
    button.click()
    expect(button).to_have_text("Resize 2,000 LoRAs · waiting for image")
    assert button.evaluate("one => one.scrollWidth <= one.clientWidth")
    boxes = [one.bounding_box() for one in page.locator(".resize-lora-actions button").all()]
    for i, box in enumerate(boxes):
        for other in boxes[i + 1 :]:
            apart = box["x"] + box["width"] <= other["x"] or other["x"] + other["width"] <= box["x"]
            assert apart or box["y"] + box["height"] <= other["y"] or other["y"] + other["height"] <= box["y"]


def test_emptying_the_trash_asks(page: Any, shot: Any) -> None:
    analysed(page)
    page.click("#resize_lora_generate")
    press(page, page.locator(".resize-lora-result").first, "undo")
    page.click("#resize_lora_trash")
    page.click("#resize_lora_empty")
    shot(page, "trash")
    for button in page.locator("dialog button").all():
        assert button.evaluate("one => one.scrollWidth <= one.clientWidth")
    assert "empty_trash" not in {one["method"] for one in heard(page)}
    page.click("#resize_lora_empty_sure")
    expect(page.locator(".resize-lora-result").first).to_have_attribute("data-state", "gone")


def test_a_comparison_says_why_its_figure_is_not_in_the_file(page: Any) -> None:
    note = "The figure is not in the file. pastry-sdxl_46mb.safetensors: is write-protected. It is left alone."
    setup(page, compare_note=note)
    analysed(page)
    page.click("#resize_lora_generate")
    press(page, page.locator(".resize-lora-result").first, "compare")
    expect(page.locator("dialog")).to_contain_text(note)


def test_a_comparison_shows_both_under_one_slider_with_its_number(page: Any, shot: Any) -> None:
    analysed(page)
    page.click("#resize_lora_generate")
    press(page, page.locator(".resize-lora-result").first, "compare")
    expect(page.locator(".resize-lora-effect")).to_have_text("keeps 97.8 % of the LoRA's effect")
    expect(page.locator("dialog")).to_contain_text("Mean pixel difference 1.8 of 255; without the LoRA 34.2.")
    page.focus("#resize_lora_wipe")
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    expect(page.locator(".resize-lora-over")).to_have_attribute("style", re.compile("40%"))
    shot(page, "compare")
    saved: list[str] = []
    page.on("download", lambda download: saved.append(download.suggested_filename))
    page.click("#resize_lora_save_pictures")
    page.wait_for_timeout(500)
    assert sorted(saved) == [
        f"pastry-sdxl_46mb_{kind}_1.png" for kind in ("difference", "original", "resized", "without")
    ]
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)


def test_a_comparison_leaves_the_third_picture_out_where_it_is_not_wanted(page: Any) -> None:
    analysed(page)
    page.click("#resize_lora_advanced summary")
    page.uncheck("#resize_lora_without")
    page.click("#resize_lora_generate")
    press(page, page.locator(".resize-lora-result").first, "compare")
    expect(page.locator("dialog")).to_contain_text("Mean pixel difference 1.8 of 255.")
    expect(page.locator(".resize-lora-effect")).to_have_count(0)
    expect(page.locator("#resize_lora_seeds")).to_have_count(0)
    assert [one["params"]["without"] for one in heard(page) if one["method"] == "compare"] == [False]


def test_a_comparison_is_repeated_with_more_images_of_the_same_first_seed(page: Any, shot: Any) -> None:
    analysed(page)
    page.click("#resize_lora_generate")
    result = page.locator(".resize-lora-result").first
    press(page, result, "compare")
    expect(page.locator("#resize_lora_seeds")).to_have_value("1")
    page.select_option("#resize_lora_seeds", "4")
    expect(page.locator(".resize-lora-effect")).to_have_text("keeps 97.8 % of the LoRA's effect (worst image 96.1 %)")
    expect(page.locator("#resize_lora_seeds")).to_have_value("4")
    shot(page, "compare-4")
    page.keyboard.press("Escape")
    press(page, result, "compare")
    expect(page.locator("#resize_lora_seeds")).to_have_value("4")
    asked = [one["params"] for one in heard(page) if one["method"] == "compare"]
    assert [one["seeds"] for one in asked] == [1, 4, 4]
    assert [one["settings"].get("seed") for one in asked] == [None, 1, None]
    assert len({json.dumps({**one, "seeds": 1, "settings": {}}) for one in asked}) == 1


def test_the_figure_of_a_comparison_is_shown_at_its_result(page: Any, shot: Any) -> None:
    analysed(page)
    page.click("#resize_lora_generate")
    result = page.locator(".resize-lora-result").first
    expect(result).to_be_visible()
    effect = result.locator('[data-key="effect"]')
    expect(effect).to_have_count(0)
    press(page, result, "compare")
    expect(page.locator(".resize-lora-effect")).to_be_visible()
    page.keyboard.press("Escape")
    expect(effect).to_have_text("Effect kept: 97.8 %")
    expect(effect).to_have_attribute("title", re.compile("^Worst image: 97.8 % · Images: 1 · Euler a · 20 steps · 64"))
    shot(page, "result-effect")


def test_a_prompt_that_does_not_show_the_lora_gives_no_figure_and_says_so(page: Any, shot: Any) -> None:
    setup(page, weak=True)
    row(page, "pastry-sdxl").click()
    page.click("#resize_lora_generate")
    result = page.locator(".resize-lora-result").first
    press(page, result, "compare")
    expect(page.locator('.resize-lora-effect[data-weak="true"]')).to_contain_text("has no effect on this prompt")
    shot(page, "compare-weak")
    page.keyboard.press("Escape")
    expect(result.locator('[data-key="effect"]')).to_have_count(0)


def test_each_lack_has_its_own_sentence(page: Any, shot: Any) -> None:
    setup(page, files="none", remote=True, reference={"kind": "none", "title": None, "family": None, "note": ""})
    expect(page.locator("#resize_lora_list")).to_contain_text("No LoRAs found in Lora.")
    expect(page.locator("#resize_lora_reference")).to_contain_text("No checkpoint is loaded.")
    page.click("#resize_lora_advanced summary")
    expect(page.locator("#resize_lora_advanced")).to_contain_text("output folder is disabled")
    expect(page.locator("#resize_lora_folder")).to_have_count(0)
    shot(page, "nothing-there")


def test_every_control_has_a_name(page: Any) -> None:
    analysed(page)
    page.click("#resize_lora_advanced summary")
    nameless = page.evaluate("""() => [...document.querySelectorAll('#resize_lora_root :is(input, select, button)')]
        .filter(one => !one.ariaLabel && !one.textContent.trim() && !(one.labels && one.labels.length && one.labels[0].textContent.trim()))
        .map(one => one.outerHTML)""")
    assert nameless == []


def test_a_second_run_of_the_scripts_changes_nothing(page: Any, address: str) -> None:
    ran = page.evaluate(
        """async () => { const files = [...document.scripts].map(one => one.src).filter(src => /resize_lora_\\d/.test(src));
            for (const file of files) { const s = document.createElement('script'); s.textContent = await (await fetch(file)).text(); document.head.append(s); }
            return files.length; }"""
    )
    assert ran > 20
    expect(page.locator("#resize_lora_root")).to_have_count(1)
    row(page, "hogs").click(button="right")
    expect(page.locator("#resize_lora_menu")).to_have_count(1)


def test_a_phone_shows_all_of_it_and_keeps_the_button_in_reach(phone: Any, shot: Any) -> None:
    page = phone
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    expect(page.locator("#resize_lora_generate")).to_be_in_viewport()
    row(page, "pastry-sdxl").click()
    expect(page.locator("#resize_lora_figureSize")).to_contain_text("→")
    shot(page, "phone-light")
    page.evaluate("document.querySelector('#resize_lora_target').scrollIntoView()")
    expect(page.locator("#resize_lora_generate")).to_be_in_viewport()
    shot(page, "phone-target-light")
    page.evaluate("document.body.classList.add('dark')")
    shot(page, "phone-target-dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_half_of_a_phone_is_enough(phone: Any, shot: Any) -> None:
    """ModernUI of SD.Next leaves 250 of 390 pixels."""
    page = phone
    ask(page, "resize", {"names": ["pastry-sdxl"], "target": {"preset": "medium"}})
    for _ in range(5):
        ask(page, "status")
    root = page.locator("#resize_lora_root")
    around = 390 - root.evaluate("root => root.clientWidth")
    page.set_viewport_size({"width": 250 + around, "height": 844})
    row(page, "hogs").click()
    page.click("#resize_lora_generate")
    result = page.locator(".resize-lora-result").first
    expect(result).to_be_visible()
    assert root.evaluate("root => root.clientWidth") == 250
    assert root.evaluate("root => root.scrollWidth - root.clientWidth") == 0
    result.scroll_into_view_if_needed()
    shot(page, "phone-half")
    for parts in (".resize-lora-figures > div", ".resize-lora-result:first-child > .resize-lora-result-name > *"):
        boxes = page.locator(parts).evaluate_all("""all => all.map(one => one.getBoundingClientRect())
            .map(({left, right, top, bottom}) => ({left, right, top, bottom}))""")
        assert len(boxes) >= 3
        for one, other in itertools.pairwise(boxes):
            assert one["right"] <= other["left"] + 1 or one["bottom"] <= other["top"] + 1
