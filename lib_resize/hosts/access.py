"""Who may use the HTTP API, as the command line of a host says. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

Users = tuple[tuple[str, str], ...]
"""Names and passwords."""
_TUNNELS = ("share", "listen", "ngrok")


@dataclass(frozen=True)
class Access:
    """What a host was started with."""

    users: Users | None = None
    """Names and passwords of HTTP Basic; None where none was asked for."""
    login: bool = False
    """Whether the page has a login of its own, whose cookie then opens the API too, unless there are `users`."""
    exposed: bool = False
    """Whether other machines can reach it."""

    @property
    def locked(self) -> bool:
        """Whether one has to say who one is."""
        return self.users is not None or self.login


def access_of(options: Any, environment: Mapping[str, str]) -> Access:
    """From a WebUI's command line, and the variables that Gradio reads where the command line is silent."""
    text = getattr(options, "api_auth", None)
    return Access(
        users=read_users(text) if text else None,
        login=bool(getattr(options, "gradio_auth", None) or getattr(options, "gradio_auth_path", None)),
        exposed=_exposed(options, environment),
    )


def read_users(text: str) -> Users:
    """``name:password``, several with commas between. A piece without a colon is nobody, so that it opens nothing."""
    pairs = (piece.partition(":") for piece in text.split(","))
    return tuple((name, password) for name, colon, password in pairs if colon)


def is_loopback(name: str | None) -> bool:
    """Whether a name or address means this very machine."""
    if name is None:
        return False
    try:
        return ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return name.lower() == "localhost"


def _exposed(options: Any, environment: Mapping[str, str]) -> bool:
    if any(getattr(options, word, None) for word in _TUNNELS):
        return True
    if environment.get("GRADIO_SHARE", "").lower() == "true":
        return True
    name = getattr(options, "server_name", None) or environment.get("GRADIO_SERVER_NAME")
    return bool(name) and not is_loopback(name)
