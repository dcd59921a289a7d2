"""Tools of the tests inside a real WebUI: its pages, cards, prompts and images, used as a user would."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

import pytest

from tests.hosts_real.limits import limits
from tests.hosts_real.rest import ENDED, until
from tests.panel_page import ask, expect, open_advanced, open_tab, row

TABS = ["txt2img", "img2img"]
MENU = "#resize_lora_menu"
AWKWARD = r"[&'\"\[]"


@dataclass
class Screenshots:
    """`folder` is set by --shots; without it none are made."""

    folder: str | None = None


screenshots = Screenshots()


def take(page: Any, name: str) -> None:
    if screenshots.folder:
        page.screenshot(path=f"{screenshots.folder}/{name}.png", animations="disabled", timeout=60_000)


def long_wait() -> float:
    """Milliseconds for an image or a resize."""
    return 1000 * limits.long


def inner_page(page: Any, tab: str, id: str) -> None:
    """Open one of the pages below a prompt; "" is the one with the settings."""
    open_tab(page, tab)
    page.evaluate(
        """([tab, id]) => { const tabs = document.querySelector(`#${tab}_extra_tabs`),
            nav = [...tabs.children].find(one => one.classList.contains('tab-nav')),
            all = [...tabs.children].filter(one => one.classList.contains('tabitem'));
            nav.querySelectorAll('button')[Math.max(0, all.findIndex(one => one.id === `${tab}_${id}`))].click(); }""",
        [tab, id],
    )


def cards_page(page: Any, tab: str = "txt2img") -> None:
    """Open the LoRA cards of a tab; they are filled some time after the page was drawn."""
    inner_page(page, tab, "lora")
    page.wait_for_selector(f"#{tab}_lora_cards .card", state="visible")


def refresh_cards(page: Any, tab: str = "txt2img") -> None:
    """Press the host's Refresh: before that, a host may show cards of files that were undone through the API.

    A host drops a refresh while another one is running, so it is pressed again.
    """
    listed = set(names(page))

    def refreshed() -> bool:
        page.locator(f"#{tab}_lora_extra_refresh").first.dispatch_event("click")
        page.wait_for_timeout(5000)
        return card_names(page, tab) <= listed

    until(refreshed, "cards of LoRAs that are there")


def card_names(page: Any, tab: str = "txt2img") -> set[str]:
    cards = page.locator(f"#{tab}_lora_cards .card")
    return set(cards.evaluate_all("cards => cards.map(card => card.dataset.name)"))


def card(page: Any, name: str, tab: str = "txt2img") -> Any:
    return page.locator(f"#{tab}_lora_cards .card[data-name={json.dumps(name, ensure_ascii=False)}]")


def names(page: Any) -> list[str]:
    """All LoRAs of the library, by the names that the page has."""
    return [one["name"] for one in files(page)]


def files(page: Any) -> list[dict[str, Any]]:
    def complete() -> Any:
        answer = ask(page, "library")
        return answer if answer["complete"] else None

    return list(until(complete, "the whole library")["files"])


def resizable(page: Any) -> dict[str, Any]:
    """A LoRA that can be resized and is not a result: the smallest with a plain name."""
    sound = [one for one in files(page) if not one["problem"] and not one["ours"] and one["fits"] is not False]
    plain = [one for one in sound if one["name"].replace("_", "").replace("-", "").isalnum() and one["name"].isascii()]
    return dict(min(plain or sound, key=lambda one: one["bytes"]))


def awkward(page: Any) -> str:
    """A LoRA whose name has a quote, a bracket or an ampersand; skips where there is none."""
    name = next((one["name"] for one in files(page) if re.search(AWKWARD, one["name"]) and not one["ours"]), None)
    if name is None:
        pytest.skip("no LoRA of this WebUI has one of & ' \" [ in its name")
    return str(name)


def wait_for(page: Any, jobs: list[str]) -> None:
    """Wait until jobs are done. A failed one fails the test."""

    def all_ended() -> Any:
        known = {one["id"]: one for one in ask(page, "status")["queue"]}
        mine = [known[job] for job in jobs]
        return mine if all(one["state"] in ENDED for one in mine) else None

    ended = until(all_ended, f"the end of {jobs}")
    assert {one["id"]: one["error"] for one in ended if one["state"] != "done"} == {}


def small(page: Any, tab: str = "txt2img", steps: int = 2) -> None:
    """Set an image so small that a CPU generates it quickly."""
    inner_page(page, tab, "")
    for what, value in (("width", 64), ("height", 64), ("steps", steps), ("seed", 7)):
        box = page.locator(f"#{tab}_{what} input[type=number]").first
        if not box.count():
            box = page.locator(f"#{tab}_{what} input").first
        box.fill(str(value))
        box.press("Tab")


def prompt(page: Any, text: str | None = None, tab: str = "txt2img") -> str:
    area = page.locator(f"#{tab}_prompt textarea").first
    if text is not None:
        open_tab(page, tab)
        area.fill(text)
    return str(area.input_value())


def resized(page: Any, name: str, **what: Any) -> dict[str, Any]:
    """Resize a LoRA through the tab's protocol, to Low by default; return the result. The page shows it.

    It is resized again where the same result exists already.
    """
    order = {"names": [name], "again": True, **(what or {"target": {"preset": "low"}})}
    (job,) = ask(page, "resize", order)["jobs"]
    wait_for(page, [job])
    return dict(next(one for one in ask(page, "status")["queue"] if one["id"] == job)["result"])


def choose(page: Any, name: str) -> None:
    """Choose a LoRA with the library's search: of a long list, the page has only some rows."""
    page.locator("#resize_lora_search").fill(name)
    row(page, name).click()
    expect(page.locator("#resize_lora_subject")).to_have_text(name)


def choose_anew(page: Any, name: str) -> None:
    """Choose a LoRA and a new recipe: where a result exists already, no job is made."""
    choose(page, name)
    open_advanced(page)
    page.locator("#resize_lora_recipe").fill(f"fro_lora=1,thr=-1.{random.randrange(10**6):06d}")
    expect(page.locator("#resize_lora_generate")).to_be_enabled()


def made_before(page: Any) -> str:
    """The name of an existing result; one is made where there is none."""
    there = [one for one in ask(page, "results")["results"] if one["state"] == "there"]
    return str((there[-1] if there else resized(page, resizable(page)["name"]))["output"])


def menu_on(page: Any, spot: Any) -> Any:
    page.keyboard.press("Escape")
    spot.scroll_into_view_if_needed()
    spot.click(button="right")
    expect(page.locator(MENU)).to_be_visible()
    return page.locator(MENU)


def until_busy(page: Any, busy: bool) -> None:
    until(lambda: (ask(page, "status")["busy"] is not None) == busy, "an image" if busy else "the end of the image")


def long_image(page: Any) -> None:
    """Start an image that takes until it is stopped."""
    small(page, steps=150)
    prompt(page, "a cake")
    page.locator("#txt2img_generate").click()
    until_busy(page, True)


def stop_image(page: Any) -> None:
    page.evaluate("document.querySelector('#txt2img_interrupt').click()")
    until_busy(page, False)


def resized_in_the_tab(page: Any, name: str) -> str:
    """Choose a LoRA and press the button; return the new name, once it is in the table of results."""
    open_tab(page, "resize_lora")
    choose_anew(page, name)
    before = made_names(page)
    page.locator("#resize_lora_generate").click()
    (made, *_) = until(lambda: made_names(page) - before, "the result").copy()
    expect(result_of(page, made)).to_have_count(1)
    return str(made)


def made_names(page: Any) -> set[str]:
    """Names of the existing results."""
    return {one["output"] for one in ask(page, "results")["results"] if one["state"] == "there"}


def result_of(page: Any, made: str) -> Any:
    """A result's row in the table of the tab. Its whole name counts: that of another result can begin with it."""
    return page.locator(f".resize-lora-result[data-key={json.dumps(made, ensure_ascii=False)}]")


def result_button(result: Any, action: str) -> Any:
    """A button of a result's row, or the item of its menu, which is opened; by its key, for texts are translated."""
    button = result.locator(f'[data-action="{action}"]')
    result.locator("[data-action]").first.wait_for()
    if button.count():
        return button
    result.page.keyboard.press("Escape")
    result.locator('[data-action="menu"]').click()
    return menu_item(result.page, action)


def menu_item(page: Any, key: str) -> Any:
    """An item of the open menu of a card: a preset or "compare"."""
    return page.locator(f'{MENU} [role="menuitem"][data-key="{key}"]')


DIFFERENCE = re.compile(r"\d[\d.]*\D+255\b")
"""The mean difference of two images in a text of any language: a number "of 255"."""


def options(page: Any) -> dict[str, Any]:
    """The settings of the host."""
    return dict(page.request.get(_route(page, "sdapi/v1/options"), timeout=long_wait()).json())


def reload_ui(page: Any, **settings: Any) -> None:
    """Change settings, then reload the UI."""
    page.request.post(_route(page, "sdapi/v1/options"), data=settings, timeout=long_wait())
    with page.expect_navigation(wait_until="commit", timeout=long_wait()):
        page.evaluate("document.querySelector('#settings_restart_gradio').click()")
    page.wait_for_selector("#resize_lora_root", state="attached", timeout=long_wait())
    open_tab(page, "resize_lora")
    page.wait_for_selector(".resize-lora-row", state="visible", timeout=long_wait())


def _route(page: Any, route: str) -> str:
    address: str = urljoin(page.url, f"/{route}")
    return address
