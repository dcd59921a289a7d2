"""What the suite for real WebUIs reports before its first test, tested on a small server in place of one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

import lib_resize
from tests.chromium import LackingError
from tests.hosts_real import prerequisites
from tests.hosts_real.rest import Rest

OURS = "/resize-lora/v1/"


def lora(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "problem": None, "ours": None, "fits": True, **more}


class Stand(ThreadingHTTPServer):
    """Answers as a WebUI does in which all is there."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.answers: dict[str, Any] = {
            "/": "a page",
            "/sdapi/v1/options": {},
            "/sdapi/v1/sd-models": [{"title": "small"}],
            "/sdapi/v1/txt2img": {"images": ["a picture"]},
            OURS + "hello": {"version": lib_resize.__version__, "reference": {"kind": "memory"}},
            OURS + "list": {"files": [lora("one"), lora("two"), lora("three"), lora("bad", problem="cut off")]},
        }

    def missing(self) -> list[str]:
        return prerequisites.lacking(Rest(self.url))


class Handler(BaseHTTPRequestHandler):
    server: Stand

    def do_GET(self) -> None:
        answer = self.server.answers.get(self.path)
        data = json.dumps(answer).encode()
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(404 if answer is None else answer if isinstance(answer, int) else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    monkeypatch.setattr(prerequisites, "found", lambda: "a browser")
    server = Stand()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def _playwright() -> None:
    pytest.importorskip("playwright.sync_api")


def test_nothing_is_reported_where_all_is_there(stand: Stand) -> None:
    assert stand.missing() == []


@pytest.mark.parametrize(
    ("route", "answer", "said"),
    [
        ("/", 401, "requires a login"),
        ("/", None, "HTTP status 404"),
        ("/sdapi/v1/options", None, "Start the WebUI with --api."),
        (OURS + "hello", None, "--resize-lora-api"),
        (OURS + "hello", {"version": "0.0.1"}, "The WebUI runs Resize LoRA 0.0.1"),
        ("/sdapi/v1/sd-models", [], "has no checkpoint"),
        ("/sdapi/v1/txt2img", 500, "cannot generate an image"),
        (
            OURS + "hello",
            {"version": lib_resize.__version__, "reference": {"kind": "none"}},
            "finds no loaded checkpoint",
        ),
        (OURS + "list", {"files": [lora("one"), lora("two"), lora("three"), lora("odd", fits=False)]}, "family"),
        (OURS + "list", {"files": [lora("one"), lora("two", ours={}), lora("three", problem="x")]}, "need 3"),
    ],
)
def test_what_is_missing_is_one_sentence(stand: Stand, route: str, answer: Any, said: str) -> None:
    stand.answers[route] = answer
    (sentence,) = stand.missing()
    assert said in sentence


def test_a_server_that_does_not_answer_is_named(stand: Stand) -> None:
    (sentence,) = prerequisites.lacking(Rest("http://127.0.0.1:9"))
    assert sentence.startswith("No server answers at http://127.0.0.1:9/: ")


def test_a_missing_browser_is_reported_with_the_rest(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise LackingError("no Chromium here")

    monkeypatch.setattr(prerequisites, "found", none)
    stand.answers["/sdapi/v1/options"] = None
    browser, api = stand.missing()
    assert browser == "No browser: no Chromium here."
    assert "--api" in api
