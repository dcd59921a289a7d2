"""The panel in a real browser, with a stub behind it, under every Gradio that is asked for.

* ``RESIZE_LORA_PYTHONS``: interpreters that have Gradio, separated as in PATH; each serves the panel once. Without it,
  this interpreter does, if it has Gradio.
* ``RESIZE_LORA_SHOTS``: a folder for screenshots.
* ``RESIZE_LORA_CHROMIUM``: the browser's program; without it one is looked for.

Where the browser or Gradio lacks, the tests are skipped with the reason; where CI=true they fail.
The suite for real WebUIs is in tests/hosts_real.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.chromium import LackingError, chromium
from tests.gradios import lacking, parametrize, pythons

HERE = Path(__file__).parent
sys.path.append(str(HERE))

from browser_kit import change, drawn, expect  # noqa: E402

START, PATIENCE = 240.0, 20.0
"""Seconds that a server may take to start, and a page to show something: for machines that have much else to do."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "address" in metafunc.fixturenames:
        parametrize(metafunc, "address", pythons())


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
    faults: list[str] = []
    try:
        page = context.new_page()
        page.set_default_timeout(1000 * PATIENCE)
        page.on("pageerror", lambda error: faults.append(str(error)))
        change(address)
        page.goto(address, wait_until="commit")
        page.wait_for_selector("#resize_lora_root", state="attached")
        drawn(page)
        yield page
    finally:
        context.close()
    assert faults == []


@pytest.fixture
def shot(request: pytest.FixtureRequest) -> Any:
    """``shot(page, "name")`` keeps a picture where a folder was named for them."""

    def take(page: Any, name: str) -> None:
        folder = os.environ.get("RESIZE_LORA_SHOTS")
        if folder:
            place = request.node.callspec.id.replace("/", "_").replace(":", "_")
            page.screenshot(path=str(Path(folder) / f"{name}-{place}.png"), animations="disabled", timeout=60000)

    return take
