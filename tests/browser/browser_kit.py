"""What the browser tests share. Imports without Playwright, so that the tests can be skipped with a reason."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from stub_service import AWKWARD

from tests.panel_page import ask, expect, open_tab, row

__all__ = ["AWKWARD", "ask", "change", "drawn", "expect", "heard", "open_tab", "row", "setup"]


def setup(page: Any, **settings: Any) -> None:
    """Sets the stub up, and loads the page anew."""
    change(page.url, **settings)
    page.reload(wait_until="commit")
    drawn(page)


def change(address: str, **settings: Any) -> None:
    """Sets the stub up, beside the page, as Gradio's own script would."""
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
    return ask(page, "heard")
