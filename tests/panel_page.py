"""The panel's page as tests drive it, with a stub or a WebUI behind it. Imports where Playwright lacks."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urljoin

Error: Any
expect: Any
try:
    from playwright.sync_api import Error, expect
except ImportError:
    Error = expect = None

__all__ = ["ask", "expect", "open_advanced", "open_tab", "press", "row"]


FIND_EVENT = """() => { const config = window.gradio_config, all = config.dependencies;
    const reply = config.components.find(one => (one.props || {}).elem_id === 'resize_lora_reply').id;
    const at = all.findIndex(one => one.outputs.includes(reply));
    return all[at].id ?? at; }"""


def ask(page: Any, method: str, params: dict[str, Any] | None = None) -> Any:
    """Asks the service as another page would: through Gradio's event, with this page's login."""
    page.wait_for_function("window.gradio_config && window.gradio_config.components")
    question = json.dumps({"id": 0, "method": method, "params": params or {}})
    body = {"data": [question], "fn_index": page.evaluate(FIND_EVENT), "session_hash": "tests"}
    got = _post(page, urljoin(page.url, "run/predict"), body)
    answer = json.loads(got.json()["data"][0])
    assert "error" not in answer, answer["error"]
    return answer["result"]


def _post(page: Any, url: str, body: dict[str, Any]) -> Any:
    """Post again where the server had just closed the idle connection, so that nothing was received."""
    try:
        return page.request.post(url, data=body, timeout=60_000)
    except Error as error:
        if "ECONNRESET" not in str(error):
            raise
        return page.request.post(url, data=body, timeout=60_000)


def row(page: Any, name: str) -> Any:
    """A LoRA's row in the library."""
    quoted = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return page.locator(f".resize-lora-row:visible[data-key={quoted}]")


def press(page: Any, result: Any, action: str) -> None:
    """Run an action of a result's row: its own button, or an item of its menu."""
    button = result.locator(f'[data-action="{action}"]')
    result.locator("[data-action]").first.wait_for()
    if button.count():
        button.click()
        return
    result.locator('[data-action="menu"]').click()
    page.locator(f'#resize_lora_menu [role="menuitem"][data-key="{action}"]').click()


def open_advanced(page: Any) -> None:
    """Open *Advanced*, where the recipe is."""
    if page.locator("#resize_lora_advanced").get_attribute("open") is None:
        page.click("#resize_lora_advanced summary")


PORTAL = """id => { const pages = [`#tab_${id}_tabitem`, `#${id}_tabitem`];
    const isOf = one => one.getAttribute('tabitemid').split(/[\\s,]+/).some(page => pages.includes(page));
    const nav = [...document.querySelectorAll('button[tabitemid]')].find(isOf);
    if (nav) nav.click();
    return nav ? pages.find(page => document.querySelector(page)) : null; }"""


DRAWN = """id => { const tabs = document.querySelector('#tabs');
    return !tabs || tabs.offsetParent || document.querySelector(`button[tabitemid*="${id}_tabitem"]`); }"""


def open_tab(page: Any, id: str) -> None:
    """Opens a tab of the host by the place of its panel, for titles are translated; nothing where there are no tabs.

    ModernUI of SD.Next has moved what is in a tab into a page of its own.
    """
    page.wait_for_function(DRAWN, arg=id)
    portal = page.evaluate(PORTAL, id)
    if portal:
        page.locator(portal).wait_for(state="visible")
        return
    page.evaluate(
        """id => { const tabs = document.querySelector('#tabs'), kids = tabs ? [...tabs.children] : [];
            const at = kids.filter(one => one.classList.contains('tabitem')).findIndex(one => one.id === `tab_${id}`);
            const nav = kids.find(one => one.classList.contains('tab-nav'));
            if (at >= 0) nav.querySelectorAll('button')[at].click(); }""",
        id,
    )
    if page.locator("#tabs").count():  # shown a moment after the click
        page.locator(f"#tab_{id}").wait_for(state="visible")
