"""Bake my prompt: from the prompt to one file, and back into the prompt."""

# ruff: noqa: E501 (lines of script)
from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.browser.browser_kit import ask, expect, heard, setup, shown_in, until_heard

ONE_GRADIO = True  # see conftest.py

HOST_PAGE = (Path(__file__).parent / "host_page.js").read_text("utf-8")
PROMPT = "a cat, <lora:pastry-sdxl:0.6:1.2>, <lora:hogs:-0.4:lbw=OUTALL> fog"


def in_host(page: Any, prompt: str, tab: str = "txt2img") -> None:
    page.evaluate("names => { window.hostNames = names; }", ["hogs"])
    page.evaluate(HOST_PAGE)
    page.evaluate("([tab, text]) => { document.querySelector(`#${tab}_prompt textarea`).value = text; }", [tab, prompt])


def prompt_of(page: Any, tab: str = "txt2img") -> str:
    return str(page.evaluate("tab => document.querySelector(`#${tab}_prompt textarea`).value", tab))


def open_dialog(page: Any) -> Any:
    page.click("#resize_lora_bake")
    box = page.locator("dialog.resize-lora-dialog")
    expect(box).to_be_visible()
    return box


def asked(page: Any, method: str) -> list[dict[str, Any]]:
    return [one["params"] for one in heard(page) if one["method"] == method]


def test_the_prompts_loras_become_one_and_the_new_tag_takes_their_place(page: Any, shot: Any) -> None:
    in_host(page, PROMPT)
    box = open_dialog(page)
    expect(page.locator("#resize_lora_bake_prompt")).to_have_value(PROMPT)
    expect(page.locator("#resize_lora_bake_tags li")).to_have_count(2)
    expect(page.locator("#resize_lora_bake_name")).to_have_value("pastry-sdxl+hogs")
    shot(page, "bake-dialog")
    page.fill("#resize_lora_bake_name", "my mix")
    page.select_option("#resize_lora_bake_target", "medium")
    page.click("#resize_lora_bake_run")
    expect(box).to_have_count(0)
    page.get_by_role("button", name="Replace in the prompt: my mix").first.click()
    page.wait_for_function("document.querySelector('#txt2img_prompt textarea').value.includes('my mix')")
    assert prompt_of(page) == "a cat, <lora:my mix:1>, fog"
    assert page.evaluate("window.opened") == "txt2img"
    assert asked(page, "bake") == [{"prompt": PROMPT, "name": "my mix", "target": {"preset": "medium"}, "options": {}}]
    assert sorted(page.evaluate("window.refreshed")[:2]) == ["img2img", "txt2img"]


@pytest.mark.parametrize("width", [390, 1280])
def test_a_toast_with_two_long_buttons_keeps_room_for_its_words(page: Any, shot: Any, width: int) -> None:
    in_host(page, PROMPT)
    page.set_viewport_size({"width": width, "height": 844})
    open_dialog(page)
    page.fill("#resize_lora_bake_name", "a name of some length, as people give")
    page.click("#resize_lora_bake_run")
    toast = page.locator(".resize-lora-toast:has(button + button)").last
    expect(toast).to_be_visible()
    shot(page, f"bake-toast-{width}")
    words, tools, close, whole = (
        toast.locator(part).first.bounding_box() if part else toast.bounding_box()
        for part in ("[role=status]", ".resize-lora-result-tools", ".resize-lora-close", "")
    )
    assert words["width"] >= 160
    assert whole["height"] <= 160
    assert words["x"] + words["width"] <= close["x"]
    assert tools["x"] + tools["width"] <= close["x"] or close["y"] + close["height"] <= tools["y"]
    assert close["x"] + close["width"] <= whole["x"] + whole["width"] <= width


def test_the_prompt_may_be_that_of_img2img_and_may_have_grown_since(page: Any) -> None:
    in_host(page, PROMPT, "img2img")
    open_dialog(page)
    expect(page.locator("#resize_lora_bake_tab")).to_have_value("img2img")
    expect(page.locator("#resize_lora_bake_run")).to_be_enabled()
    page.click("#resize_lora_bake_run")
    expect(page.locator(".resize-lora-result")).to_have_count(1)
    page.evaluate("document.querySelector('#img2img_prompt textarea').value += ' and rain'")
    page.locator(".resize-lora-result").get_by_role("button", name=re.compile("^Replace in the prompt")).click()
    page.wait_for_function("document.querySelector('#img2img_prompt textarea').value.includes('+hogs')")
    assert prompt_of(page, "img2img") == "a cat, <lora:pastry-sdxl+hogs:1>, fog and rain"
    assert asked(page, "bake")[0].keys() == {"prompt", "name", "options"}


def test_what_cannot_be_baked_is_reported_before_and_stays(page: Any, shot: Any) -> None:
    in_host(page, "<lora:pastry-sdxl:1> [<lora:hogs:1>:10] <lora:nobody:1> <lora:hogs:0.1@1,1@9>")
    open_dialog(page)
    left = page.locator("#resize_lora_bake_tags .resize-lora-bake-left")
    expect(left).to_have_count(3)
    expect(left.nth(0)).to_contain_text("[…:10]")
    expect(left.nth(1)).to_contain_text("no LoRA of this name")
    expect(left.nth(2)).to_contain_text("0.1@1,1@9")
    expect(page.locator("#resize_lora_bake_run")).to_be_enabled()
    page.evaluate("document.body.classList.add('dark')")
    shot(page, "bake-warnings-dark")


def test_nothing_to_bake_leaves_the_button_off_with_the_reason(page: Any) -> None:
    in_host(page, "a cat")
    open_dialog(page)
    run, tags = page.locator("#resize_lora_bake_run"), page.locator("#resize_lora_bake_tags")
    for text, words in (
        ("a cat", "names no LoRA"),
        ("<lora:pastry-sdxl:much>", "column 19"),
        ("<lora:pastry-sdxl:1> <lora:snorlax_sd15:1>", "different models"),
    ):
        page.fill("#resize_lora_bake_prompt", text)
        expect(tags).to_contain_text(words)
        expect(run).to_be_disabled()
    page.fill("#resize_lora_bake_prompt", "<lora:pastry-sdxl:1>")
    expect(run).to_be_enabled()


def test_an_answer_about_an_older_prompt_is_dropped(page: Any) -> None:
    in_host(page, "a cat")
    open_dialog(page)
    expect(page.locator("#resize_lora_bake_tags")).to_contain_text("names no LoRA")
    ask(page, "set", {"held": ["read_prompt"]})
    shown = shown_in(page, "#resize_lora_bake_tags")
    page.fill("#resize_lora_bake_prompt", "<lora:hogs:1>")
    until_heard(page, "read_prompt", 2)
    page.fill("#resize_lora_bake_prompt", "<lora:dpo:1>")
    ask(page, "set", {"held": []})
    expect(page.locator("#resize_lora_bake_tags")).to_contain_text("<lora:dpo:1>")
    assert "hogs" not in shown()


def test_a_refusal_is_shown_where_the_person_looks(page: Any) -> None:
    in_host(page, PROMPT)
    box = open_dialog(page)
    expect(page.locator("#resize_lora_bake_run")).to_be_enabled()
    page.fill("#resize_lora_bake_name", "a/b")
    page.click("#resize_lora_bake_run")
    expect(page.locator("#resize_lora_bake_tags")).to_contain_text("use letters")
    expect(box).to_be_visible()
    expect(page.locator("#resize_lora_bake_run")).to_be_enabled()


def test_without_a_webui_a_box_takes_the_prompt_and_the_new_one_is_copied(page: Any, shot: Any) -> None:
    setup(page, features=[])
    open_dialog(page)
    expect(page.locator("#resize_lora_bake_tab")).to_have_count(0)
    page.fill("#resize_lora_bake_prompt", PROMPT)
    expect(page.locator("#resize_lora_bake_run")).to_be_enabled()
    shot(page, "bake-standalone")
    page.fill("#resize_lora_bake_name", "mix")
    page.click("#resize_lora_bake_run")
    page.locator(".resize-lora-result").get_by_role("button", name="Copy prompt: mix").click()
    expect(page.locator("#resize_lora_toasts")).to_contain_text("a cat, <lora:mix:1>, fog")


def test_a_name_of_ones_own_is_kept_while_the_prompt_changes(page: Any) -> None:
    in_host(page, PROMPT)
    open_dialog(page)
    expect(page.locator("#resize_lora_bake_name")).to_have_value("pastry-sdxl+hogs")
    page.fill("#resize_lora_bake_prompt", "<lora:hogs:1>")
    expect(page.locator("#resize_lora_bake_name")).to_have_value("hogs")
    page.fill("#resize_lora_bake_name", "mine")
    page.fill("#resize_lora_bake_prompt", "<lora:hogs:1> <lora:dpo:1>")
    expect(page.locator("#resize_lora_bake_tags li")).to_have_count(2)
    expect(page.locator("#resize_lora_bake_name")).to_have_value("mine")


def test_the_dialog_fits_a_phone(phone: Any, shot: Any) -> None:
    in_host(phone, PROMPT)
    open_dialog(phone)
    expect(phone.locator("#resize_lora_bake_run")).to_be_enabled()
    width = phone.evaluate(
        "document.querySelector('dialog.resize-lora-dialog').scrollWidth - document.querySelector('dialog.resize-lora-dialog').clientWidth"
    )
    assert width <= 1
    shot(phone, "bake-phone")


def test_the_size_and_every_remark_are_shown_before_the_press(page: Any) -> None:
    in_host(page, PROMPT)
    open_dialog(page)
    plan = page.locator("#resize_lora_bake_plan")
    expect(plan.locator("strong")).to_have_text(re.compile(r"^1\.05 → 1\.05 GB · 0 %$"))
    expect(plan.locator("li")).to_have_text(["turned: 3 layers (OFT) were merged with the reference"])
    page.select_option("#resize_lora_bake_target", "low")
    expect(plan.locator("strong")).to_have_text(re.compile("MB · .\\d+ %$"))
    assert asked(page, "bake") == []
    page.select_option("#resize_lora_bake_target", "all")
    page.wait_for_timeout(600)
    sent = [{key: one[key] for key in ("recipe", "target") if key in one} for one in asked(page, "bake_plan")]
    assert sent == [{}, {"target": {"preset": "low"}}, {"recipe": "rank=100000"}]


def test_a_plan_that_is_left_is_stopped_and_adds_no_result(page: Any) -> None:
    in_host(page, PROMPT)
    ask(page, "set", {"paused": True})
    open_dialog(page)
    until_heard(page, "bake_plan", 1)
    page.wait_for_timeout(300)
    expect(page.locator("#resize_lora_bake_plan")).to_contain_text("Computing the size")
    page.keyboard.press("Escape")
    until_heard(page, "cancel", 1)
    ask(page, "set", {"paused": False})
    expect(page.locator("#resize_lora_queue")).to_be_hidden()
    expect(page.locator(".resize-lora-result")).to_have_count(0)
