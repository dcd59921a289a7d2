"""The host's cards of LoRAs, its prompts and images, its lock, and Reload UI.

Images have 64 pixels a side, so that a CPU can generate them.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.hosts_real.kit import (
    DIFFERENCE,
    MENU,
    TABS,
    awkward,
    card,
    cards_page,
    choose,
    choose_anew,
    files,
    long_image,
    long_wait,
    made_before,
    made_names,
    menu_item,
    menu_on,
    names,
    options,
    prompt,
    refresh_cards,
    reload_ui,
    resizable,
    resized,
    resized_in_the_tab,
    result_button,
    result_of,
    small,
    stop_image,
    take,
    wait_for,
)
from tests.hosts_real.rest import until
from tests.panel_page import ask, expect, open_tab

pytestmark = pytest.mark.needs("cards", "prompt", "a1111_page")

SETTINGS_READ = "typeof opts !== 'undefined' && 'resize_lora_card_menu' in opts"
"""The host's page gets its settings some time after the cards. In some hosts `opts` is no property of `window`."""
TOO_WIDE = """(() => {
    const root = document.querySelector('#resize_lora_root'), edge = root.getBoundingClientRect().right + 1;
    if (root.scrollWidth <= root.clientWidth) return [];
    const wide = [...root.querySelectorAll('*')].filter(one => one.getBoundingClientRect().right > edge);
    return wide.map(one => `${one.tagName} ${one.id} ${one.className}: ${one.textContent.slice(0, 40)}`);
})()"""
"""Elements beyond the right edge of the tab, if it is wider than its place."""


@pytest.mark.parametrize("tab", TABS)
def test_every_card_has_the_menu(webui: Any, tab: str) -> None:
    cards_page(webui, tab)
    refresh_cards(webui, tab)
    shown = webui.locator(f"#{tab}_lora_cards .card:visible")
    there = shown.evaluate_all(
        "cards => cards.map(one => one.dataset.name)"
    )  # in one look: the host may draw them anew
    assert set(there) <= set(names(webui))
    for name in there:
        menu = menu_on(webui, card(webui, name, tab).locator(".name"))
        expect(menu.locator(".resize-lora-menu-title")).to_have_text(name)
        expect(menu.get_by_role("menuitem")).to_have_count(7)
        expect(webui.locator("#context-menu")).to_have_count(0)
    webui.keyboard.press("Escape")
    expect(webui.locator(MENU)).to_have_count(0)


def test_each_part_of_a_card_opens_the_menu(webui: Any) -> None:
    cards_page(webui)
    pictured = webui.locator("#txt2img_lora_cards .card:visible:has(img.preview)").first
    for part in ("img.preview", ".name", ".actions", ".button-row"):
        if pictured.locator(part).count():
            spot = pictured.locator(part).first
            webui.keyboard.press("Escape")
            spot.dispatch_event("contextmenu", {"bubbles": True, "composed": True, "cancelable": True})
            expect(webui.locator(MENU)).to_be_visible()
    take(webui, "card-menu")
    webui.keyboard.press("Escape")


def test_a_shifted_right_click_and_other_pages_stay_the_hosts(webui: Any) -> None:
    cards_page(webui)
    webui.locator("#txt2img_lora_cards .card:visible .name").first.click(button="right", modifiers=["Shift"])
    expect(webui.locator(MENU)).to_have_count(0)
    webui.locator("#txt2img_generate").click(button="right")
    expect(webui.locator("#context-menu")).to_be_visible()
    expect(webui.locator(MENU)).to_have_count(0)
    webui.locator("#txt2img_prompt").click()


def test_the_menu_is_there_after_search_sort_and_refresh(webui: Any) -> None:
    cards_page(webui)
    name = resizable(webui)["name"]
    search = webui.locator("#txt2img_lora_extra_search, #txt2img_lora_controls input[type=search]").first
    search.fill(name)
    search.dispatch_event("input")
    expect(card(webui, name)).to_be_visible()
    menu_on(webui, card(webui, name).locator(".name"))
    webui.keyboard.press("Escape")
    search.fill("")
    search.dispatch_event("input")
    for control in ("#txt2img_lora_extra_sort_dir", "#txt2img_lora_extra_refresh"):
        webui.locator(control).first.dispatch_event("click")
        webui.wait_for_timeout(1500)
        webui.wait_for_selector("#txt2img_lora_cards .card", state="visible")
        menu_on(webui, card(webui, name).locator(".name"))
        webui.keyboard.press("Escape")


def test_the_button_of_a_card_opens_the_menu_and_leaves_the_prompt(webui: Any) -> None:
    cards_page(webui)
    before = prompt(webui, "a cake")
    name = resizable(webui)["name"]
    card(webui, name).hover()
    card(webui, name).locator(".resize-lora-button").click()
    expect(webui.locator(".resize-lora-menu-title")).to_have_text(name)
    assert prompt(webui) == before or prompt(webui) == "a cake"
    take(webui, "card-button")
    webui.keyboard.press("Escape")


def test_a_card_runs_at_once_and_the_new_one_is_in_both_tabs(webui: Any) -> None:
    cards_page(webui)
    name = resizable(webui)["name"]
    menu_on(webui, card(webui, name).locator(".name"))
    menu_item(webui, "medium").click()
    note = webui.locator(".resize-lora-toast").last
    expect(note).to_contain_text(name)
    expect(note).to_contain_text(" → ", timeout=long_wait())
    take(webui, "card-toast")
    made = ask(webui, "results")["results"][-1]["output"]
    expect(card(webui, made)).to_be_visible()
    cards_page(webui, "img2img")
    expect(card(webui, made, "img2img")).to_be_visible()


def test_resize_opens_the_tab_with_that_lora(webui: Any) -> None:
    cards_page(webui)
    name = awkward(webui)
    menu_on(webui, card(webui, name).locator(".name")).get_by_role("menuitem").first.click()
    expect(webui.locator("#resize_lora_subject")).to_have_text(name)
    expect(webui.locator("#resize_lora_generate")).to_be_visible()
    expect(webui.locator("#resize_lora_plot svg")).to_be_visible(timeout=long_wait())


def test_an_awkward_name_is_resized_and_listed_as_it_is(webui: Any) -> None:
    name = awkward(webui)
    made = resized(webui, name)["output"]
    assert made.startswith(re.sub(r'[",]', "_", name))  # characters that some disks or command lines forbid
    assert made in names(webui)


def test_sending_to_txt2img_replaces_the_tag_and_keeps_its_multipliers(webui: Any) -> None:
    name = resizable(webui)["name"]
    made = resized(webui, name)["output"]
    prompt(webui, f"a cake, <lora:{name}:0.8:0.5> on a plate")
    open_tab(webui, "resize_lora")
    result_button(result_of(webui, made), "send").click()
    expect(webui.locator("#txt2img_prompt textarea").first).to_have_value(f"a cake, <lora:{made}:0.8:0.5> on a plate")
    expect(webui.locator("#txt2img_prompt textarea").first).to_be_focused()
    at = webui.evaluate("document.querySelector('#txt2img_prompt textarea').selectionStart")
    assert prompt(webui)[:at].endswith(":0.8:0.5>")


@pytest.mark.needs("generate")
def test_send_and_generate_makes_an_image_with_the_new_file(webui: Any) -> None:
    small(webui)
    prompt(webui, "a cake")
    made = made_before(webui)
    open_tab(webui, "resize_lora")
    result_button(result_of(webui, made), "generate").click()
    expect(webui.locator("#html_info_txt2img, #html_info_x_txt2img").first).to_contain_text(made, timeout=long_wait())
    expect(webui.locator("#html_log_txt2img").first).not_to_contain_text("not found")


@pytest.mark.needs("generate")
def test_compare_shows_both_with_a_number_and_its_meaning(webui: Any) -> None:
    small(webui)
    prompt(webui, "a cake")
    made = made_before(webui)
    open_tab(webui, "resize_lora")
    result_button(result_of(webui, made), "compare").click()
    expect(webui.locator("dialog[open]")).to_contain_text(DIFFERENCE, timeout=long_wait())
    text = webui.locator("dialog[open]").inner_text()
    caption = re.search(r"(\d[\d.]*)\D+255\D+(\d+\.?\d*)", text)
    assert caption is not None
    number, effect = map(float, caption.groups())
    assert 0 < number < effect
    take(webui, "compare")
    webui.keyboard.press("Escape")
    expect(webui.locator("dialog[open]")).to_have_count(0)


@pytest.mark.needs("loaded_model")
def test_the_loaded_model_is_the_reference_also_with_a_lora_merged(webui: Any) -> None:
    """Earlier images left a LoRA merged or patched into the model. The recipe reads every weight, so no cache of norms
    can replace the memory, and the LoRA is a new file, which nobody has measured before."""
    sound = [one for one in files(webui) if not one["problem"] and not one["ours"] and one["fits"]]
    name = max(sound, key=lambda one: one["bytes"])["name"]
    new = resized(webui, name, target={"preset": "high"})["output"]
    made = resized(webui, new, recipe="subspace=1,retain=0.95")
    assert made["reference"]["kind"] == "memory", made["reference"]
    assert made["reference"]["note"] == ""


def resizes(page: Any) -> dict[str, Any]:
    """The jobs that resize, by id."""
    return {one["id"]: one for one in ask(page, "status")["queue"] if one["kind"] == "resize"}


@pytest.mark.needs("generate")
def test_a_resize_waits_for_an_image_and_shows_it(webui: Any) -> None:
    long_image(webui)
    open_tab(webui, "resize_lora")
    choose_anew(webui, resizable(webui)["name"])
    before = set(resizes(webui))
    webui.locator("#resize_lora_generate").click()
    expect(webui.locator("#resize_lora_generate")).to_contain_text(" · ")  # the reason is behind the dot
    (job,) = until(lambda: [one for id, one in resizes(webui).items() if id not in before], "the new job")
    take(webui, "waits")
    assert job["state"] in ("queued", "waits")
    expect(webui.locator(f'#resize_lora_queue [data-key="{job["id"]}"]')).to_be_visible()
    stop_image(webui)
    wait_for(webui, [job["id"]])
    expect(webui.locator("#resize_lora_queue")).to_be_hidden()


@pytest.mark.needs("generate")
def test_escape_in_another_tab_keeps_the_jobs_and_in_this_tab_the_image(webui: Any) -> None:
    open_tab(webui, "resize_lora")
    webui.locator("#resize_lora_search").fill("")
    webui.locator("#resize_lora_all").check()
    webui.locator("#resize_lora_high").check(force=True)
    webui.locator("#resize_lora_generate").click()
    expect(webui.locator("#resize_lora_interrupt")).to_be_enabled()
    open_tab(webui, "txt2img")
    webui.locator("#txt2img_prompt textarea").first.click()
    webui.keyboard.press("Escape")
    webui.wait_for_timeout(500)
    jobs = [one for one in ask(webui, "status")["queue"] if one["kind"] == "resize"]
    assert {one["state"] for one in jobs} & {"queued", "waits", "running"}
    long_image(webui)  # while a resize runs
    open_tab(webui, "resize_lora")
    webui.locator("#resize_lora_list").focus()
    webui.keyboard.press("Escape")
    expect(webui.locator("#resize_lora_interrupt")).to_be_disabled()
    jobs = [one for one in ask(webui, "status")["queue"] if one["kind"] == "resize"]  # estimates go on
    assert not [one for one in jobs if one["state"] in ("queued", "waits", "running")]
    assert ask(webui, "status")["busy"] is not None
    stop_image(webui)
    webui.locator("#resize_lora_none").click()


def test_undo_removes_the_card_and_restore_adds_it_again(webui: Any) -> None:
    made = resized_in_the_tab(webui, resizable(webui)["name"])
    cards_page(webui)
    expect(card(webui, made)).to_have_count(1)
    open_tab(webui, "resize_lora")
    result = result_of(webui, made)
    result_button(result, "undo").click()
    expect(result).to_have_attribute("data-state", "trashed")
    take(webui, "undone")
    expect(card(webui, made)).to_have_count(0)
    result_button(result, "restore").click()
    expect(result).to_have_attribute("data-state", "there")
    expect(card(webui, made)).to_have_count(1)
    assert made in names(webui)


def test_ctrl_enter_runs_in_the_tab(webui: Any) -> None:
    open_tab(webui, "resize_lora")
    choose_anew(webui, resizable(webui)["name"])
    before = made_names(webui)
    webui.locator("#resize_lora_list").focus()
    webui.keyboard.press("Control+Enter")
    assert len(until(lambda: made_names(webui) - before, "the result")) == 1


def test_trees_have_the_menu_too_and_a_reload_of_the_ui_keeps_all(webui: Any) -> None:
    """Reload UI runs the extension's script again and draws the cards as a tree; later jobs must work."""
    style = options(webui).get("extra_networks_tree_view_style")
    if style is None:
        pytest.skip("this host has no setting for cards as a tree")
    try:
        reload_ui(webui, extra_networks_tree_view_style="Tree")
        cards_page(webui)
        tree, leaf = (
            webui.locator("#txt2img_lora_tree"),
            webui.locator("#txt2img_lora_tree .tree-list-content-file").first,
        )
        if not tree.is_visible():
            webui.locator("#txt2img_lora_extra_tree_view").first.dispatch_event("click")
        expect(tree).to_be_visible()
        for branch in webui.locator("#txt2img_lora_tree .tree-list-content-dir").all():
            if branch.is_visible() and not leaf.is_visible():
                branch.click()
        leaf.scroll_into_view_if_needed()
        leaf.locator(".tree-list-item-label").click(button="right")
        title = webui.locator(".resize-lora-menu-title")
        expect(title).to_be_visible()
        assert title.inner_text() in names(webui)
        take(webui, "tree-menu")
        webui.keyboard.press("Escape")
        expect(card(webui, resizable(webui)["name"]).locator(".resize-lora-button")).to_have_count(1)
        assert resized(webui, resizable(webui)["name"])["state"] == "there"
    finally:
        reload_ui(webui, extra_networks_tree_view_style=style)


def test_menu_and_button_of_cards_can_be_switched_off(webui: Any) -> None:
    try:
        reload_ui(webui, resize_lora_card_menu=False, resize_lora_card_button=False)
        cards_page(webui)
        webui.wait_for_function(SETTINGS_READ)
        expect(webui.locator("#txt2img_lora_cards .resize-lora-button")).to_have_count(0)
        webui.locator("#txt2img_lora_cards .card:visible .name").first.click(button="right")
        webui.wait_for_timeout(1000)
        expect(webui.locator(MENU)).to_have_count(0)
        take(webui, "cards-switched-off")
    finally:
        reload_ui(webui, resize_lora_card_menu=True, resize_lora_card_button=True)
    cards_page(webui)
    menu_on(webui, card(webui, resizable(webui)["name"]).locator(".name"))
    webui.keyboard.press("Escape")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_tab_fits_its_page_in_light_and_dark(webui: Any, theme: str, width: int) -> None:
    webui.set_viewport_size({"width": width, "height": 844})
    webui.evaluate("dark => document.body.classList.toggle('dark', dark)", theme == "dark")
    open_tab(webui, "resize_lora")
    choose(webui, resizable(webui)["name"])
    expect(webui.locator("#resize_lora_plot svg")).to_be_visible(timeout=long_wait())
    webui.wait_for_timeout(600)
    take(webui, f"tab-{width}-{theme}")
    webui.locator("#resize_lora_target").scroll_into_view_if_needed()
    take(webui, f"tab-target-{width}-{theme}")
    assert webui.evaluate(TOO_WIDE) == []
    if width == 390:
        expect(webui.locator("#resize_lora_generate")).to_be_in_viewport()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_menu_of_a_card_fits_its_page_in_light_and_dark(webui: Any, theme: str, width: int) -> None:
    webui.set_viewport_size({"width": width, "height": 844})
    webui.evaluate("dark => document.body.classList.toggle('dark', dark)", theme == "dark")
    cards_page(webui)
    menu = menu_on(webui, card(webui, resizable(webui)["name"]).locator(".name"))
    webui.wait_for_timeout(600)
    take(webui, f"menu-{width}-{theme}")
    left, top, right, bottom = menu.evaluate(
        "menu => (box => [box.left, box.top, box.right, box.bottom])(menu.getBoundingClientRect())"
    )
    assert min(left, top) >= 0
    assert right <= width
    assert bottom <= 844
    webui.keyboard.press("Escape")
