"""The browser that the tests drive: how it is found and started."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
APPS = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
    "C:/Program Files (x86)/Microsoft/Edge/Application/msedge.exe",
)


class LackingError(Exception):
    """No browser can be driven here; the text says what to install."""


def found() -> str:
    """The browser's program: `RESIZE_LORA_CHROMIUM`, or the first that is installed. Raises LackingError."""
    named = os.environ.get("RESIZE_LORA_CHROMIUM")
    program = next(filter(None, map(shutil.which, [named] if named else (*BROWSERS, *APPS))), None)
    if program is None:
        raise LackingError(
            f"RESIZE_LORA_CHROMIUM names {named!r}, and no such program is here"
            if named
            else "no Chromium here; install one, or name it in RESIZE_LORA_CHROMIUM"
        )
    return program


@contextmanager
def chromium(host: str) -> Iterator[Any]:
    """A running browser that reaches `host` and no other machine. Raises LackingError where there is none."""
    try:
        from playwright import sync_api
    except ImportError:
        raise LackingError("Playwright for Python is not installed") from None
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        # Gradio's page asks for fonts and scripts from elsewhere; without a network it would wait for them.
        f"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {host}",
    ]
    program = found()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        try:
            yield browser
        finally:
            browser.close()
