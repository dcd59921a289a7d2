"""The panel in a real browser, under every Gradio that is asked for, or inside a real WebUI.

* ``RESIZE_LORA_PYTHONS``: interpreters that have Gradio, separated as in PATH; each serves the panel once. Without it,
  this interpreter does, if it has Gradio.
* ``RESIZE_LORA_URL``: address of a running WebUI, or of ``resize-lora ui``; tests that need the stub are skipped.
* ``RESIZE_LORA_SHOTS``: a folder for screenshots.
* ``RESIZE_LORA_CHROMIUM``: the browser's program; without it one is looked for.

Where the browser or Gradio lacks, the tests are skipped with the reason; where CI=true they fail.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.gradios import lacking, parametrize, pythons

HERE = Path(__file__).parent
sys.path.append(str(HERE))

from browser_kit import URL, ask, change, drawn, expect, open_tab  # noqa: E402
from host_kit import LONG, NOISE, TABS  # noqa: E402

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Gradio's page asks for fonts and scripts elsewhere; without a network it would wait for them.
    f"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {urlsplit(URL).hostname if URL else '127.0.0.1'}",
]
START, PATIENCE = 240.0, 20.0
"""Seconds that a server may take to start, and a page to show something: for machines that have much else to do."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
APPS = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
    "C:/Program Files (x86)/Microsoft/Edge/Application/msedge.exe",
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "address" in metafunc.fixturenames:
        parametrize(metafunc, "address", [URL] if URL else pythons())


@pytest.fixture(scope="session")
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param is None:
        lacking("no Gradio here; name interpreters that have it in RESIZE_LORA_PYTHONS")
    if URL:
        yield URL
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen([request.param, str(HERE / "serve_stub.py"), str(port)], stderr=subprocess.PIPE)
    try:
        yield _ready(f"http://127.0.0.1:{port}/", server)
    finally:
        server.terminate()
        server.wait(10)
        assert server.stderr is not None
        server.stderr.close()


def _ready(url: str, server: subprocess.Popen[bytes]) -> str:
    end = time.monotonic() + START
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return url
        except OSError:
            assert server.poll() is None, server.stderr and server.stderr.read().decode()
            time.sleep(0.25)
    raise TimeoutError(url)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    try:
        from playwright import sync_api
    except ImportError:
        lacking("Playwright for Python is not installed")
    chromium = os.environ.get("RESIZE_LORA_CHROMIUM") or next(filter(shutil.which, (*BROWSERS, *APPS)), None)
    if chromium is None:
        lacking("no Chromium here; name one in RESIZE_LORA_CHROMIUM")
    sync_api.expect.set_options(timeout=1000 * PATIENCE)
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=shutil.which(chromium), args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The panel's page, wide, with the stub reset."""
    yield from _open(browser, address, {"width": 1280, "height": 900})


@pytest.fixture
def phone(browser: Any, address: str) -> Iterator[Any]:
    """The same on a phone."""
    yield from _open(browser, address, {"width": 390, "height": 844}, has_touch=True)


def _open(browser: Any, address: str, viewport: dict[str, int], **more: Any) -> Iterator[Any]:
    context = browser.new_context(viewport=viewport, locale="en-US", **more)
    page = context.new_page()
    page.set_default_timeout(1000 * PATIENCE)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    if not URL:
        change(address)
    page.goto(address, wait_until="commit")
    page.wait_for_selector("#resize_lora_root", state="attached")
    if not URL:
        drawn(page)
    yield page
    context.close()
    assert faults == []


@pytest.fixture(scope="module")
def webui(browser: Any, address: str) -> Iterator[Any]:
    """One page for all tests, since a WebUI takes long to draw."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, locale="en-US")
    page = context.new_page()
    page.set_default_timeout(20_000)
    expect.set_options(timeout=30_000)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(f"{error} {error.stack}"))
    page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
    page.route("**/*", lambda route: route.continue_() if address in route.request.url else route.abort())
    page.goto(address, wait_until="commit")
    page.wait_for_selector("#resize_lora_root", state="attached", timeout=LONG * 2)
    if "cards" not in ask(page, "hello")["features"]:
        pytest.skip("no WebUI with cards at this address")
    open_tab(page, "resize_lora")
    page.wait_for_selector(".resize-lora-row", state="visible")
    for tab in TABS:  # what was undone at the end of the last run
        page.evaluate("tab => document.querySelector(`#${tab}_lora_extra_refresh_internal`).click()", tab)
    page.wait_for_timeout(3000)
    before = {one["result"] for one in ask(page, "results")["results"]}
    yield page
    for made in ask(page, "results")["results"]:
        if made["state"] == "there" and made["result"] not in before:
            ask(page, "undo", {"result": made["result"]})
    context.close()
    own = [fault for fault in faults if not NOISE.search(fault)]
    assert own == [], "\n".join(own)


@pytest.fixture
def shot(request: pytest.FixtureRequest) -> Any:
    """``shot(page, "name")`` keeps a picture where a folder was named for them."""

    def take(page: Any, name: str) -> None:
        folder = os.environ.get("RESIZE_LORA_SHOTS")
        if folder:
            place = request.node.callspec.id.replace("/", "_").replace(":", "_")
            page.screenshot(path=str(Path(folder) / f"{name}-{place}.png"), animations="disabled", timeout=60000)

    return take
