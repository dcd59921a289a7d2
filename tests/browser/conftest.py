"""The panel in a real browser, under every Gradio that is asked for, or inside a real WebUI.

* ``RESIZE_LORA_PYTHONS``: interpreters that have Gradio, separated as in PATH; each serves the panel once. Without it,
  this interpreter does, if it has Gradio.
* ``RESIZE_LORA_URL``: address of a running WebUI, or of ``resize-lora ui``; tests that need the stub are skipped.
* ``RESIZE_LORA_SHOTS``: a folder for screenshots.
"""

from __future__ import annotations

import importlib.util
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

import pytest

HERE = Path(__file__).parent
sys.path.append(str(HERE))

from browser_kit import URL, setup  # noqa: E402

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def _pythons() -> list[str]:
    named = os.environ.get("RESIZE_LORA_PYTHONS")
    if named:
        return named.split(os.pathsep)
    return [sys.executable] if importlib.util.find_spec("gradio") else []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "address" in metafunc.fixturenames:
        places = [URL] if URL else _pythons()
        names = [place if URL else Path(place).parents[1].name for place in places]
        metafunc.parametrize("address", places or [None], ids=names or ["no gradio"], indirect=True, scope="session")


@pytest.fixture(scope="session")
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param is None:
        pytest.skip("no Gradio here; name interpreters that have it in RESIZE_LORA_PYTHONS")
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
    for _ in range(240):
        try:
            with urllib.request.urlopen(url, timeout=5):
                return url
        except OSError:
            assert server.poll() is None, server.stderr and server.stderr.read().decode()
            time.sleep(0.25)
    raise TimeoutError(url)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright for Python is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium here")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
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
    page.set_default_timeout(20000)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.route("**/*", lambda route: route.continue_() if address in route.request.url else route.abort())
    page.goto(address, wait_until="commit")
    page.wait_for_selector("#resize_lora_root", state="attached")
    if not URL:
        setup(page)
    yield page
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
