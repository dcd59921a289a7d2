"""The panel's page as tests drive it, with a stub or a WebUI behind it. Imports where Playwright lacks."""

from __future__ import annotations

from typing import Any

try:
    from playwright.sync_api import expect
except ImportError:
    expect = None

__all__ = ["ask", "expect", "open_tab", "row"]


def ask(page: Any, method: str, params: dict[str, Any] | None = None) -> Any:
    """Speaks to the service as the script does, through the hidden components."""
    page.wait_for_selector("#resize_lora_reply textarea", state="attached")
    return page.evaluate("([method, params]) => window.resizeLoraCall(method, params)", [method, params or {}])


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
