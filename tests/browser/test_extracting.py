"""Extract a LoRA: from two models of the list, or from the loaded one and its file, to a row of the results."""

from __future__ import annotations

from typing import Any

from tests.browser.browser_kit import expect, heard, setup

ONE_GRADIO = True  # see conftest.py


def open_dialog(page: Any) -> Any:
    page.click("#resize_lora_extract")
    box = page.locator("dialog.resize-lora-dialog")
    expect(box).to_be_visible()
    return box


def asked(page: Any) -> list[dict[str, Any]]:
    return [one["params"] for one in heard(page) if one["method"] == "extract"]


def test_the_loaded_model_is_compared_with_its_file(page: Any, shot: Any) -> None:
    box = open_dialog(page)
    shot(page, "extract-dialog")
    page.fill("#resize_lora_extract_name", "my edit")
    page.click("#resize_lora_extract_run")
    expect(box).to_have_count(0)
    made = page.locator(".resize-lora-result")
    expect(made).to_contain_text("my edit")
    expect(made).to_contain_text("71.0 % of the difference")
    made.locator('[data-action="menu"]').click()
    expect(page.locator('#resize_lora_menu [data-key="undo"]')).to_be_visible()
    expect(page.locator('#resize_lora_menu [data-key="compare"]')).to_have_count(0)  # there is no original LoRA
    page.keyboard.press("Escape")
    wanted = {"tuned": "loaded", "base": "file", "text_encoders": True, "name": "my edit"}
    assert asked(page) == [{**wanted, "target": {"rank": 64}, "options": {}}]


def test_two_models_of_the_list_at_a_preset_without_text_encoders(page: Any) -> None:
    box = open_dialog(page)
    page.select_option("#resize_lora_extract_tuned", "juggernautXL_v9")
    page.select_option("#resize_lora_extract_base", "dreamshaper_8")
    page.select_option("#resize_lora_extract_target", "medium")
    page.uncheck("#resize_lora_extract_encoders")
    page.click("#resize_lora_extract_run")
    expect(box).to_have_count(0)
    wanted = {"tuned": "juggernautXL_v9", "base": "dreamshaper_8", "text_encoders": False}
    assert asked(page) == [{**wanted, "target": {"preset": "medium"}, "options": {}}]


def test_what_cannot_be_compared_is_reported_before(page: Any, shot: Any) -> None:
    open_dialog(page)
    note, run = page.locator("#resize_lora_extract_note"), page.locator("#resize_lora_extract_run")
    expect(run).to_be_enabled()
    page.select_option("#resize_lora_extract_tuned", "dreamshaper_8")
    expect(note).to_contain_text("Only the loaded checkpoint")
    expect(run).to_be_disabled()
    page.evaluate("document.body.classList.add('dark')")
    shot(page, "extract-refused-dark")
    page.select_option("#resize_lora_extract_base", "dreamshaper_8")
    expect(note).to_contain_text("the same model")
    page.select_option("#resize_lora_extract_base", "juggernautXL_v9")
    expect(note).to_be_empty()
    expect(run).to_be_enabled()


def test_a_refusal_is_shown_where_the_person_looks(page: Any) -> None:
    setup(page, unloaded=True)
    box = open_dialog(page)
    page.click("#resize_lora_extract_run")
    expect(page.locator("#resize_lora_extract_note")).to_contain_text("No checkpoint is loaded")
    expect(box).to_be_visible()
    expect(page.locator("#resize_lora_extract_run")).to_be_enabled()


def test_where_no_model_is_in_memory_only_files_are_offered(page: Any) -> None:
    setup(page, features=[])
    box = open_dialog(page)
    expect(page.locator("#resize_lora_extract_tuned option")).to_have_count(2)
    page.click("#resize_lora_extract_run")
    expect(box).to_have_count(0)
    assert [(one["tuned"], one["base"]) for one in asked(page)] == [("juggernautXL_v9", "dreamshaper_8")]


def test_the_dialog_fits_a_phone(phone: Any, shot: Any) -> None:
    open_dialog(phone)
    shot(phone, "extract-phone")
    width = phone.evaluate(
        "document.querySelector('dialog.resize-lora-dialog').scrollWidth - document.querySelector('dialog.resize-lora-dialog').clientWidth"  # noqa: E501
    )
    assert width <= 0


def test_the_buttons_of_the_panel_do_not_overlap_on_a_phone(phone: Any, shot: Any) -> None:
    buttons = phone.locator(".resize-lora-actions button:visible")
    expect(buttons).to_have_count(4)
    shot(phone, "actions-phone")
    boxes = [one.bounding_box() for one in buttons.all()]
    for i, box in enumerate(boxes):
        assert buttons.nth(i).evaluate("one => one.scrollWidth <= one.clientWidth")
        for other in boxes[i + 1 :]:
            apart = box["x"] + box["width"] <= other["x"] or other["x"] + other["width"] <= box["x"]
            assert apart or box["y"] + box["height"] <= other["y"] or other["y"] + other["height"] <= box["y"]


def test_it_opens_on_a_choice_that_can_work(page: Any) -> None:
    setup(page, reference={"kind": "none", "title": None, "family": None, "note": ""})
    open_dialog(page)
    expect(page.locator("#resize_lora_extract_tuned")).to_have_value("juggernautXL_v9")
    expect(page.locator("#resize_lora_extract_base")).to_have_value("dreamshaper_8")
    expect(page.locator("#resize_lora_extract_run")).to_be_enabled()
