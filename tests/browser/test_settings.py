"""What the host's settings page says: where the panel starts, what card menus send, and whether there are any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.browser.browser_kit import expect, heard, row, setup

ONE_GRADIO = True  # see conftest.py

HOST_PAGE = (Path(__file__).parent / "host_page.js").read_text("utf-8").split("*/", 1)[1].strip().rstrip(";")
OPTIONS = {"suffix": "_r{rank}", "dtype": "bf16", "reference": "none", "sidecars": False}
DEFAULTS = {"preset": "low", "options": OPTIONS, "card_menu": True, "notes": ["Settings, Preset: Huge is no preset."]}


@pytest.fixture
def set_page(page: Any) -> Any:
    setup(page, defaults=DEFAULTS)
    page.evaluate(f"() => {{ window.hostNames = {json.dumps(['pastry-sdxl'])}; ({HOST_PAGE})(); }}")
    return page


def last(page: Any, method: str) -> Any:
    return [one for one in heard(page) if one["method"] == method][-1]["params"]


def test_the_panel_starts_from_the_settings(set_page: Any) -> None:
    expect(set_page.locator("#resize_lora_low")).to_be_checked()
    set_page.locator("#resize_lora_advanced summary").click()
    expect(set_page.locator("#resize_lora_suffix")).to_have_value("_r{rank}")
    expect(set_page.locator("#resize_lora_dtype")).to_have_value("bf16")
    expect(set_page.locator("#resize_lora_checkpoint")).to_have_value("none")
    expect(set_page.locator("#resize_lora_sidecars")).not_to_be_checked()


def test_what_cannot_be_used_is_reported(set_page: Any) -> None:
    expect(set_page.locator("#resize_lora_toasts")).to_contain_text("Huge is no preset")


def test_a_run_sends_them_and_what_is_chosen_goes_before_them(set_page: Any) -> None:
    row(set_page, "hogs").click()
    set_page.locator("#resize_lora_medium").check()
    set_page.locator("#resize_lora_generate").click()
    expect(set_page.locator("#resize_lora_results")).to_contain_text("hogs")
    assert last(set_page, "resize") == {"names": ["hogs"], "target": {"preset": "medium"}, "options": OPTIONS}


def test_a_cards_menu_sends_them(set_page: Any) -> None:
    set_page.locator("#txt2img_lora_cards .card .name").first.click(button="right")
    set_page.get_by_role("menuitem", name="Resize to High").click()
    expect(set_page.locator("#resize_lora_toasts")).to_contain_text("pastry-sdxl 218 →")
    assert last(set_page, "resize") == {"names": ["pastry-sdxl"], "target": {"preset": "high"}, "options": OPTIONS}


@pytest.mark.parametrize("declared", ["var", "let"])  # Forge Neo says let, and then it is not on window
def test_switched_off_the_menu_is_the_browsers_on_cards_and_ours_in_the_panel(set_page: Any, declared: str) -> None:
    set_page.add_script_tag(content=f"{declared} opts = {{resize_lora_card_menu: false}};")
    set_page.locator("#txt2img_lora_cards .card .name").first.click(button="right")
    expect(set_page.locator("#resize_lora_menu")).to_have_count(0)
    row(set_page, "hogs").click(button="right")
    expect(set_page.locator("#resize_lora_menu")).to_be_visible()
