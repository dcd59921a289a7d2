"""The page of SD.Next, played: ModernUI's tabs in a page of their own, prompts of *control* and *video*, its cards."""

# ruff: noqa: E501 (lines of script)
from __future__ import annotations

from typing import Any

import pytest

from tests.browser.browser_kit import ask, expect, press, setup

PAGE = """names => {
    const make = (html, parent) => { parent.insertAdjacentHTML('beforeend', html); return parent.lastElementChild; };
    const page = make('<div id="sdnext_app"></div>', document.body);
    document.body.prepend(page);
    for (const tab of ['txt2img', 'control', 'video', 'resize_lora']) {
        const own = tab === 'resize_lora' ? `tab_${tab}_tabitem` : `${tab}_tabitem`;
        const nav = make(`<button tabitemid="#split-app, #${own}">${tab}</button>`, page);
        nav.onclick = () => { window.opened = tab; };
        nav.hidden = tab === 'txt2img';  // its option to hide what is old
        if (tab === 'resize_lora') continue;
        const fields = ['width', 'height'].map(side => `<div id="${tab === 'control' ? 'control_before_resize' : tab}_${side}"><input type="number" value="640"></div>`);
        make(`<div id="${own}"><div id="${tab}_prompt"><textarea></textarea></div>
            <div id="${tab}_steps"><input type="number" value="9"></div><div id="${tab}_cfg_scale"><input type="number" value="-1"></div>
            <div id="${tab}_seed"><input value="-1"></div>${fields.join('')}<button id="${tab}_generate">Go</button>
            <button id="${tab}_extra_refresh"></button><div id="${tab}_lora_cards" class="extra-network-cards"></div></div>`, page);
        document.querySelector(`#${tab}_extra_refresh`).onclick = () => { window.refreshed = [...(window.refreshed || []), tab]; };
        document.querySelector(`#${tab}_lora_cards`).hidden = tab !== 'control';
        for (const name of names) {
            const card = make(`<div class="card"><div class="overlay"><div class="name"></div></div></div>`, document.querySelector(`#${tab}_lora_cards`));
            Object.assign(card.dataset, {page: 'lora', name: `styles/${name}`, short: name, filename: `/abs/styles/${name}.safetensors`});
            card.querySelector('.name').textContent = name.replaceAll('_', ' ');
        }
    }
}"""


@pytest.fixture
def host(page: Any) -> Any:
    page.evaluate(PAGE, ["pastry-sdxl", "pastry-sdxl_46mb", "ink.v2"])
    return page


def card(page: Any, place: int = 0) -> Any:
    return page.locator("#control_lora_cards .card").nth(place)


def test_a_card_is_known_by_its_file_because_its_name_has_a_folder(host: Any) -> None:
    card(host).locator(".name").click(button="right")
    expect(host.locator(".resize-lora-menu-title")).to_have_text("pastry-sdxl")
    host.get_by_role("menuitem", name="Resize…").click()
    assert host.evaluate("window.opened") == "resize_lora"
    expect(host.locator("#resize_lora_subject")).to_have_text("pastry-sdxl")


@pytest.mark.parametrize("phone", [True, False])
def test_on_a_phone_the_cards_leave_the_tab_that_is_opened_uncovered(host: Any, phone: bool) -> None:
    host.evaluate(
        """phone => { const page = document.querySelector('#sdnext_app');
        page.className = phone ? 'media-mobile' : 'media-desktop';
        page.insertAdjacentHTML('beforeend', '<div id="accordion-aside" class="expand"><button id="acc-arrow-button"></button></div>');
        document.querySelector('#acc-arrow-button').onclick = event => event.target.parentElement.classList.toggle('expand'); }""",
        phone,
    )
    for _ in range(2):  # the second time it is folded already
        card(host).locator(".name").click(button="right")
        host.get_by_role("menuitem", name="Resize…").click()
        expect(host.locator("#accordion-aside.expand")).to_have_count(0 if phone else 1)


def test_dots_in_a_name_are_no_suffix(host: Any) -> None:
    card(host, 2).locator(".name").click(button="right")
    expect(host.locator(".resize-lora-menu-title")).to_have_text("ink.v2")


def test_of_files_with_one_name_a_card_is_that_of_its_folder(host: Any) -> None:
    """The library then has the names with folders."""
    assert (
        host.evaluate(
            """() => { const {state} = resizeLora.model, card = document.querySelector('#control_lora_cards .card');
            state.files.set('styles/pastry-sdxl', state.files.get('pastry-sdxl')); state.files.delete('pastry-sdxl');
            return resizeLora.cards.cardName(card); }"""
        )
        == "styles/pastry-sdxl"
    )


def test_cards_show_what_a_smaller_version_saves(host: Any) -> None:
    expect(host.locator("#control_lora_cards .resize-lora-card-badge")).to_have_count(2)


def test_only_the_cards_that_are_shown_are_drawn_anew(host: Any) -> None:
    """One button draws the page that is shown, which can be that of checkpoints."""
    card(host).locator(".name").click(button="right")
    host.get_by_role("menuitem", name="Resize to Low").click()
    host.wait_for_function("(window.refreshed || []).length >= 1")
    assert host.evaluate("window.refreshed") == ["control"]


def test_cards_that_are_hidden_are_drawn_anew_when_they_are_shown(host: Any) -> None:
    hide = "hidden => { document.querySelector('#control_lora_cards').hidden = hidden; }"
    card(host).locator(".name").click(button="right")
    host.evaluate(hide, True)
    host.get_by_role("menuitem", name="Resize to Low").click()
    expect(host.locator("#resize_lora_toasts")).to_contain_text("pastry-sdxl 218 →")
    host.wait_for_timeout(1000)
    assert not host.evaluate("window.refreshed")
    host.evaluate(hide, False)
    host.wait_for_function("(window.refreshed || []).length >= 1")
    assert host.evaluate("window.refreshed") == ["control"]


def test_a_result_that_comes_with_a_list_before_its_job_ends_is_drawn_too(host: Any) -> None:
    assert not host.evaluate("window.refreshed")
    host.evaluate(
        """() => { const {state} = resizeLora.model;
        const made = {result: 'new', name: 'pastry-sdxl', output: 'pastry-sdxl_9mb', state: 'there', bytes_before: 9e6, bytes_after: 3e6, saved: 0.6, retention: 0.9, recipe: 'rank=1', notes: [], ranks: [1]};
        resizeLora.results.setResults({results: [...state.results, made], trash: state.trash}); }"""
    )
    host.wait_for_function("(window.refreshed || []).length >= 1")
    assert host.evaluate("window.refreshed") == ["control"]


def made(page: Any) -> Any:
    ask(page, "resize", {"names": ["pastry-sdxl"], "target": {"preset": "medium"}})
    for _ in range(5):
        ask(page, "status")
    page.locator('.resize-lora-row[data-name="hogs"]').click()
    page.click("#resize_lora_generate")
    return page.locator('.resize-lora-result[data-key="pastry-sdxl_47mb"]')


def test_a_tag_is_sent_to_the_prompt_that_the_host_shows(host: Any) -> None:
    host.evaluate("document.querySelector('#control_prompt textarea').value = 'a cake, <lora:pastry-sdxl:te=0.5:in=0>'")
    result = made(host)
    expect(result.locator('[data-action="send"]')).to_have_text("Send to control")
    press(host, result, "send")
    expect(host.locator("#control_prompt textarea")).to_have_value("a cake, <lora:pastry-sdxl_47mb:te=0.5:in=0>")
    assert host.evaluate("window.opened") == "control"
    assert host.evaluate("document.querySelector('#txt2img_prompt textarea').value") == ""


def test_images_have_the_size_of_control_and_none_of_the_numbers_that_the_host_replaces(host: Any) -> None:
    settings = host.evaluate("resizeLora.compare.imageSettings(resizeLora.prompt.mainTab())")
    assert settings == {"prompt": "", "seed": -1, "steps": 9, "width": 640, "height": 640}


@pytest.mark.parametrize("tab", ["control", "video"])
def test_the_prompts_of_control_and_video_can_be_baked(host: Any, tab: str) -> None:
    tag = "<lora:pastry-sdxl:0.5:in=0>"
    host.evaluate("([tab, tag]) => { document.querySelector(`#${tab}_prompt textarea`).value = tag; }", [tab, tag])
    host.click("#resize_lora_bake")
    expect(host.locator("#resize_lora_bake_prompt")).to_have_value(tag)
    expect(host.locator("#resize_lora_bake_tab")).to_have_value(tab)
    assert host.locator("#resize_lora_bake_tab option").all_inner_texts() == ["txt2img", "control", "video"]


def test_a_file_alone_can_be_baked_without_its_text_encoders(host: Any) -> None:
    host.evaluate("resizeLora.bake.openBake({prompt: '<lora:hogs:te=0:unet=1>', target: 'all'})")
    expect(host.locator("#resize_lora_bake_prompt")).to_have_value("<lora:hogs:te=0:unet=1>")
    expect(host.locator("#resize_lora_bake_target")).to_have_value("all")
    expect(host.locator("#resize_lora_bake_tab")).to_have_count(0)
    expect(host.locator("#resize_lora_bake_tags li")).to_have_count(1)


def test_layers_that_the_host_ignores_are_named_with_a_button_that_leaves_them_out(host: Any) -> None:
    setup(host, ignored=True)
    host.locator('.resize-lora-row[data-name="hogs"]').click()
    line = host.locator("#resize_lora_warnings li").filter(has_text="264 of 986 layers change text encoders")
    line.get_by_role("button", name="Leave them out…").click()
    expect(host.locator("#resize_lora_bake_prompt")).to_have_value("<lora:hogs:te=0:unet=1>")


def test_the_boxes_are_one_under_the_other_where_the_host_leaves_half_of_its_page(host: Any) -> None:
    root = host.locator("#resize_lora_root")
    top = "(root, name) => root.querySelector(`.resize-lora-${name}`).getBoundingClientRect().top"
    host.set_viewport_size({"width": 1280, "height": 900})
    assert abs(root.evaluate(top, "library") - root.evaluate(top, "target")) < 20
    root.evaluate("root => { root.parentElement.style.width = '680px'; }")
    expect(root).to_have_class("resize-lora resize-lora-slim")
    assert root.evaluate(top, "target") > root.evaluate(top, "library") + 100
