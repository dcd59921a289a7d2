"""What the tests inside a real WebUI share: its pages, cards, prompts and pictures, asked for as a person would."""

from __future__ import annotations

import json
import os
import re
import time
from typing import Any

from browser_kit import URL, ask, expect, open_tab, resizable, row

TABS = ["txt2img", "img2img"]
MENU = "#resize_lora_menu"
LONG = 180_000  # milliseconds that a picture or a resize may take on a shared CPU
NOISE = re.compile(
    r"ERR_FAILED|REFUSED|favicon|fonts?\.g|manifest\.json|404|reading 'props'|errored out|not in the DOM"
    r"|^TypeError: Failed to fetch(?!.*resize_lora)|'getElementsByTagName'.*applyFilter(?!.*resize_lora)",
    re.DOTALL,
)
"""What a page without a network says; A1111, whenever a picture's width or height is typed; Gradio at Reload UI."""


def take(page: Any, name: str) -> None:
    folder = os.environ.get("RESIZE_LORA_SHOTS")
    if folder:
        page.screenshot(path=f"{folder}/{name}.png", animations="disabled", timeout=60_000)


def inner_page(page: Any, tab: str, id: str) -> None:
    """Opens one of the pages below a prompt; "" is the one with the settings."""
    open_tab(page, tab)
    page.evaluate(
        """([tab, id]) => { const tabs = document.querySelector(`#${tab}_extra_tabs`),
            nav = [...tabs.children].find(one => one.classList.contains('tab-nav')),
            all = [...tabs.children].filter(one => one.classList.contains('tabitem'));
            nav.querySelectorAll('button')[Math.max(0, all.findIndex(one => one.id === `${tab}_${id}`))].click(); }""",
        [tab, id],
    )


def cards_page(page: Any, tab: str = "txt2img") -> None:
    """Opens the LoRA cards of a tab; they are filled some time after the page was drawn."""
    inner_page(page, tab, "lora")
    page.wait_for_selector(f"#{tab}_lora_cards .card", state="visible")


def card(page: Any, name: str, tab: str = "txt2img") -> Any:
    return page.locator(f"#{tab}_lora_cards .card[data-name={json.dumps(name, ensure_ascii=False)}]")


def names(page: Any) -> list[str]:
    while not (answer := ask(page, "library"))["complete"]:
        page.wait_for_timeout(200)
    return [one["name"] for one in answer["files"]]


def wait_for(page: Any, jobs: list[str], state: str = "done") -> None:
    deadline = time.monotonic() + LONG / 1000
    while time.monotonic() < deadline:
        known = {one["id"]: one for one in ask(page, "status")["queue"]}
        if all(known[job]["state"] in (state, "failed") for job in jobs):
            assert {job: known[job]["error"] for job in jobs if known[job]["state"] == "failed"} == {}
            return
        page.wait_for_timeout(200)
    raise TimeoutError(jobs)


def small(page: Any, tab: str = "txt2img", steps: int = 2) -> None:
    """Settings of a picture that a CPU makes in a moment."""
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
    """A version of a LoRA, made through the panel's protocol, to Low if nothing else is said; the page knows of it."""
    (job,) = ask(page, "resize", {"names": [name], **(what or {"target": {"preset": "low"}})})["jobs"]
    wait_for(page, [job])
    return dict(next(one for one in ask(page, "status")["queue"] if one["id"] == job)["result"])


def choose(page: Any, name: str) -> None:
    """By the library's search, for a long list has only some of its rows in the page."""
    page.locator("#resize_lora_search").fill(name)
    row(page, name).click()
    expect(page.locator("#resize_lora_subject")).to_have_text(name)


def made_before(page: Any) -> str:
    """A result that is there, made anew where there is none."""
    there = [one for one in ask(page, "results")["results"] if one["state"] == "there"]
    return str((there[-1] if there else resized(page, resizable(page)["name"]))["output"])


def menu_on(page: Any, spot: Any) -> Any:
    page.keyboard.press("Escape")
    spot.scroll_into_view_if_needed()
    spot.click(button="right")
    expect(page.locator(MENU)).to_be_visible()
    return page.locator(MENU)


def until_busy(page: Any, busy: bool) -> None:
    deadline = time.monotonic() + LONG / 1000
    while (ask(page, "status")["busy"] is not None) != busy:
        assert time.monotonic() < deadline
        page.wait_for_timeout(300)


def long_picture(page: Any) -> None:
    """A picture that is not done before it is stopped."""
    small(page, steps=150)
    prompt(page, "a cake")
    page.locator("#txt2img_generate").click()
    until_busy(page, True)


def stop_picture(page: Any) -> None:
    page.evaluate("document.querySelector('#txt2img_interrupt').click()")
    until_busy(page, False)


def resized_in_the_tab(page: Any, name: str) -> str:
    """Chooses a LoRA and presses the button; the new name, once it stands in the table of results."""
    open_tab(page, "resize_lora")
    choose(page, name)
    before = {one["result"] for one in ask(page, "results")["results"]}
    page.locator("#resize_lora_generate").click()
    deadline = time.monotonic() + LONG / 1000
    while time.monotonic() < deadline:
        for made in ask(page, "results")["results"]:
            if made["result"] not in before:
                expect(page.locator(".resize-lora-result").filter(has_text=made["output"])).to_have_count(1)
                return str(made["output"])
        page.wait_for_timeout(200)
    raise TimeoutError(name)


def reload_ui(page: Any, **options: Any) -> None:
    """Reload UI with other settings."""
    page.request.post(f"{str(URL).rstrip('/')}/sdapi/v1/options", data=options, timeout=LONG)
    with page.expect_navigation(wait_until="commit", timeout=LONG):
        page.evaluate("document.querySelector('#settings_restart_gradio').click()")
    page.wait_for_selector("#resize_lora_root", state="attached", timeout=LONG)
    open_tab(page, "resize_lora")
    page.wait_for_selector(".resize-lora-row", state="visible", timeout=LONG)
