"""Logs in at a real Gradio application and asks the API behind it: ``python gradio_login.py``, for any Gradio."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from urllib.parse import urlencode

sys.path.insert(0, str(Path(__file__).parents[2]))

import gradio as gr
from gradio.routes import App

from lib_resize.hosts.access import Access
from lib_resize.panel import api
from lib_resize.panel.layout import build
from tests.panel.asgi import Client

LIST, CANCEL = "/resize-lora/v1/list", "/resize-lora/v1/cancel"


def call(text: str) -> str:
    return json.dumps({"id": 0, "result": {"method": json.loads(text)["method"]}})


def application() -> App:
    """As a host makes it: Blocks with accounts, Gradio's application of them, and then our routes."""
    blocks = build(call)
    blocks.auth, blocks.auth_message = [("me", "secret")], None
    app = App.create_app(blocks)
    api.mount(app, call, Access(login=True, exposed=True))
    return app


def logged_in(client: Client, password: str) -> dict[str, str]:
    form = urlencode({"username": "me", "password": password}).encode()
    answer = client.send("POST", "/login", form, {"content_type": "application/x-www-form-urlencoded"})
    assert answer.status == (200 if password == "secret" else 400), answer
    cookies: dict[str, str] = answer.cookies
    return cookies


def main() -> None:
    client = Client(application())
    assert client.get("/config").status == 401
    assert client.get(LIST).status == client.post(CANCEL, {}).status == 401
    assert logged_in(client, "wrong") == {}
    cookies = logged_in(client, "secret")
    assert cookies
    for name, token in cookies.items():
        assert client.get(LIST, cookie=f"{name}={token}").json == {"method": "library"}
        assert client.post(CANCEL, {}, cookie=f"{name}={token}").json == {"method": "cancel"}
        assert client.get(LIST, cookie=f"{name}={token}x").status == 401
    schema = client.get("/openapi.json")
    assert schema.status in (200, 404), schema
    again = Client(application())
    assert {again.get(LIST, cookie=f"{name}={token}").status for name, token in cookies.items()} == {401}
    sys.stdout.write(f"Gradio {gr.__version__}: in, out and refused\n")


if __name__ == "__main__":
    main()
