"""The tab: library, slider, recipe, analysis, and baking the LoRAs of the prompt into one file."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.hosts_real.kit import (
    DIFFERENCE,
    awkward,
    card,
    cards_page,
    choose,
    files,
    long_wait,
    menu_item,
    menu_on,
    names,
    prompt,
    resizable,
    resized,
    resized_in_the_tab,
    result_button,
    small,
    take,
)
from tests.panel_page import ask, expect, open_advanced, open_tab, row

TITLES = ".resize-lora-row:visible .resize-lora-title"
NAMES = "titles => titles.map(title => title.closest('.resize-lora-row').dataset.name)"


@pytest.fixture
def tab(webui: Any) -> Any:
    """The page with the tab open."""
    open_tab(webui, "resize_lora")
    return webui


def analysed(page: Any, name: str) -> None:
    choose(page, name)
    expect(page.locator("#resize_lora_figureSize")).to_contain_text("→", timeout=long_wait())
    expect(page.locator("#resize_lora_plot svg")).to_be_visible(timeout=long_wait())


def test_a_column_sorts_both_ways(tab: Any) -> None:
    head = tab.locator('[data-column="bytes"]')
    sizes = {one["name"]: one["bytes"] for one in files(tab)}
    orders = []
    for _ in range(2):
        head.click()
        tab.wait_for_timeout(300)
        orders.append([sizes[name] for name in tab.locator(TITLES).evaluate_all(NAMES)])
    assert len(orders[0]) > 3
    assert sorted(orders[0]) in (orders[0], orders[0][::-1])
    assert orders[0][0] != orders[1][0]


def test_search_and_families_filter(tab: Any) -> None:
    listed = names(tab)
    name = min(listed, key=lambda name: sum(name.lower() in one.lower() for one in listed))
    every = tab.locator(TITLES).count()
    tab.locator("#resize_lora_search").fill(name)
    expect(row(tab, name)).to_be_visible()
    expect(tab.locator(TITLES)).not_to_have_count(every)  # the list is drawn a moment after the key press
    assert tab.locator(TITLES).count() < every
    tab.locator("#resize_lora_search").fill("no LoRA is called so")
    expect(tab.locator(TITLES)).to_have_count(0)
    tab.locator("#resize_lora_search").fill("")
    tab.locator("#resize_lora_fits").check()
    fitting = {one["name"] for one in files(tab) if one["fits"]}
    tab.wait_for_timeout(300)
    assert set(tab.locator(TITLES).evaluate_all(NAMES)) <= fitting
    tab.locator("#resize_lora_fits").uncheck()


def test_the_slider_shows_the_size_that_is_written(tab: Any) -> None:
    """The size under the slider, the predicted size, and the size of the file agree."""
    name = resizable(tab)["name"]
    analysed(tab, name)
    tab.check("#resize_lora_high", force=True)
    tab.select_option("#resize_lora_meaning", "size")
    before = tab.locator("#resize_lora_figureSize").inner_text()
    tab.locator("#resize_lora_slider").focus()
    for _ in range(30):
        tab.keyboard.press("ArrowRight")
    expect(tab.locator("#resize_lora_figureSize")).not_to_have_text(before)
    take(tab, "slider")
    recipe = tab.locator("#resize_lora_recipe").input_value()
    assert re.search(r"size=[\d.]+$", recipe)
    plan = ask(tab, "plan", {"name": name, "recipe": recipe})
    made = resized(tab, name, recipe=recipe)
    assert made["bytes_after"] == plan["bytes_after"]
    assert made["bytes_after"] <= float(recipe.rsplit("=", 1)[1]) * 2**20


def test_a_faulty_recipe_is_reported_while_typing(tab: Any) -> None:
    analysed(tab, resizable(tab)["name"])
    open_advanced(tab)
    tab.fill("#resize_lora_recipe", "fro_lora=1,tnr=-3")
    expect(tab.locator("#resize_lora_fault")).to_contain_text("'tnr'")
    expect(tab.locator("#resize_lora_generate")).to_be_disabled()
    take(tab, "recipe-fault")
    tab.fill("#resize_lora_recipe", "fro_ckpt=1,thr=-3.5")
    expect(tab.locator("#resize_lora_fault")).to_be_empty()
    expect(tab.locator("#resize_lora_generate")).to_be_enabled()


def test_a_broken_file_shows_the_reason(tab: Any) -> None:
    broken = next((one for one in files(tab) if one["problem"]), None)
    if broken is None:
        pytest.skip("this WebUI has no broken LoRA")
    tab.locator("#resize_lora_search").fill(broken["name"])
    row(tab, broken["name"]).click()
    expect(tab.locator("#resize_lora_generate")).to_be_disabled()
    expect(tab.locator("#resize_lora_root")).to_contain_text(broken["problem"][:30])
    take(tab, "broken")


def test_the_analysis_draws_its_four_plots(tab: Any) -> None:
    analysed(tab, resizable(tab)["name"])
    tab.locator("#resize_lora_look").click()
    expect(tab.locator("#resize_lora_study figure")).to_have_count(4, timeout=long_wait())
    tab.locator("#resize_lora_study").scroll_into_view_if_needed()
    take(tab, "look-inside")


@pytest.mark.needs("cards", "generate", "a1111_page")
def test_a_card_compares_a_result_with_its_original(webui: Any) -> None:
    small(webui)
    prompt(webui, "a cake")
    name = resizable(webui)["name"]
    made = resized_in_the_tab(webui, name)
    cards_page(webui)
    menu_on(webui, card(webui, name).locator(".name"))
    compare = menu_item(webui, "compare")
    expect(compare).to_be_disabled()
    expect(card(webui, made)).to_be_visible(timeout=long_wait())
    menu_on(webui, card(webui, made).locator(".name"))
    expect(compare).to_be_enabled()
    compare.click()
    expect(webui.locator("dialog[open]")).to_contain_text(DIFFERENCE, timeout=long_wait())
    take(webui, "compare-card")
    webui.keyboard.press("Escape")
    expect(webui.locator("dialog[open]")).to_have_count(0)


@pytest.mark.needs("cards", "prompt", "a1111_page")
def test_the_prompts_loras_are_baked_into_one_that_replaces_them(webui: Any) -> None:
    one, other = resizable(webui)["name"], awkward(webui)
    prompt(webui, f"a cake, <lora:{one}:0.5:0.75>, <lora:{other}:-0.25> fog")
    open_tab(webui, "resize_lora")
    webui.locator("#resize_lora_bake").click()
    expect(webui.locator("#resize_lora_bake_tags li")).to_have_count(2)
    webui.locator("#resize_lora_bake_name").fill("baked in a test")
    take(webui, "bake")
    webui.locator("#resize_lora_bake_run").click()
    result = webui.locator('.resize-lora-result[data-state="there"]').filter(has_text="baked in a test").first
    made = str(result.get_attribute("data-key", timeout=long_wait()))
    result_button(result, "replace").click()
    expect(webui.locator("#txt2img_prompt textarea").first).to_have_value(f"a cake, <lora:{made}:1>, fog")
    cards_page(webui)
    take(webui, "baked")
    expect(card(webui, made)).to_be_visible()
