"""The page of SD.Next, with ModernUI and with its standard theme: tab, cards, prompts, comparison and baking.

Images have 64 pixels a side, so that a CPU can generate them.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.hosts_real.kit import (
    DIFFERENCE,
    MENU,
    choose,
    choose_anew,
    files,
    long_wait,
    made_names,
    menu_item,
    names,
    resizable,
    resized,
    resized_in_the_tab,
    result_button,
    result_of,
    take,
)
from tests.hosts_real.rest import Rest, until
from tests.panel_page import ask, expect, open_tab

pytestmark = pytest.mark.needs("sdnext_page")

CARD_NAMES = """cards => cards.map(card => card.dataset.filename.split('/').pop().replace(/\\.[a-z]+$/, ''))"""
SET = """([tab, values]) => { for (const [place, value] of values) {
    for (const field of document.querySelectorAll(`#${tab}_${place}`)) {
        field.value = value; field.dispatchEvent(new Event('input', {bubbles: true})); } } }"""


@pytest.fixture
def main(webui: Any) -> str:
    """The tab whose prompt is used: ModernUI hides txt2img."""
    return "control" if webui.locator("button[tabitemid]").count() else "txt2img"


def small(page: Any, tab: str, text: str) -> None:
    """Set a small image and the prompt, in its tab. The fields are on several pages, some of which are not shown."""
    open_tab(page, tab)
    values = [("prompt textarea", text), ("seed input", 7), ("steps input[type=number]", 4)]
    for side in ("width", "height"):
        values += [(f"{side} input[type=number]", 64), (f"before_resize_{side} input[type=number]", 64)]
    page.evaluate(SET, [tab, values])


def prompt(page: Any, tab: str) -> Any:
    return page.locator(f"#{tab}_prompt textarea").first


def cards(page: Any, tab: str) -> Any:
    """Show the cards of LoRAs; return the visible ones."""
    open_tab(page, tab)
    shown = page.locator(f"#{tab}_lora_cards .card:visible")
    if not page.locator(f"#{tab}_extra_tabs").is_visible():
        page.evaluate("tab => document.querySelector(`#${tab}_extra_networks_btn`).click()", tab)
    page.locator(f"#{tab}_extra_tabs button", has_text="Lora").first.click()
    shown.first.wait_for()
    return shown


def card(page: Any, tab: str, name: str) -> Any:
    return page.locator(f"#{tab}_lora_cards .card[data-filename$={json.dumps(f'/{name}.safetensors')}]")


def menu_on(page: Any, spot: Any) -> Any:
    """Right-click without moving the mouse: what the host shows under it changes with it. The host may draw its cards
    anew at any time, so no step waits for the card to be at rest."""
    page.keyboard.press("Escape")
    spot.evaluate("spot => spot.scrollIntoView({block: 'nearest'})")
    spot.dispatch_event("contextmenu", {"bubbles": True, "composed": True, "cancelable": True, "clientX": 300})
    expect(page.locator(MENU)).to_be_visible()
    return page.locator(MENU)


def test_the_tab_names_the_host_and_its_model(webui: Any) -> None:
    open_tab(webui, "resize_lora")
    hello = ask(webui, "hello")
    assert hello["host"] == "SD.Next"
    assert hello["reference"]["kind"] in ("memory", "file")
    assert not {"xyz", "fit"} & set(hello["features"])
    expect(webui.locator("#resize_lora_reference")).to_contain_text(hello["reference"]["title"])


def test_every_card_has_the_menu_under_the_name_of_its_file(webui: Any, main: str) -> None:
    shown = cards(webui, main)
    there = shown.evaluate_all(CARD_NAMES)
    assert len(there) >= 3
    assert set(there) <= set(names(webui))
    for name in there:
        menu = menu_on(webui, card(webui, main, name).locator(".name"))
        expect(menu.locator(".resize-lora-menu-title")).to_have_text(name)
        expect(webui.locator("#context-menu")).to_have_count(0)
    take(webui, "sdnext-menu")
    webui.keyboard.press("Escape")
    expect(webui.locator(MENU)).to_have_count(0)
    expect(webui.locator(".resize-lora-button")).to_have_count(0)


def test_a_right_click_opens_the_menu_and_other_places_stay_the_hosts(webui: Any, main: str) -> None:
    cards(webui, main).first.click(button="right", force=True)
    expect(webui.locator(MENU)).to_be_visible()
    webui.keyboard.press("Escape")
    webui.locator(f"#{main}_generate").click(button="right")
    expect(webui.locator("#context-menu")).to_be_visible()
    expect(webui.locator(MENU)).to_have_count(0)
    prompt(webui, main).click()


def test_a_card_runs_at_once_and_the_new_card_appears(webui: Any, main: str) -> None:
    cards(webui, main)
    name, before = resizable(webui)["name"], made_names(webui)
    menu_on(webui, card(webui, main, name).locator(".name"))
    menu_item(webui, "medium").click()
    note = webui.locator(".resize-lora-toast").last
    expect(note).to_contain_text(name)
    again = note.get_by_role("button", name="Resize again")
    until(lambda: made_names(webui) - before or again.count(), "the result, or the offer of another one")
    if again.count():
        again.click()
    (made,) = until(lambda: made_names(webui) - before, "the result")
    expect(card(webui, main, made)).to_be_visible(timeout=long_wait())


def test_a_result_is_in_the_list_of_the_host(webui: Any, host: Rest) -> None:
    made = resized_in_the_tab(webui, resizable(webui)["name"])
    assert any(one["path"].endswith(f"/{made}.safetensors") for one in host.get("sdapi/v1/loras"))


def test_sending_replaces_the_tag_in_the_prompt_that_is_shown(webui: Any, main: str) -> None:
    name = resizable(webui)["name"]
    made = resized(webui, name)["output"]
    small(webui, main, f"a cake, <lora:{name}:te=0.5:unet=0.8:in=0.1> on a plate")
    open_tab(webui, "resize_lora")
    result_button(result_of(webui, made), "send").click()
    expect(prompt(webui, main)).to_have_value(f"a cake, <lora:{made}:te=0.5:unet=0.8:in=0.1> on a plate")
    expect(prompt(webui, main)).to_be_focused()


def test_a_comparison_in_the_tab_has_a_figure(webui: Any, main: str) -> None:
    small(webui, main, "a cake")
    made = resized_in_the_tab(webui, resizable(webui)["name"])
    result_button(result_of(webui, made), "compare").click()
    dialog = webui.locator("dialog[open]")
    expect(dialog).to_contain_text(DIFFERENCE, timeout=long_wait())
    expect(dialog).to_contain_text("seed 7")
    expect(dialog).to_contain_text("of the LoRA's effect")
    take(webui, "sdnext-compare")


def test_the_prompt_is_baked_with_its_parts_and_a_schedule_is_refused_with_its_reason(webui: Any, main: str) -> None:
    one, other = [file["name"] for file in files(webui) if not file["problem"] and not file["ours"]][:2]
    small(webui, main, f"a cake, <lora:{one}:0.5:in=0:out=0.25>, <lora:{other}:0.1@1,0.6@6> fog")
    open_tab(webui, "resize_lora")
    webui.locator("#resize_lora_bake").click()
    tags = webui.locator("#resize_lora_bake_tags li")
    expect(tags).to_have_count(2)
    expect(tags.first).to_contain_text("will be baked")
    expect(tags.first).not_to_contain_text("A1111")
    expect(tags.nth(1)).to_contain_text("changes between steps")
    take(webui, "sdnext-bake")
    webui.locator("#resize_lora_bake_name").fill("baked in a test")
    webui.locator("#resize_lora_bake_run").click()
    result = webui.locator('.resize-lora-result[data-state="there"]').filter(has_text="baked in a test").first
    made = str(result.get_attribute("data-key", timeout=long_wait()))
    result_button(result, "replace").click()
    expect(prompt(webui, main)).to_have_value(f"a cake, <lora:{made}:1>, <lora:{other}:0.1@1,0.6@6> fog")


def test_layers_that_the_host_ignores_are_named_and_can_be_left_out(webui: Any) -> None:
    if "ignores_text_encoders" not in ask(webui, "hello")["features"]:
        pytest.skip("this SD.Next is set to apply text encoder layers")
    open_tab(webui, "resize_lora")
    sound = [file for file in files(webui) if not file["problem"] and not file["ours"]]
    name = max(sound, key=lambda file: file["bytes"])["name"]
    choose(webui, name)
    line = webui.locator("#resize_lora_warnings li").filter(has_text="SD.Next ignores these")
    expect(line).to_be_visible(timeout=long_wait())
    take(webui, "sdnext-ignored")
    line.get_by_role("button").click()
    expect(webui.locator("#resize_lora_bake_prompt")).to_have_value(f"<lora:{name}:te=0:unet=1>")
    webui.locator("#resize_lora_bake_name").fill("without text encoders")
    webui.locator("#resize_lora_bake_run").click()
    result = webui.locator('.resize-lora-result[data-state="there"]').filter(has_text="without text encoders").first
    made = str(result.get_attribute("data-key", timeout=long_wait()))
    choose(webui, made)
    expect(webui.locator("#resize_lora_plot svg")).to_be_visible(timeout=long_wait())
    expect(line).to_have_count(0)
    sizes = {file["name"]: file["bytes"] for file in files(webui)}
    assert sizes[made] < sizes[name]


@pytest.mark.parametrize("width", [1280, 390])
def test_the_tab_fits_its_page(webui: Any, width: int) -> None:
    webui.set_viewport_size({"width": width, "height": 844})
    open_tab(webui, "resize_lora")
    choose_anew(webui, resizable(webui)["name"])
    expect(webui.locator("#resize_lora_plot svg")).to_be_visible(timeout=long_wait())
    webui.wait_for_timeout(600)
    take(webui, f"sdnext-tab-{width}")
    webui.locator("#resize_lora_results").scroll_into_view_if_needed()
    take(webui, f"sdnext-results-{width}")
    wide = webui.evaluate("(root => [root.scrollWidth, root.clientWidth])(document.querySelector('#resize_lora_root'))")
    assert wide[0] <= wide[1]
