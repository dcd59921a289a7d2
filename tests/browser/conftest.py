"""The panel in a real browser, with a stub behind it, under every Gradio that is asked for.

* ``RESIZE_LORA_PYTHONS``: interpreters that have Gradio, separated as in PATH; each serves the panel once. Without it,
  this interpreter does, if it has Gradio.
* ``RESIZE_LORA_SHOTS``: a folder for screenshots.
* ``RESIZE_LORA_CHROMIUM``: the browser's program; without it one is looked for.

Where the browser or Gradio lacks, the tests are skipped with the reason; where CI=true they fail.
The suite for real WebUIs is in tests/hosts_real.

Loading Gradio's page costs more than most tests. So tests share one page, which is loaded anew for each of them, and a
file that sets ``ONE_GRADIO = True`` runs under the last Gradio alone: its laws are about what the page draws and asks,
not about Gradio. The wire, the mount, the tab and the cards (test_jobs, test_panel, test_cards) run under every Gradio.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.browser.browser_kit import change, drawn, expect
from tests.chromium import LackingError, chromium
from tests.gradios import lacking, parametrize, pythons

HERE = Path(__file__).parent

START, PATIENCE = 240.0, 20.0
"""Seconds that a server may take to start, and a page to show something: for machines that have much else to do."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "address" in metafunc.fixturenames:
        places = pythons()
        parametrize(metafunc, "address", places[-1:] if getattr(metafunc.module, "ONE_GRADIO", False) else places)


@pytest.fixture(scope="session")
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param is None:
        lacking("no Gradio here; name interpreters that have it in RESIZE_LORA_PYTHONS")
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
    with ExitStack() as stack:
        try:
            running = stack.enter_context(chromium("127.0.0.1"))
        except LackingError as error:
            lacking(str(error))
        expect.set_options(timeout=1000 * PATIENCE)
        yield running


WIDE = {"width": 1280, "height": 900}


class SharedPage:
    """One page for many tests. It is loaded anew for each, with an empty stub behind it."""

    def __init__(self, browser: Any) -> None:
        self._browser = browser
        self._page: Any = None
        self._faults: list[str] = []

    def opened(self, address: str) -> Any:
        if self._page is None:
            self._page = _new_page(self._browser, self._faults, viewport=WIDE)
        page = self._page
        page.goto("about:blank")  # ends the questions of the test before
        page.set_viewport_size(WIDE)
        page.mouse.move(0, 0)
        self._faults.clear()
        try:
            _load(page, address)
        except BaseException:
            self.close()
            raise
        return page

    def faults(self) -> list[str]:
        return list(self._faults)

    def leave(self) -> None:
        """Closes the page where the next test would meet what this one left: another clock, or other pages."""
        pages = self._page.context.pages
        if pages != [self._page] or not self._page.evaluate("/native code/.test(Date)"):
            self.close()

    def close(self) -> None:
        if self._page is not None:
            self._page.context.close()
        self._page = None


@pytest.fixture(scope="session")
def shared_page(browser: Any) -> Iterator[SharedPage]:
    shared = SharedPage(browser)
    try:
        yield shared
    finally:
        shared.close()


@pytest.fixture
def page(shared_page: SharedPage, address: str) -> Iterator[Any]:
    """The panel's page, wide, with the stub reset."""
    yield shared_page.opened(address)
    faults = shared_page.faults()
    shared_page.leave()
    assert faults == []


@pytest.fixture
def phone(browser: Any, address: str) -> Iterator[Any]:
    """The same on a phone."""
    yield from _own_page(browser, address, viewport={"width": 390, "height": 844}, has_touch=True)


@pytest.fixture
def japanese(browser: Any, address: str) -> Iterator[Any]:
    """The same for a reader of Japanese."""
    yield from _own_page(browser, address, viewport=WIDE, locale="ja-JP")


def _own_page(browser: Any, address: str, **settings: Any) -> Iterator[Any]:
    """A page that no other test uses."""
    faults: list[str] = []
    page = _new_page(browser, faults, **settings)
    try:
        _load(page, address)
        yield page
    finally:
        page.context.close()
    assert faults == []


def _new_page(browser: Any, faults: list[str], **settings: Any) -> Any:
    page = browser.new_context(**{"locale": "en-US", **settings}).new_page()
    page.set_default_timeout(1000 * PATIENCE)
    page.on("pageerror", lambda error: faults.append(str(error)))
    return page


def _load(page: Any, address: str) -> None:
    change(address)
    page.goto(address, wait_until="commit")
    page.evaluate("localStorage.clear()")  # what the test before chose
    page.wait_for_selector("#resize_lora_root", state="attached")
    drawn(page)


@pytest.fixture
def shot(request: pytest.FixtureRequest) -> Any:
    """``shot(page, "name")`` keeps a picture where a folder was named for them."""

    def take(page: Any, name: str) -> None:
        folder = os.environ.get("RESIZE_LORA_SHOTS")
        if folder:
            place = request.node.callspec.id.replace("/", "_").replace(":", "_")
            page.screenshot(path=str(Path(folder) / f"{name}-{place}.png"), animations="disabled", timeout=60000)

    return take
