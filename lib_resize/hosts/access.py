"""Who may use the HTTP API, from the command line of a host. Standard library only."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

Users = tuple[tuple[str, str], ...]
"""Names and passwords."""
_TUNNELS = ("share", "listen", "ngrok")


@dataclass(frozen=True)
class Access:
    """The access rules that a host was started with."""

    users: Users | None = None
    """Names and passwords for HTTP Basic authentication; None where it is not required."""
    login: bool = False
    """Whether the page has a login. Its cookie then authenticates to the API too, unless there are `users`."""
    exposed: bool = False
    """Whether other machines can reach the server."""
    option: str = "--api-auth"
    """The host's option for the names and passwords of its API."""

    @property
    def locked(self) -> bool:
        """Whether authentication is required."""
        return self.users is not None or self.login


def access_of(options: Any, environment: Mapping[str, str]) -> Access:
    """Read the rules from a WebUI's command line, and from Gradio's environment variables for missing options."""
    text = getattr(options, "api_auth", None)
    return Access(
        users=read_users(text) if text else None,
        login=bool(getattr(options, "gradio_auth", None) or getattr(options, "gradio_auth_path", None)),
        exposed=_exposed(options, environment),
    )


def access_of_sdnext(options: Any, environment: Mapping[str, str]) -> Access:
    """Read the rules from SD.Next's command line: the users of its page are those of its API.

    As there, a user without a name or a password is ignored. A file of users that cannot be read lets nobody in.
    """
    text, file = (getattr(options, name, None) for name in ("auth", "auth_file"))
    lists = [text.strip('"').replace("\n", "")] if text else []
    if file:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            lists += Path(file).read_text("utf-8").splitlines()
    users = tuple(user for one in lists for user in read_users(",".join(map(str.strip, one.split(",")))) if all(user))
    exposed = _exposed(options, environment)
    return Access(users=users if text or file else None, exposed=exposed, option="--auth")


def read_users(text: str) -> Users:
    """Parse ``name:password``, several separated by commas. A part without a colon is ignored: it grants no access."""
    pairs = (piece.partition(":") for piece in text.split(","))
    return tuple((name, password) for name, colon, password in pairs if colon)


def is_loopback(name: str | None) -> bool:
    """Return whether a host name or address is this machine."""
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
