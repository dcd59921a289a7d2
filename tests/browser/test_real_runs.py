"""A run over a library with the real service: files on the disk, a kill in the middle, and the way back."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lib_resize.demo.synthetic import LoraOptions, write_lora
from tests.browser.browser_kit import ask, drawn, expect
from tests.gradios import lacking, pythons

ROOT = Path(__file__).parents[2]
START = 240.0
COUNT = 8
RUN = ".resize-lora-run"


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.safetensors")}


class Server:
    """``resize-lora ui`` for a folder, at one address, so that a page can be reloaded after a kill."""

    def __init__(self, python: str, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}/"
        self._command = [python, "-m", "lib_resize", "ui", "--lora-dir", str(folder), "--port", str(self.port)]
        self._log = folder.parent / "server.txt"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, env=environment, stdout=log, stderr=log)
        end = time.monotonic() + START
        while time.monotonic() < end:
            assert self._process.poll() is None, self._log.read_text("utf-8")
            with contextlib.suppress(OSError), urllib.request.urlopen(self.address, timeout=5):
                return
            time.sleep(0.25)
        raise TimeoutError(self._log.read_text("utf-8"))

    def kill(self) -> None:
        """End at once, without a chance to tidy."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)
            self._process.wait(20)

    def log(self) -> str:
        return self._log.read_text("utf-8")


@pytest.fixture
def loras(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "Lora"
    (folder / "styles").mkdir(parents=True)
    for i in range(COUNT):
        write_lora(folder / ("styles" if i % 2 else ".") / f"style {i}.safetensors", LoraOptions(rank=32, seed=i))
    return folder


@pytest.fixture
def server(loras: Path) -> Iterator[Server]:
    places = pythons()
    if not places:
        lacking("no Gradio here; name interpreters that have it in RESIZE_LORA_PYTHONS")
    running = Server(places[-1], loras)
    running.start()
    yield running
    running.kill()
    assert "Traceback" not in running.log()


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    faults: list[str] = []
    opened = browser.new_context(locale="en-US", viewport={"width": 1280, "height": 900}).new_page()
    opened.set_default_timeout(60_000)
    opened.on("pageerror", lambda error: faults.append(str(error)))
    load(opened, server)
    yield opened
    opened.context.close()
    assert faults == []


def load(page: Any, server: Server) -> None:
    page.goto("about:blank")
    page.goto(server.address, wait_until="commit")
    drawn(page)
    expect(page.locator(".resize-lora-row:visible")).to_have_count(COUNT, timeout=60_000)


def shrink(page: Any) -> None:
    page.click("#resize_lora_shrink")
    run = page.locator('dialog [data-action="run"]')
    expect(run).to_have_text(f"Shrink {COUNT} LoRAs", timeout=60_000)
    run.click()


def ended(page: Any) -> Any:
    run = page.locator(f'{RUN}[data-state="done"]')
    expect(run).to_have_count(1, timeout=240_000)
    return run


def undo_all(page: Any) -> None:
    page.locator(f'{RUN} [data-action="report"]').first.click()
    box = page.locator("dialog")
    box.locator('[data-action="undo-run"]:not(.resize-lora-toast *)').click()
    box.locator('[data-action="yes"]').click()
    expect(box.locator('[data-filter="restored"]')).to_have_text(f"Restored {COUNT}", timeout=60_000)


def test_a_library_is_shrunk_and_comes_back_byte_for_byte(page: Any, loras: Path) -> None:
    before = digests(loras)
    sizes = {path: path.stat().st_size for path in loras.rglob("*.safetensors")}
    shrink(page)
    run = ended(page)
    expect(run).to_contain_text(f"{COUNT} resized")
    assert digests(loras).keys() == before.keys()
    assert all(path.stat().st_size < size / 2 for path, size in sizes.items())
    expect(page.locator("#resize_lora_archive")).to_contain_text(f"Archive: {COUNT} originals")
    undo_all(page)
    assert digests(loras) == before


def test_a_run_goes_on_after_the_server_was_killed(page: Any, loras: Path, server: Server) -> None:
    before = digests(loras)
    shrink(page)
    run = page.locator(RUN)
    expect(run).to_have_attribute("data-state", "running")
    while not ask(page, "runs")["runs"][0]["done"]:
        assert run.get_attribute("data-state") == "running"
    server.kill()
    page.goto("about:blank")
    server.start()
    load(page, server)
    expect(run).to_have_attribute("data-state", "interrupted")
    run.locator('[data-action="continue"]').click()
    expect(ended(page)).to_contain_text(f"{COUNT} resized")
    undo_all(page)
    assert digests(loras) == before
