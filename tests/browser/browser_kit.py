"""What the browser tests share. Imports without Playwright, so that the tests can be skipped with a reason."""

from __future__ import annotations

import json
import os
import urllib.request
from typing import Any
from urllib.parse import urljoin

import pytest
from stub_service import AWKWARD

try:
    from playwright.sync_api import expect
except ImportError:
    expect = None

__all__ = ["AWKWARD", "URL", "ask", "change", "drawn", "expect", "heard", "open_tab", "resizable", "row", "setup"]

URL = os.environ.get("RESIZE_LORA_URL")


def setup(page: Any, **settings: Any) -> None:
    """Sets the stub up, and loads the page anew."""
    if URL:
        pytest.skip("needs the stub behind the panel")
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


FIND_EVENT = """() => { const config = window.gradio_config, all = config.dependencies;
    const reply = config.components.find(one => (one.props || {}).elem_id === 'resize_lora_reply').id;
    const at = all.findIndex(one => one.outputs.includes(reply));
    return all[at].id ?? at; }"""


def ask(page: Any, method: str, params: dict[str, Any] | None = None) -> Any:
    """Asks the service as another page would: through Gradio's event, with this page's login."""
    page.wait_for_function("window.gradio_config && window.gradio_config.components")
    question = json.dumps({"id": 0, "method": method, "params": params or {}})
    body = {"data": [question], "fn_index": page.evaluate(FIND_EVENT), "session_hash": "tests"}
    got = page.request.post(urljoin(page.url, "run/predict"), data=body, timeout=60_000)
    answer = json.loads(got.json()["data"][0])
    assert "error" not in answer, answer["error"]
    return answer["result"]


def heard(page: Any) -> list[dict[str, Any]]:
    """What the page asked of the stub so far, polls left out."""
    return ask(page, "heard")


def row(page: Any, name: str) -> Any:
    """A LoRA's row in the library."""
    quoted = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return page.locator(f".resize-lora-row:visible:has(.resize-lora-title:text-is({quoted}))")


def open_tab(page: Any, id: str) -> None:
    """Opens a tab of the host by the place of its panel, for titles are translated; nothing where there are no tabs."""
    page.evaluate(
        """id => { const tabs = document.querySelector('#tabs'), kids = tabs ? [...tabs.children] : [];
            const at = kids.filter(one => one.classList.contains('tabitem')).findIndex(one => one.id === `tab_${id}`);
            const nav = kids.find(one => one.classList.contains('tab-nav'));
            if (at >= 0) nav.querySelectorAll('button')[at].click(); }""",
        id,
    )
    if page.locator("#tabs").count():  # shown a moment after the click
        page.locator(f"#tab_{id}").wait_for(state="visible")


def resizable(page: Any) -> dict[str, Any]:
    """A LoRA of the library that can be resized and is none of ours, the smallest with a plain name."""
    files = [one for one in ask(page, "library")["files"] if not one["problem"] and not one["ours"]]
    plain = [one for one in files if one["name"].replace("_", "").replace("-", "").isalnum() and one["name"].isascii()]
    return dict(min(plain or files, key=lambda one: one["bytes"]))
