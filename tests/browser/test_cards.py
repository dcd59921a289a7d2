"""Right-click on a card, the card's button, and the way into the prompt, on a page made as hosts make theirs."""

# ruff: noqa: E501 (lines of script, and figures in rows)
from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.browser.browser_kit import AWKWARD, ask, expect, heard, press

HOST_PAGE = (Path(__file__).parent / "host_page.js").read_text("utf-8").split("*/", 1)[1].strip().rstrip(";")


@pytest.fixture
def host(page: Any) -> Any:
    names = json.dumps(["pastry-sdxl", AWKWARD, "pastry-sdxl_46mb"])
    page.evaluate(f"() => {{ window.hostNames = {names}; ({HOST_PAGE})(); }}")
    return page


def card(page: Any, tab: str = "txt2img", place: int = 0) -> Any:
    return page.locator(f"#{tab}_lora_cards .card").nth(place)


@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
@pytest.mark.parametrize("part", [".preview", ".name", ".description", ".actions"])
def test_a_right_click_on_any_part_of_a_card_shows_our_menu_alone(host: Any, part: str, tab: str) -> None:
    card(host, tab).locator(part).click(button="right")
    menu = host.locator("#resize_lora_menu")
    expect(menu).to_be_visible()
    expect(menu.get_by_role("menuitem")).to_have_count(7)
    assert not host.evaluate("window.otherMenus")


def test_tree_rows_have_the_menu_and_send_the_file_name_only(host: Any) -> None:
    host.locator("#txt2img_lora_tree .tree-list-item-label").first.click(button="right")
    host.get_by_role("menuitem", name="Resize to Low").click()
    expect(host.locator("#resize_lora_toasts")).to_contain_text("pastry-sdxl 218 →")
    sent = [one for one in heard(host) if one["method"] == "resize"]
    assert sent[-1]["params"] == {"names": ["pastry-sdxl"], "target": {"preset": "low"}}


def test_a_shifted_right_click_and_other_cards_stay_the_browsers(host: Any) -> None:
    card(host).locator(".name").click(button="right", modifiers=["Shift"])
    host.locator("#txt2img_checkpoints_cards .card .name").click(button="right")
    expect(host.locator("#resize_lora_menu")).to_have_count(0)
    assert host.evaluate("window.otherMenus") == 2


WITHOUT_ONCLICK = """() => {
    document.querySelectorAll('.extra-network-cards .card').forEach(card => {
        card.removeAttribute('onclick');
        card.dataset.apply = '1';
        card.classList.add('item');
    });
    document.querySelectorAll('#img2img_lora_cards .card').forEach(card => delete card.dataset.name);
    document.addEventListener('click', event => {
        if (event.target.closest('[data-apply]')) window.applied = (window.applied || 0) + 1;
    });
}"""


@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
def test_cards_whose_clicks_are_handled_by_the_page_have_menu_and_button(host: Any, tab: str) -> None:
    """anapnoe's webui-ux: `data-apply` instead of `onclick`, and no name on the cards of its long lists."""
    host.evaluate(WITHOUT_ONCLICK)
    card(host, tab).locator(".description").click(button="right")
    expect(host.locator(".resize-lora-menu-title")).to_have_text("pastry-sdxl")
    host.keyboard.press("Escape")
    card(host, tab).locator(".resize-lora-button").click()
    expect(host.locator(".resize-lora-menu-title")).to_have_text("pastry-sdxl")
    assert not host.evaluate("window.applied")
    host.keyboard.press("Escape")
    card(host, tab).locator(".name").click()
    assert host.evaluate("window.applied") == 1


def test_cards_made_later_have_the_menu_too(host: Any) -> None:
    host.evaluate(
        "() => { const box = document.querySelector('#txt2img_lora_cards'); box.replaceChildren(...[...box.children].map(x => x.cloneNode(true)).reverse()); }"
    )
    card(host).locator(".name").click(button="right")
    expect(host.locator(".resize-lora-menu-title")).to_have_text("pastry-sdxl_46mb")


def test_awkward_names_are_text_and_arrive_whole(host: Any) -> None:
    card(host, place=1).locator(".name").click(button="right")
    expect(host.locator(".resize-lora-menu-title")).to_have_text(AWKWARD)
    host.get_by_role("menuitem", name="Resize to Medium").click()
    expect(host.locator("#resize_lora_toasts")).to_contain_text(f"{AWKWARD} 54.8 →")


def test_a_menu_that_grows_stays_in_the_window(host: Any) -> None:
    host.set_viewport_size({"width": 390, "height": 844})
    at = "{bubbles: true, composed: true, cancelable: true, clientX: 385, clientY: 840}"
    card(host).locator(".name").evaluate(f"name => name.dispatchEvent(new MouseEvent('contextmenu', {at}))")
    menu = host.locator("#resize_lora_menu")
    edges = "menu => (box => [box.left, box.top, innerWidth - box.right, innerHeight - box.bottom])"
    edges += "(menu.getBoundingClientRect())"
    width = menu.evaluate("menu => menu.offsetWidth")
    menu.locator("button span").nth(1).evaluate("size => { size.textContent = '≈ 10.1 MB of 200 MB of a file'; }")
    assert menu.evaluate("menu => menu.offsetWidth") > width
    host.wait_for_timeout(100)
    assert min(menu.evaluate(edges)) >= 3.9


def test_sizes_are_in_the_menu_once_a_file_is_analysed(host: Any, shot: Any) -> None:
    ask(host, "analyse", {"names": ["pastry-sdxl"]})
    for _ in range(5):
        ask(host, "status")
    card(host).locator(".name").click(button="right")
    expect(host.get_by_role("menuitem", name="Resize to Medium")).to_contain_text("≈ 47.3 MB")
    shot(host, "card-menu")


def test_compare_is_grey_with_its_reason_where_the_file_is_not_ours(host: Any) -> None:
    card(host).locator(".name").click(button="right")
    entry = host.get_by_role("menuitem", name="Compare with original")
    expect(entry).to_have_attribute("title", "This file was not created by Resize LoRA.")
    entry.click(force=True)
    host.keyboard.press("Escape")
    assert "compare" not in {one["method"] for one in heard(host)}
    card(host, place=2).locator(".name").click(button="right")
    expect(entry).to_have_attribute("aria-disabled", "false")


def test_the_menu_works_by_keyboard_and_closes_on_escape(host: Any) -> None:
    card(host).locator(".name").click(button="right")
    host.keyboard.press("ArrowDown")
    expect(host.get_by_role("menuitem", name="Resize to High")).to_be_focused()
    host.keyboard.press("End")
    expect(host.get_by_role("menuitem", name="Compare")).to_be_focused()
    host.keyboard.press("Escape")
    expect(host.locator("#resize_lora_menu")).to_have_count(0)


def test_resize_opens_the_tab_with_that_lora_chosen(host: Any) -> None:
    card(host).locator(".name").click(button="right")
    host.get_by_role("menuitem", name="Resize…").click()
    expect(host.locator("#resize_lora_subject")).to_have_text("pastry-sdxl")
    assert host.evaluate("window.opened") == "resize_lora"


def test_the_button_of_a_card_opens_the_menu_and_not_the_card(host: Any) -> None:
    host.evaluate("document.querySelector('#txt2img_lora_cards .resize-lora-button').click()")
    expect(host.locator("#resize_lora_menu")).to_be_visible()
    assert not host.evaluate("window.cardClicks")


def test_cards_are_drawn_anew_once_for_a_batch_in_both_tabs(host: Any) -> None:
    ask(host, "set", {"slow": 1})
    host.check("#resize_lora_all")
    host.click("#resize_lora_generate")
    expect(host.locator(".resize-lora-result")).to_have_count(6)
    host.wait_for_function("(window.refreshed || []).length >= 2")
    host.wait_for_timeout(500)
    assert host.evaluate("window.refreshed") == ["txt2img", "img2img"]
    for left in (5, 4, 3):
        press(host, host.locator('.resize-lora-result[data-state="there"]').first, "undo")
        expect(host.locator('[data-state="there"]')).to_have_count(left)
    assert host.evaluate("window.refreshed.length") <= 4  # ten seconds apart


def test_a_refresh_that_the_host_dropped_is_asked_for_again_after_a_while(host: Any) -> None:
    card(host).locator(".name").click(button="right")
    host.get_by_role("menuitem", name="Resize to Low").click()
    host.wait_for_function("(window.refreshed || []).length === 2")
    host.clock.install()
    host.clock.fast_forward(9_000)
    assert host.evaluate("window.refreshed.length") == 2
    made = ask(host, "results")["results"][-1]["output"]
    host.wait_for_function("(window.refreshed || []).length === 4")
    host.evaluate(
        """name => { for (const tab of ['txt2img', 'img2img']) {
            const first = document.querySelector(`#${tab}_lora_cards .card`), one = first.cloneNode(true);
            one.dataset.name = name; first.after(one); } }""",
        made,
    )
    host.clock.fast_forward(60_000)
    assert host.evaluate("window.refreshed.length") == 4


def tried(page: Any, prompt: str, action: str = "send") -> str:
    page.evaluate("text => { document.querySelector('#txt2img_prompt textarea').value = text; }", prompt)
    ask(page, "resize", {"names": ["pastry-sdxl"], "target": {"preset": "medium"}})
    for _ in range(5):
        ask(page, "status")
    page.locator('.resize-lora-row[data-name="hogs"]').click()
    page.click("#resize_lora_generate")
    press(page, page.locator('.resize-lora-result[data-key="pastry-sdxl_47mb"]'), action)
    area = page.locator("#txt2img_prompt textarea")
    expect(area).to_have_value(re.compile("_47mb"))
    expect(area).to_be_focused()
    text: str = area.input_value()
    return text


@pytest.mark.parametrize("rest", [":1", ":0.8:0.5", ":te=0.3:unet=1:dyn=4", ""])
def test_try_replaces_the_tag_and_keeps_its_multipliers(host: Any, rest: str) -> None:
    text = tried(host, f"a cake, <lora:pastry-sdxl{rest}> on <lora:hogs:1> a plate")
    assert text == f"a cake, <lora:pastry-sdxl_47mb{rest}> on <lora:hogs:1> a plate"
    at = host.evaluate("document.querySelector('#txt2img_prompt textarea').selectionStart")
    assert text[:at].endswith(f"pastry-sdxl_47mb{rest}>")


def test_try_adds_the_tag_with_weight_and_activation_where_the_original_is_not(host: Any) -> None:
    assert tried(host, "a cake") == "a cake <lora:pastry-sdxl_47mb:0.8> prbstyle"


def test_try_has_the_list_read_again_before_it_says_that_a_lora_is_not_there(host: Any) -> None:
    ask(host, "set", {"unlisted": True})
    assert tried(host, "a cake <lora:pastry-sdxl:1>") == "a cake <lora:pastry-sdxl_47mb:1>"
    assert {"refresh": True} in [{k: v for k, v in one["params"].items() if k == "refresh"} for one in heard(host)]
    expect(host.locator(".resize-lora-toast").filter(has_text="no LoRA is named")).to_have_count(0)


def test_a_card_of_a_lora_that_is_nowhere_reports_it(host: Any) -> None:
    ask(host, "drop", {"name": "pastry-sdxl"})
    card(host).locator(".name").click(button="right")
    host.get_by_role("menuitem", name="Resize…").click()
    expect(host.locator("#resize_lora_toasts")).to_contain_text("pastry-sdxl is not in the library.")


def test_try_and_generate_starts(host: Any) -> None:
    tried(host, "a cake <lora:Pastry:0.6>", "generate")
    assert host.evaluate("window.generated") == "txt2img"


def test_try_leaves_the_cursor_in_a_tab_that_is_drawn_a_moment_after_it_was_opened(host: Any) -> None:
    host.evaluate(
        """() => { const panel = document.querySelector('#tab_txt2img'); panel.style.display = 'none';
            document.querySelector('#tabs > .tab-nav > button').onclick = () => setTimeout(() => { panel.style.display = ''; }, 60); }"""
    )
    tried(host, "a cake <lora:pastry-sdxl:1>")


def test_a_card_shows_what_its_smaller_version_saves(host: Any) -> None:
    badges = host.locator("#txt2img_lora_cards .resize-lora-card-badge")
    expect(badges).to_have_count(2)  # of the original, and of its version
    expect(card(host).locator(".resize-lora-card-badge")).to_have_text("\u221279 %")
    host.evaluate(
        """() => { const box = document.querySelector('#txt2img_lora_cards');
            box.querySelectorAll('.resize-lora-card-badge').forEach(one => one.remove());
            box.replaceChildren(...[...box.children].map(one => one.cloneNode(true))); }"""
    )
    expect(badges).to_have_count(2)  # the host has drawn its cards again


def test_a_note_in_the_hosts_page_covers_none_of_its_buttons(host: Any) -> None:
    host.evaluate(
        """() => { document.querySelector('#tab_resize_lora').style.display = 'none';
            document.querySelector('#resize_lora_root').style.display = 'none';
            const mine = document.createElement('button'); mine.id = 'in_the_corner'; mine.textContent = 'Generate';
            mine.style.cssText = 'position: fixed; right: 0; bottom: 0; width: 300px; height: 90px;';
            document.body.append(mine); }"""
    )
    card(host).locator(".name").click(button="right")
    host.get_by_role("menuitem", name="Resize to Low").click()
    toasts = host.locator("#resize_lora_toasts")
    expect(toasts).to_have_class(re.compile("resize-lora-floating"))
    expect(toasts).to_have_attribute("data-corner", "bottom-left")
    box, mine = toasts.bounding_box(), host.locator("#in_the_corner").bounding_box()
    assert box["x"] + box["width"] <= mine["x"] or box["y"] + box["height"] <= mine["y"]
