"""Filter requests to ``resize-lora ui``: its page, its assets and its one event pass, nothing else does.

Gradio's own routes fetch URLs for the browser, serve files of the current folder and accept uploads. This page needs
none of that: what is not on the list is answered with 404. Standard library only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from ..hosts.access import is_loopback
from .gate import CHALLENGE, hostname, is_known

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

EVENT = "/run/predict"
MOST_BYTES = 5 << 20
"""Largest body of a call, in bytes: the limit of the protocol, plus the escapes of JSON."""

_PAGES = frozenset(("/", "/info", "/theme.css", "/favicon.ico"))
# Files of Gradio's own bundle. A segment cannot begin with a dot, so no path leads out of that folder.
_ASSET = re.compile(r"/assets(/[A-Za-z0-9_@-][A-Za-z0-9_@.-]*)+")
_SESSION = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Firewall:
    """An ASGI application in front of another one.

    In this order: cross-origin requests and foreign host names get 403; requests without one of the `users`, where
    there are any, 401; what is not on the list 404.
    """

    def __init__(
        self,
        inner: Application,
        *,
        remote: bool,
        users: tuple[tuple[str, str], ...] | None = None,
        own: Iterable[str] = (),
    ) -> None:
        """`remote`: other machines have access. `own`: further paths, exact, or prefixes that end in ``/``."""
        self._inner = inner
        self._remote = remote
        self._users = users
        self._own = tuple(own)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._inner(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._http(scope, receive, send)

    async def _http(self, scope: Message, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        if not self._is_own_page(headers):
            await _answer(send, 403, "Cross-origin requests are not allowed.")
        elif not self._is_logged_in(headers):
            await _answer(send, 401, "Missing or invalid credentials. Use HTTP Basic with a user of --auth.", CHALLENGE)
        elif scope["method"] in ("GET", "HEAD") and self._may_read(scope["path"]):
            await self._inner(scope, receive, send)
        elif scope["method"] == "POST" and scope["path"] == EVENT:
            await self._event(scope, receive, send)
        elif _is_one_of(scope["path"], self._own):
            await self._inner(scope, receive, send)
        else:
            await _answer(send, 404, "Not found.")

    def _is_own_page(self, headers: dict[bytes, bytes]) -> bool:
        """Return whether a request is to a name of this server, and not from a page of another site."""
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._remote and not is_loopback(hostname(host)):
            return False
        origin = headers.get(b"origin")
        return origin is None or origin.decode("latin-1").partition("://")[2] == host

    def _is_logged_in(self, headers: dict[bytes, bytes]) -> bool:
        if self._users is None:
            return not self._remote
        return is_known(headers.get(b"authorization", b"").decode("latin-1"), self._users)

    def _may_read(self, path: str) -> bool:
        return path in _PAGES or _ASSET.fullmatch(path) is not None or _is_one_of(path, self._own)

    async def _event(self, scope: Message, receive: Receive, send: Send) -> None:
        """Forward a call with only the text that the event expects.

        Gradio fetches URLs and paths that it finds in other fields.
        """
        body = await _whole(receive)
        text = None if body is None else _question(body)
        if text is None:
            await _answer(send, 400, "Not a call of this page.")
            return
        headers = [(name, value) for name, value in scope["headers"] if name.lower() != b"content-length"]
        headers.append((b"content-length", str(len(text)).encode()))
        await self._inner({**scope, "headers": headers, "query_string": b""}, _once(text, receive), send)


def _is_one_of(path: str, allowed: tuple[str, ...]) -> bool:
    return any(path.startswith(one) if one.endswith("/") else path == one for one in allowed)


async def _whole(receive: Receive) -> bytes | None:
    """Return the body of a request; None where it is too long or the client is gone."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if len(body) > MOST_BYTES:
            return None
        if not message.get("more_body"):
            return bytes(body)


def _question(body: bytes) -> bytes | None:
    """Return the body of a call, rebuilt from its three values; None where it is not one."""
    try:
        found = json.loads(body)
        data, event, session = found["data"], found["fn_index"], found.get("session_hash")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if not (isinstance(data, list) and len(data) == 1 and isinstance(data[0], str)):
        return None
    if event != 0 or isinstance(event, bool) or not (session is None or _is_session(session)):
        return None
    return json.dumps({"data": data, "fn_index": 0, "session_hash": session}).encode()


def _is_session(value: object) -> bool:
    return isinstance(value, str) and _SESSION.fullmatch(value) is not None


def _once(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives this body, then what the client sends next, such as a disconnect."""
    given = False

    async def next_message() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return next_message


async def _answer(send: Send, status: int, text: str, headers: dict[str, str] | None = None) -> None:
    body = text.encode()
    named = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    named += [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": named})
    await send({"type": "http.response.body", "body": body})
