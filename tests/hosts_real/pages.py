"""The WebUI's page in a browser: opened once, and always closed at the end."""

from __future__ import annotations

from typing import Any

from tests.hosts_real.limits import limits
from tests.panel_page import expect, open_tab

SIZE = {"width": 1280, "height": 900}
OURS = "resize_lora"


class Pages:
    """One page that stays open for many tests."""

    def __init__(self, browser: Any, url: str) -> None:
        self._browser, self._url = browser, url
        self._context: Any = None
        self._page: Any = None
        self._faults: list[str] = []

    def page(self) -> Any:
        """Return the page with the tab open; a closed page is opened again."""
        if self._page is None:
            try:
                self._open()
            except BaseException:
                self.close()
                raise
        return self._page

    def close(self) -> None:
        context, self._context, self._page = self._context, None, None
        if context is not None:
            context.close()

    def tidy(self) -> None:
        """Reset the page for the next test: wide, without open dialogs, with an empty search."""
        self._page.set_viewport_size(SIZE)
        self._page.evaluate("document.querySelectorAll('dialog[open]').forEach(one => one.close())")
        self._page.locator("#resize_lora_search").evaluate(
            "box => { box.value = ''; box.dispatchEvent(new Event('input', {bubbles: true})); }"
        )

    def faults(self) -> list[str]:
        """Return errors of the extension's script since the last call, without those of the host."""
        faults, self._faults = self._faults, []
        return [fault for fault in faults if OURS in fault]

    def _open(self) -> None:
        self._context = self._browser.new_context(viewport=SIZE, locale="en-US")
        self._page = page = self._context.new_page()
        page.set_default_timeout(1000 * limits.patience)
        expect.set_options(timeout=1000 * limits.patience)
        page.on("pageerror", lambda error: self._faults.append(f"{error} {error.stack}"))
        page.on("console", self._add_console_error)
        page.goto(self._url, wait_until="commit", timeout=1000 * limits.long)
        page.wait_for_selector("#resize_lora_root", state="attached", timeout=1000 * limits.long)
        open_tab(page, OURS)
        page.wait_for_selector(".resize-lora-row", state="visible", timeout=1000 * limits.long)

    def _add_console_error(self, message: Any) -> None:
        if message.type == "error":
            self._faults.append(f"{message.text} ({message.location.get('url')})")
