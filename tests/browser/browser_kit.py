"""What the browser tests share. Imports without Playwright, so that the tests can be skipped with a reason."""

# ruff: noqa: E501 (lines of script)
from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from typing import Any

from tests.browser.stub_service import AWKWARD
from tests.panel_page import ask, expect, open_advanced, open_tab, press, row

__all__ = [
    "AWKWARD",
    "ask",
    "change",
    "drawn",
    "estimated",
    "expect",
    "heard",
    "open_advanced",
    "open_tab",
    "press",
    "row",
    "setup",
    "shown_in",
    "until_heard",
]


def estimated(page: Any) -> None:
    """Have all sizes estimated, as a server does by itself, and show them."""
    ask(page, "estimate")
    for _ in range(6):
        ask(page, "status")
    page.click("#resize_lora_refresh")
    expect(row(page, "hogs").locator(".resize-lora-col-after")).to_contain_text("≈")


def setup(page: Any, **settings: Any) -> None:
    """Sets the stub up, and loads the page anew. The old page is left first, so that the stub hears no more of it."""
    address = page.url
    page.goto("about:blank")
    change(address, **settings)
    page.goto(address, wait_until="commit")
    drawn(page)


def change(address: str, **settings: Any) -> None:
    """Set up the stub next to the page, as Gradio's own script would."""
    question = json.dumps({"id": 0, "method": "change", "params": settings})
    body = json.dumps({"data": [question], "fn_index": 0, "session_hash": "tests"}).encode()
    request = urllib.request.Request(address + "run/predict", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert "result" in json.loads(json.load(answer)["data"][0])


def drawn(page: Any) -> None:
    """Waits until the library has something to show, if only that it is empty."""
    page.wait_for_selector("#resize_lora_list", state="attached")
    page.wait_for_function("!/^(Reading|$)/.test(document.querySelector('#resize_lora_list').innerText.trim())")


def heard(page: Any) -> list[dict[str, Any]]:
    """What the page asked of the stub so far, polls left out."""
    asked: list[dict[str, Any]] = ask(page, "heard")
    return asked


def until_heard(page: Any, method: str, times: int) -> None:
    """Waits until the stub has heard a question so many times; it may be held there."""
    for _ in range(100):
        if [one["method"] for one in heard(page)].count(method) >= times:
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"the page did not ask {method} {times} times")


def shown_in(page: Any, selector: str) -> Callable[[], str]:
    """Records all that an element shows from now on, also what is there for a moment only."""
    page.evaluate(
        """selector => { const box = document.querySelector(selector); window.shownThere = [];
            new MutationObserver(() => window.shownThere.push(box.innerText)).observe(box, {childList: true, subtree: true, characterData: true}); }""",
        selector,
    )
    return lambda: "\n".join(page.evaluate("window.shownThere"))
