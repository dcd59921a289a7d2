"""The panel as a program of its own, for people without a WebUI and for the browser tests.

A FastAPI application that holds the same Gradio Blocks as a host's tab, with the scripts and the style put into the
page's head, as a host does for its extensions.
"""

from __future__ import annotations

import html
import json
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
from fastapi import FastAPI
from fastapi.responses import FileResponse, Response

from ..errors import FileError, UsageError
from ..hosts.access import Access, is_loopback
from . import api
from .firewall import Application, Firewall, Message, Receive, Send
from .layout import build

NOBODY_ELSE = Access()
"""Programs of this machine alone."""
_STYLE = "style.css"
_SCRIPTS = "javascript/resize_lora_*.js"
"""All scripts, loaded in the order of their names, as hosts do."""


@dataclass(frozen=True)
class Address:
    """Where the panel is served."""

    host: str = "127.0.0.1"
    port: int = 7867

    @property
    def remote(self) -> bool:
        """Whether other machines can reach it."""
        return not is_loopback(self.host)

    @property
    def url(self) -> str:
        """For a person's browser."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{'127.0.0.1' if self.host in ('0.0.0.0', '::') else name}:{self.port}/"


def serve(
    call: Callable[[str], str], address: Address, access: Access = NOBODY_ELSE, *, with_api: bool = False
) -> None:
    """Serves the panel until it is stopped. Ask `check_free` first.

    `access` says who may use the page, and the HTTP API where it is asked for.
    """
    import uvicorn

    served = application(call, address, access, with_api=with_api)
    uvicorn.run(served, host=address.host, port=address.port, log_level="warning")


def application(
    call: Callable[[str], str], address: Address, access: Access = NOBODY_ELSE, *, with_api: bool = False
) -> Application:
    """The panel's web application, guarded and with its scripts."""
    app = FastAPI(openapi_url=f"{api.PREFIX}/openapi.json" if with_api else None, docs_url=None, redoc_url=None)
    root = _asset_root()
    assets = {f"/resize-lora/{path.name}": path for path in (*scripts_of(root), root / _STYLE)}
    own = [*assets]
    if with_api:
        api.mount(app, call, access)
        own.append(f"{api.PREFIX}/")
    for address_of, path in assets.items():
        app.get(address_of)(_file(path))
    mounted = gr.mount_gradio_app(app, build(call), path="/")
    return Firewall(_Head(mounted, head_tags(root)), remote=address.remote, users=access.users, own=own)


def head_tags(assets: Path) -> str:
    """Return what a host would put into the page's head for us: style, translations and scripts."""
    languages = json.dumps(languages_of(assets / "localizations"), ensure_ascii=False).replace("</", "<\\/")
    scripts = (f'<script src="{_stamped(path)}" defer></script>' for path in scripts_of(assets))
    return (
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="stylesheet" href="{_stamped(assets / _STYLE)}">'
        f"<script>window.resizeLoraLanguages = {languages};</script>{''.join(scripts)}"
    )


def _stamped(path: Path) -> str:
    """Return the address of an asset, with its time of change so that browsers notice an update."""
    return html.escape(f"/resize-lora/{path.name}?{path.stat().st_mtime_ns}")


def scripts_of(assets: Path) -> list[Path]:
    """Return the scripts of the page in the order in which they are loaded."""
    return sorted(assets.glob(_SCRIPTS))


def languages_of(folder: Path) -> dict[str, dict[str, str]]:
    """Language -> English text -> its translation, of every file in the folder."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))}


def _asset_root() -> Path:
    """The checkout, or where an installation has put the scripts. Raises FileError where it is in none of them."""
    places = list(_places())
    for place in places:
        if scripts_of(place) and (place / _STYLE).is_file():
            return place
    raise FileError(
        f"{_SCRIPTS} is in none of {', '.join(map(str, places))}; run from a checkout, or install the package again."
    )


def _places() -> Iterator[Path]:
    source = Path(__file__).parents[2]
    yield source
    installed = (source, sysconfig.get_path("data"), sysconfig.get_path("data", sysconfig.get_preferred_scheme("user")))
    for data in installed:  # pip install --target, into an environment, --user
        yield Path(data) / "share" / "resize-lora"


def _file(path: Path) -> Callable[[], Response]:
    def answer() -> Response:
        return FileResponse(path)

    return answer


def check_free(address: Address) -> None:
    """Raises UsageError where the address cannot be had."""
    import socket

    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        with socket.create_server((address.host, address.port), family=family):
            return
    except OSError as error:
        raise UsageError(
            f"--host {address.host} --port {address.port}: {error.strerror}; choose another with --port."
        ) from error


class _Head:
    """Puts tags into the head of the one page."""

    def __init__(self, inner: Application, tags: str) -> None:
        self._inner = inner
        self._tags = tags.encode()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/":
            await self._inner(scope, receive, send)
            return
        start: Message = {}
        body = bytearray()

        async def gather(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            body.extend(message.get("body", b""))
            if not message.get("more_body"):
                await self._finish(start, bytes(body), send)

        await self._inner(scope, receive, gather)

    async def _finish(self, start: Message, body: bytes, send: Send) -> None:
        body = body.replace(b"</head>", self._tags + b"</head>", 1)
        headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        await send({**start, "headers": headers})
        await send({"type": "http.response.body", "body": body})
