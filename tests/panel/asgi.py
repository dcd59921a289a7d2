"""Asks a web application as a server would, without one; so that a test says from where, and under what name."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    cookies: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def kind(self) -> str:
        kind: str = self.json["error"]["kind"]
        return kind


@dataclass
class Client:
    """Send requests exactly as given; only the name of the host is added."""

    app: Any
    host: str = "127.0.0.1:7860"
    address: str = "127.0.0.1"
    headers: dict[str, str] = field(default_factory=dict)

    def get(self, path: str, **headers: str) -> Answer:
        return self.send("GET", path, b"", headers)

    def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        raw = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
        return self.send("POST", path, raw, {"content_type": "application/json", **headers})

    def send(self, verb: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        return asyncio.run(self._send(verb, path, body, {**self.headers, **headers}))

    async def _send(self, verb: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        parts = urlsplit(path)
        named = {"host": self.host, **{name.replace("_", "-"): value for name, value in headers.items()}}
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": verb, "scheme": "http",
            "path": parts.path, "raw_path": parts.path.encode(), "query_string": parts.query.encode(), "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in named.items()],
            "client": (self.address, 50000), "server": ("127.0.0.1", 7860),
        }  # fmt: skip
        pieces = [body[at : at + 60_000] for at in range(0, max(len(body), 1), 60_000)]
        messages: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if not pieces:
                return {"type": "http.disconnect"}
            piece = pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

        async def send(message: Any) -> None:
            messages.append(message)

        await self.app(scope, receive, send)
        return _answer(messages)


def _answer(messages: list[dict[str, Any]]) -> Answer:
    start, rest = messages[0], messages[1:]
    headers = [(name.decode().lower(), value.decode()) for name, value in start["headers"]]
    cookies = dict(value.partition(";")[0].split("=", 1) for name, value in headers if name == "set-cookie")
    body = b"".join(message.get("body", b"") for message in rest)
    return Answer(start["status"], dict(headers), body, cookies)
