"""Find the smallest: from the prompt to a saved file, with the dialog open, closed and after a reload."""

# ruff: noqa: E501 (lines of script)
from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.browser.browser_kit import ask, drawn, expect, heard, row, setup, until_heard
from tests.browser.test_accessibility import findings

ONE_GRADIO = True  # see conftest.py

HOST_PAGE = (Path(__file__).parent / "host_page.js").read_text("utf-8")
TAGGED = "a cake, <lora:pastry-sdxl:0.8>, fog"
DIALOG = "dialog.resize-lora-dialog"
STATUS = "#resize_lora_find_status"
FIGURE = "#resize_lora_find_figure"
FEATURES = ["prompt", "cards", "generate", "loaded_model", "xyz", "fit"]


def in_host(page: Any, prompt: str = TAGGED) -> None:
    """Puts txt2img with a prompt and a size around the tab."""
    page.evaluate("names => { window.hostNames = names; }", ["pastry-sdxl"])
    page.evaluate(HOST_PAGE)
    page.evaluate(
        """text => { const tab = document.querySelector('#tab_txt2img');
            tab.querySelector('#txt2img_prompt textarea').value = text;
            tab.querySelector('#txt2img_neg_prompt textarea').value = 'blurry';
            for (const [name, value] of [['width', 1024], ['height', 768], ['steps', 20], ['seed', -1]]) {
                const box = document.createElement('div'), field = document.createElement('input');
                box.id = `txt2img_${name}`; field.type = 'number'; field.value = value; box.append(field); tab.append(box);
            } }""",
        prompt,
    )


def open_find(page: Any, name: str = "pastry-sdxl", prompt: str = TAGGED) -> Any:
    """The dialog about one LoRA, before the search."""
    in_host(page, prompt)
    row(page, name).click()
    page.click("#resize_lora_find")
    box = page.locator(DIALOG)
    expect(box).to_be_visible()
    return box


def asked(page: Any, method: str = "find") -> list[dict[str, Any]]:
    return [one["params"] for one in heard(page) if one["method"] == method]


def begin(page: Any) -> None:
    page.click("#resize_lora_find_run")


def pause_after_first_trial(page: Any) -> str:
    """Holds the search where it has measured at least one size; returns how many images it has made."""
    expect(page.locator("#resize_lora_find_steps button").first).to_be_visible()
    ask(page, "set", {"paused": True})
    page.wait_for_timeout(600)  # the answer to a question from before
    found = re.search(r"image \d+ of about 21", page.locator(STATUS).inner_text())
    assert found is not None
    return found[0]


def call(address: str, method: str, **params: Any) -> None:
    """Asks the stub while no page is open."""
    question = json.dumps({"id": 0, "method": method, "params": params})
    body = json.dumps({"data": [question], "fn_index": 0, "session_hash": "tests"}).encode()
    request = urllib.request.Request(address + "run/predict", body, {"content-type": "application/json"})
    urllib.request.urlopen(request, timeout=20).close()


def overflow(page: Any) -> int:
    return int(page.evaluate(f"(box => box.scrollWidth - box.clientWidth)(document.querySelector('{DIALOG}'))"))


def test_the_dialog_says_what_it_does_and_what_it_takes(page: Any, shot: Any) -> None:
    box = open_find(page)
    expect(box).to_contain_text("finds the smallest file")
    expect(box).to_contain_text("Nothing is saved until you press Save")
    expect(page.locator("#resize_lora_find_cost")).to_contain_text("About 23 images")
    expect(page.locator("#resize_lora_find_cost")).to_contain_text("on a GPU")
    expect(box).to_contain_text(re.compile(r"1024.768 · 20 steps · random seed"))
    expect(page.locator("#resize_lora_find_prompt")).to_have_value(TAGGED)
    expect(page.locator("#resize_lora_find_negative")).to_have_value("blurry")
    expect(page.locator("#resize_lora_find_tag")).to_be_empty()
    page.select_option("#resize_lora_find_seeds", "1")
    expect(page.locator("#resize_lora_find_cost")).to_contain_text("About 8 images")
    shot(page, "find-form")
    assert asked(page) == []


def test_a_search_shows_each_size_and_saves_the_smallest_only_when_asked(page: Any, shot: Any) -> None:
    box = open_find(page)
    begin(page)
    pause_after_first_trial(page)
    expect(page.locator(STATUS)).to_contain_text(re.compile(r"image \d+ of about 21, \d+ s left"))
    expect(page.locator(FIGURE)).to_contain_text(re.compile(r"keeps [\d.]+ % of the LoRA's effect \(worst image"))
    expect(page.locator("#resize_lora_find_steps button")).not_to_have_count(0)
    expect(box.locator(".resize-lora-stage:visible img")).to_have_count(2)
    page.select_option("#resize_lora_find_view", "without")
    expect(box.locator(".resize-lora-stage:visible img")).to_have_attribute("alt", "Without the LoRA")
    page.select_option("#resize_lora_find_view", "slider")
    shot(page, "find-running")
    expect(page.locator("#resize_lora_find_save")).to_be_hidden()
    ask(page, "set", {"paused": False})
    expect(page.locator("#resize_lora_find_save")).to_be_visible()
    expect(page.locator("#resize_lora_find_steps button")).to_have_count(6)
    expect(page.locator(STATUS)).to_have_text("21 images")
    expect(page.locator(FIGURE)).to_contain_text("keeps the target")
    shot(page, "find-found")
    assert asked(page, "find_save") == []
    expect(page.locator(".resize-lora-result")).to_have_count(0)
    page.click("#resize_lora_find_save")
    expect(box).to_have_count(0)
    expect(page.locator(".resize-lora-result")).to_have_count(1)
    expect(page.locator(".resize-lora-toast")).to_contain_text("218 →")
    assert len(asked(page, "find_save")) == 1


def finished(page: Any) -> None:
    expect(page.locator("#resize_lora_find_again")).to_be_visible()


def test_what_is_asked_is_what_the_dialog_shows(page: Any) -> None:
    open_find(page)
    page.fill("#resize_lora_find_prompt", "a cat, <lora:pastry-sdxl:1>")
    page.fill("#resize_lora_find_negative", "")
    page.select_option("#resize_lora_find_seeds", "2")
    page.check("#resize_lora_find_goal_own", force=True)
    own, run = page.locator("#resize_lora_find_own"), page.locator("#resize_lora_find_run")
    for wrong in ("49", "100", ""):
        own.fill(wrong)
        expect(page.locator("#resize_lora_find_fault")).to_contain_text("from 50 to 99.9")
        expect(run).to_be_disabled()
    own.fill("99.5")
    expect(page.locator("#resize_lora_find_fault")).to_be_empty()
    run.click()
    finished(page)
    settings = {
        "prompt": "a cat, <lora:pastry-sdxl:1>",
        "negative_prompt": "",
        "seed": -1,
        "steps": 20,
        "width": 1024,
        "height": 768,
    }
    assert asked(page) == [{"name": "pastry-sdxl", "target": 0.995, "settings": settings, "seeds": 2, "options": {}}]


def test_choices_are_kept_and_the_prompt_is_read_anew(page: Any) -> None:
    box = open_find(page)
    page.check("#resize_lora_find_goal_95", force=True)
    page.select_option("#resize_lora_find_seeds", "2")
    begin(page)
    finished(page)
    page.keyboard.press("Escape")
    expect(box).to_have_count(0)
    page.evaluate("document.querySelector('#txt2img_prompt textarea').value = 'another <lora:pastry-sdxl:1>'")
    page.click("#resize_lora_find")
    expect(page.locator("#resize_lora_find_goal_95")).to_be_checked()
    expect(page.locator("#resize_lora_find_seeds")).to_have_value("2")
    expect(page.locator("#resize_lora_find_prompt")).to_have_value("another <lora:pastry-sdxl:1>")
    page.locator('[data-action="show-last"]').click()
    expect(page.locator("#resize_lora_find_save")).to_be_visible()


def test_a_prompt_without_the_tag_gets_it_and_the_dialog_reports_it(page: Any) -> None:
    open_find(page, prompt="a cake")
    note = page.locator("#resize_lora_find_tag")
    expect(note).to_contain_text("prbstyle <lora:pastry-sdxl:0.8>")
    page.fill("#resize_lora_find_prompt", "a cake <lora:Pastry:1>")  # an alias
    expect(note).to_be_empty()


def test_another_family_and_a_missing_gpu_are_reported_before(page: Any) -> None:
    box = open_find(page, "snorlax_sd15")
    expect(box.locator(".resize-lora-warnings")).to_contain_text(
        "Not made for the loaded checkpoint (SDXL): snorlax_sd15"
    )
    expect(box.locator(".resize-lora-warnings")).to_contain_text("uses the CPU")


def test_stop_keeps_the_best_so_far(page: Any) -> None:
    open_find(page)
    begin(page)
    pause_after_first_trial(page)
    page.click("#resize_lora_find_stop")
    expect(page.locator(STATUS)).to_have_text("Stops after this image…")
    expect(page.locator("#resize_lora_find_stop")).to_be_disabled()
    ask(page, "set", {"paused": False})
    expect(page.locator("#resize_lora_find_save")).to_be_visible()
    assert page.locator("#resize_lora_find_steps button").count() < 6
    assert len(asked(page, "find_stop")) == 1


def test_cancel_discards_and_leads_back_to_the_questions(page: Any) -> None:
    open_find(page)
    page.fill("#resize_lora_find_prompt", "mine <lora:pastry-sdxl:1>")
    begin(page)
    pause_after_first_trial(page)
    page.click("#resize_lora_find_cancel")
    expect(page.locator(STATUS)).to_have_text("cancelled")
    expect(page.locator("#resize_lora_find_save")).to_be_hidden()
    page.click("#resize_lora_find_again")
    expect(page.locator("#resize_lora_find_prompt")).to_have_value("mine <lora:pastry-sdxl:1>")
    ask(page, "set", {"paused": False})
    begin(page)
    expect(page.locator("#resize_lora_find_save")).to_be_visible()


@pytest.mark.parametrize("direction", ["smaller", "larger"])
def test_one_step_more_becomes_the_best(page: Any, direction: str) -> None:
    open_find(page)
    begin(page)
    expect(page.locator("#resize_lora_find_save")).to_be_visible()
    before = page.locator("#resize_lora_find_steps [aria-pressed=true]").get_attribute("data-bytes")
    page.click(f"#resize_lora_find_{direction}")
    expect(page.locator("#resize_lora_find_steps button")).to_have_count(7)
    expect(page.locator("#resize_lora_find_save")).to_be_visible()
    best = page.locator("#resize_lora_find_steps [aria-pressed=true]")
    expect(best).to_contain_text("best")
    assert best.get_attribute("data-bytes") != before
    expect(page.locator(FIGURE)).to_contain_text(
        "does not keep the target" if direction == "smaller" else "keeps the target"
    )
    assert [one["direction"] for one in asked(page, "find_more")] == [direction]


def test_each_size_that_was_tried_shows_its_images(page: Any) -> None:
    open_find(page)
    begin(page)
    expect(page.locator("#resize_lora_find_save")).to_be_visible()
    first = page.locator("#resize_lora_find_steps button").first
    expect(first).to_have_attribute("aria-pressed", "false")
    first.focus()
    page.keyboard.press("Enter")
    expect(first).to_have_attribute("aria-pressed", "true")
    expect(first).to_be_focused()
    expect(page.locator(FIGURE)).to_contain_text("98.1 MB")
    page.locator("#resize_lora_wipe").focus()
    page.keyboard.press("Home")
    expect(page.locator("#resize_lora_wipe")).to_have_value("0")
    page.locator("#resize_lora_find_steps button").last.click()
    expect(page.locator(FIGURE)).to_contain_text("9.49 MB")
    expect(page.locator("#resize_lora_wipe")).to_have_value("0")


def test_a_prompt_that_hardly_shows_the_lora_is_reported(page: Any, shot: Any) -> None:
    setup(page, features=FEATURES, weak=True)
    open_find(page)
    begin(page)
    finished(page)
    expect(page.locator(STATUS)).to_contain_text("hardly shows the LoRA")
    for action in ("save", "smaller", "larger"):
        expect(page.locator(f"#resize_lora_find_{action}")).to_be_hidden()
    shot(page, "find-weak")


def test_a_refusal_is_shown_where_the_person_looks(page: Any) -> None:
    setup(page, errors={"find": ["unavailable", "The host has no model in memory. Load a checkpoint."]})
    box = open_find(page)
    begin(page)
    expect(page.locator("#resize_lora_find_fault")).to_contain_text("Load a checkpoint")
    expect(box).to_be_visible()
    expect(page.locator("#resize_lora_find_run")).to_be_enabled()


def test_esc_closes_the_dialog_and_the_search_goes_on(page: Any, shot: Any) -> None:
    box = open_find(page)
    begin(page)
    made = pause_after_first_trial(page)
    page.keyboard.press("Escape")
    expect(box).to_have_count(0)
    note = page.locator(".resize-lora-toast")
    expect(note).to_contain_text(made)
    shot(page, "find-toast")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Escape")  # in the tab, where it cancels other jobs
    note.locator('[data-action="show-find"]').click()
    expect(box).to_be_visible()
    expect(note).to_have_count(0)
    expect(page.locator(FIGURE)).to_contain_text("of the LoRA's effect")
    page.keyboard.press("Escape")
    ask(page, "set", {"paused": False})
    expect(note).to_contain_text("keeps 98.2% of the LoRA's effect")
    note.locator('[data-action="show-find"]').click()
    expect(page.locator("#resize_lora_find_save")).to_be_visible()
    searches = {one["id"] for one in ask(page, "status")["queue"] if one["kind"] == "find"}
    assert searches
    assert not searches & {job for one in asked(page, "cancel") for job in one["jobs"]}


def test_the_row_of_the_queue_opens_the_search_after_its_toast_was_closed(page: Any, shot: Any) -> None:
    box = open_find(page)
    begin(page)
    pause_after_first_trial(page)
    page.keyboard.press("Escape")
    page.locator('.resize-lora-toast [data-action="close"]').click()
    page.locator(".resize-lora-job").scroll_into_view_if_needed()
    shot(page, "find-queue")
    page.locator('.resize-lora-job [data-action="show-find"]').click()
    expect(box).to_be_visible()
    page.keyboard.press("Escape")
    page.locator('.resize-lora-job [data-action="stop"]').click()
    expect(page.locator(".resize-lora-job")).to_have_count(0)


def test_a_reload_shows_the_search_again(page: Any) -> None:
    open_find(page)
    begin(page)
    made = pause_after_first_trial(page)
    page.reload(wait_until="commit")
    drawn(page)
    note = page.locator(".resize-lora-toast")
    expect(note).to_contain_text(made)
    note.locator('[data-action="show-find"]').click()
    expect(page.locator(FIGURE)).to_contain_text("of the LoRA's effect")
    ask(page, "set", {"paused": False})
    expect(page.locator("#resize_lora_find_save")).to_be_visible()


def test_a_search_that_ends_while_the_page_reloads_is_reported(page: Any) -> None:
    open_find(page)
    begin(page)
    pause_after_first_trial(page)
    address = page.url
    page.goto("about:blank")
    call(address, "set", paused=False)
    for _ in range(9):
        call(address, "status")
    page.goto(address, wait_until="commit")
    drawn(page)
    page.locator('.resize-lora-toast [data-action="show-find"]').click()
    expect(page.locator("#resize_lora_find_save")).to_be_visible()
    page.reload(wait_until="commit")
    drawn(page)
    expect(page.locator(".resize-lora-toast")).to_have_count(0)


def test_several_loras_are_searched_and_saved(page: Any, shot: Any) -> None:
    in_host(page)
    row(page, "pastry-sdxl").locator(".resize-lora-tick").click()
    row(page, "hogs").locator(".resize-lora-tick").click()
    page.get_by_role("button", name="Find the smallest of 2 LoRAs…").click()
    box = page.locator(DIALOG)
    expect(page.locator("#resize_lora_find_cost")).to_contain_text("46 together")
    expect(page.locator("#resize_lora_find_prompt")).to_have_value("{trigger}, a cake, fog")
    expect(box).to_contain_text("{trigger} becomes the activation text")
    expect(box).to_contain_text("is saved next to it")
    shot(page, "find-several")
    begin(page)
    expect(box).to_have_count(0)
    expect(page.locator(".resize-lora-result")).to_have_count(2)
    (sent,) = asked(page)
    assert (sorted(sent["names"]), sent["save"]) == (["hogs", "pastry-sdxl"], True)


def test_the_card_menu_and_a_result_lead_to_the_dialog(page: Any) -> None:
    in_host(page)
    page.locator("#txt2img_lora_cards .card").first.click(button="right")
    page.locator('#resize_lora_menu [data-key="find"]').click()
    expect(page.locator(DIALOG)).to_contain_text("pastry-sdxl")
    begin(page)
    page.click("#resize_lora_find_save")
    result = page.locator(".resize-lora-result")
    result.locator('[data-action="menu"]').click()
    page.locator('#resize_lora_menu [data-key="find"]').click()
    expect(page.locator(DIALOG)).to_contain_text("pastry-sdxl")


def test_without_images_there_is_no_search_and_the_menu_says_why(page: Any) -> None:
    setup(page, features=["prompt", "cards"])
    row(page, "pastry-sdxl").click()
    expect(page.locator("#resize_lora_find")).to_be_hidden()
    row(page, "pastry-sdxl").click(button="right")
    item = page.locator('#resize_lora_menu [data-key="find"]')
    expect(item).to_have_attribute("aria-disabled", "true")
    expect(item).to_have_attribute("title", re.compile("not available"))


def test_a_restart_of_the_server_closes_the_search(page: Any) -> None:
    box = open_find(page)
    begin(page)
    pause_after_first_trial(page)
    ask(page, "restart")
    expect(box).to_have_count(0)
    expect(page.locator(".resize-lora-toast").first).to_contain_text("restarted")


def test_it_works_by_keyboard(page: Any) -> None:
    in_host(page)
    row(page, "pastry-sdxl").click()
    page.locator("#resize_lora_find").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#resize_lora_find_run")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#resize_lora_find_save")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".resize-lora-result")).to_have_count(1)


def test_the_fit_is_offered_where_the_host_can_do_it_and_its_needs_are_shown(page: Any, shot: Any) -> None:
    row(page, "pastry-sdxl").click()
    expect(page.locator("#resize_lora_fit")).to_have_count(0)
    setup(page, features=FEATURES)
    in_host(page)
    row(page, "pastry-sdxl").click()
    expect(page.locator(".resize-lora-images")).to_contain_text("Needs a loaded checkpoint of the same model family")
    shot(page, "fit-tab")
    page.click("#resize_lora_find")
    expect(page.locator("#resize_lora_find_cost")).to_contain_text("About 23 images")
    page.check("#resize_lora_find_fit")
    expect(page.locator("#resize_lora_find_cost")).to_contain_text("About 33 images")
    begin(page)
    expect(page.locator(FIGURE)).to_contain_text("fitted")
    assert asked(page)[0]["fit"] is True


def test_the_fit_goes_with_a_resize(page: Any) -> None:
    setup(page, features=FEATURES)
    in_host(page)
    row(page, "pastry-sdxl").click()
    page.click("#resize_lora_generate")
    expect(page.locator(".resize-lora-result")).to_have_count(1)
    page.check("#resize_lora_fit")
    page.check("#resize_lora_low", force=True)
    page.click("#resize_lora_generate")
    until_heard(page, "resize", 2)
    plain, fitted = asked(page, "resize")
    assert "fit" not in plain
    assert fitted["fit"] == {
        "images": 4,
        "steps": 4,
        "settings": {
            "prompt": TAGGED,
            "negative_prompt": "blurry",
            "seed": -1,
            "steps": 20,
            "width": 1024,
            "height": 768,
        },
    }


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(page: Any, theme: str, shot: Any) -> None:
    setup(page, features=FEATURES)
    page.evaluate("dark => document.body.classList.toggle('dark', dark)", theme == "dark")
    open_find(page)
    page.check("#resize_lora_find_goal_own", force=True)
    shot(page, f"find-form-{theme}")
    assert findings(page, DIALOG) == []
    begin(page)
    pause_after_first_trial(page)
    expect(page.locator(DIALOG).locator(".resize-lora-stage:visible img")).to_have_count(2)
    assert findings(page, DIALOG) == []
    ask(page, "set", {"paused": False})
    expect(page.locator("#resize_lora_find_save")).to_be_visible()
    shot(page, f"find-found-{theme}")
    assert findings(page, DIALOG) == []
    page.keyboard.press("Escape")
    assert findings(page, ".resize-lora-images") == []


def test_the_dialog_fits_a_phone(phone: Any, shot: Any) -> None:
    setup(phone, features=FEATURES)
    open_find(phone)
    shot(phone, "find-form-phone")
    assert overflow(phone) <= 0
    phone.locator("#resize_lora_find_run").tap()
    pause_after_first_trial(phone)
    expect(phone.locator(DIALOG).locator(".resize-lora-stage:visible img")).to_have_count(2)
    shot(phone, "find-running-phone")
    assert overflow(phone) <= 0
    ask(phone, "set", {"paused": False})
    expect(phone.locator("#resize_lora_find_save")).to_be_visible()
    shot(phone, "find-found-phone")
    assert overflow(phone) <= 0
    assert findings(phone, DIALOG) == []
    phone.keyboard.press("Escape")
    phone.locator(".resize-lora-images").scroll_into_view_if_needed()
    shot(phone, "find-tab-phone")
    ask(phone, "set", {"paused": True})
    phone.locator("#resize_lora_find").tap()
    phone.locator("#resize_lora_find_run").tap()
    phone.keyboard.press("Escape")
    shown = phone.locator('.resize-lora-job [data-action="show-find"]')
    shown.scroll_into_view_if_needed()
    shot(phone, "find-queue-phone")
    apart = shown.bounding_box(), phone.locator('.resize-lora-job [data-action="stop"]').bounding_box()
    assert apart[0]["x"] + apart[0]["width"] <= apart[1]["x"]
