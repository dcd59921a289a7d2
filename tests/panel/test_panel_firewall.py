"""Of all that a browser may ask of ``resize-lora ui``, only its page, its assets and its one event get through."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest

from lib_resize.panel.firewall import MOST_BYTES, Firewall

LOCAL = {"host": "127.0.0.1:7867"}
CALL = {"data": ['{"id": 1, "method": "hello"}'], "fn_index": 0, "session_hash": "abc123"}
USERS = (("me", "secret"), ("你", "好"))


class Inner:
    """The application behind: it keeps what reached it, and answers 200."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.bodies: list[bytes] = []
        self.lengths: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.paths.append(scope["path"])
        message = await receive()
        self.bodies.append(message["body"])
        self.lengths.append(dict(scope["headers"]).get(b"content-length", b"").decode())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"in"})


def ask(
    path: str,
    method: str = "GET",
    *,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    kind: str = "http",
    **how: Any,
) -> tuple[int, Inner]:
    """The status that a client gets, and the application behind."""
    inner = Inner()
    wall = Firewall(inner, remote=how.pop("remote", False), own=["/resize-lora/style.css", "/resize-lora/v1/"], **how)
    named = [(name.encode(), value.encode()) for name, value in (LOCAL | (headers or {})).items()]
    scope = {"type": kind, "method": method, "path": path, "headers": named, "query_string": b""}
    pieces = [body[:7], body[7:]]
    said: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    async def send(message: Any) -> None:
        said.append(message)

    asyncio.run(wall(scope, receive, send))
    return said[0].get("status", said[0].get("code")), inner


def basic(name: str, password: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


@pytest.mark.parametrize(
    "path", ["/", "/info", "/theme.css", "/favicon.ico", "/assets/index-2a.js", "/assets/svelte/svelte.js",
             "/resize-lora/style.css", "/resize-lora/v1/hello"],
)  # fmt: skip
def test_what_the_page_needs_gets_through(path: str) -> None:
    assert ask(path)[0] == 200
    assert ask(path, "HEAD")[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/file=notes.txt", "/file=/etc/passwd", "/file=http://127.0.0.1:1/", "/file/notes.txt", "/proxy=http://a/",
        "/config", "/config/", "/static/img/x.png", "/custom_component/a/b/c", "/upload", "/upload_progress",
        "/queue/data", "/queue/join", "/queue/status", "/heartbeat/abc", "/reset", "/monitoring", "/token", "/app_id",
        "/user", "/login", "/logout", "/login_check", "/dev/reload", "/stream/a/b/c", "/call/predict/1", "/robots.txt",
        "/startup-events", "/run/predict", "/api/predict", "//", "/..", "/assets", "/assets/", "/assets/../config",
        "/assets/.hidden", "/assets/a/../../config", "/assets/..\\config", "/assets//etc/passwd", "/assets/a\nb", "",
        "/resize-lora/v1", "/resize-lora/v2/hello", "/resize-lora/style.css/", "/openapi.json", "/docs",
    ],
)  # fmt: skip
def test_nothing_else_of_gradio_is_served(path: str) -> None:
    status, inner = ask(path)
    assert (status, inner.paths) == (404, [])


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/upload",
        "/reset",
        "/api/predict",
        "/run/predict/",
        "/run/other",
        "/queue/join",
        "/call/predict",
        "/component_server",
    ],
)
def test_no_other_post_gets_through(path: str) -> None:
    status, inner = ask(path, "POST", body=json.dumps(CALL).encode())
    assert (status, inner.paths) == (404, [])


def test_a_websocket_is_closed() -> None:
    status, inner = ask("/queue/join", kind="websocket")
    assert (status, inner.paths) == (1008, [])


def test_a_call_reaches_the_event_with_its_text_and_nothing_more() -> None:
    sent = CALL | {"event_data": {"path": "http://127.0.0.1:1/"}, "trigger_id": 9, "request": {"a": "b"}}
    status, inner = ask("/run/predict", "POST", body=json.dumps(sent).encode(), headers={"content-length": "7"})
    assert status == 200
    assert json.loads(inner.bodies[0]) == CALL
    assert inner.lengths == [str(len(inner.bodies[0]))]


@pytest.mark.parametrize(
    "changed",
    [
        {"data": [{"path": "http://127.0.0.1:1/admin", "meta": {"_type": "gradio.FileData"}}]},
        {"data": [{"path": "/etc/passwd"}]},
        {"data": [[]]}, {"data": [1]}, {"data": []}, {"data": ["a", "b"]}, {"data": {"0": "a"}}, {"data": "a"},
        {"fn_index": 1}, {"fn_index": -1}, {"fn_index": "0"}, {"fn_index": None}, {"fn_index": False},
        {"session_hash": {"path": "http://a/"}}, {"session_hash": "../x"}, {"session_hash": "a" * 65},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_not_the_one_event_with_one_text_is_refused(changed: dict[str, Any]) -> None:
    status, inner = ask("/run/predict", "POST", body=json.dumps(CALL | changed).encode())
    assert (status, inner.paths) == (400, [])


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"nothing", b'"a"', b"\xff", b"[" * 100_000, b'{"data": ["a"]}'],
    ids=lambda body: str(body[:9]),
)
def test_a_body_that_is_no_call_is_refused(body: bytes) -> None:
    status, inner = ask("/run/predict", "POST", body=body)
    assert (status, inner.paths) == (400, [])


def test_a_body_of_any_length_is_not_kept() -> None:
    status, inner = ask("/run/predict", "POST", body=b'{"data": ["' + b"a" * MOST_BYTES + b'"], "fn_index": 0}')
    assert (status, inner.paths) == (400, [])


@pytest.mark.parametrize("path", ["/", "/resize-lora/v1/hello", "/assets/index.js", "/file=a"])
def test_with_users_all_of_it_needs_a_login(path: str) -> None:
    for headers in ({}, basic("me", "wrong"), basic("me", ""), {"authorization": "Bearer secret"}):
        assert ask(path, headers=headers, users=USERS)[0] == 401
    assert ask(path, headers=basic("me", "secret"), users=USERS)[0] == (404 if "file" in path else 200)
    assert ask(path, headers=basic("你", "好"), users=USERS, remote=True)[0] == (404 if "file" in path else 200)


def test_a_call_needs_the_login_too() -> None:
    body = json.dumps(CALL).encode()
    assert ask("/run/predict", "POST", body=body, users=USERS)[0] == 401
    assert ask("/run/predict", "POST", body=body, users=USERS, headers=basic("me", "secret"))[0] == 200


def test_for_other_machines_nothing_is_open_without_users() -> None:
    assert ask("/", remote=True)[0] == 401


@pytest.mark.parametrize(
    "headers", [{"origin": "http://evil.example"}, {"origin": "null"}, {"host": "evil.example"}, {"host": "["}], ids=str
)
def test_another_sites_page_is_refused_before_it_may_log_in(headers: dict[str, str]) -> None:
    assert ask("/", headers=headers)[0] == 403
    assert ask("/", headers=headers | basic("me", "secret"), users=USERS)[0] == 403
