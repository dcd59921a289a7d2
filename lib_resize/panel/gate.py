"""Access control of the HTTP API. No host puts a login before the routes of extensions, so the check is here.

In this order: refuse pages of other sites; require a user of ``--api-auth`` or of the page's login; where there is
neither, require this machine.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Any
from urllib.parse import urlsplit

from ..hosts.access import Access, is_loopback

_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
CHALLENGE = {"WWW-Authenticate": 'Basic realm="Resize LoRA", charset="UTF-8"'}


class Refusal(Exception):  # noqa: N818 - an answer, not an error
    """A request that is refused; its fields are the answer."""

    def __init__(self, status: int, kind: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.headers = headers or {}

    def to_json(self) -> dict[str, str]:
        return {"kind": self.kind, "message": str(self)}


class Gate:
    """The checks for one application."""

    def __init__(self, app: Any, access: Access) -> None:
        self._app = app
        self._access = access

    def check(self, request: Any) -> None:
        """Raise Refusal where a request is not allowed."""
        if _is_foreign(request.headers):
            raise Refusal(403, "origin", "Cross-origin requests are not allowed.")
        if self._access.users is not None:
            self._check_user(request)
        elif self._has_login():
            self._check_cookie(request)
        else:
            self._check_place(request)

    def _check_user(self, request: Any) -> None:
        """Require a user of ``--api-auth``, the only credentials then, as for the host's own API."""
        if not is_known(request.headers.get("authorization", ""), self._access.users or ()):
            raise Refusal(
                401,
                "login",
                f"Missing or invalid credentials. Use HTTP Basic with a user of {self._access.option}.",
                CHALLENGE,
            )

    def _has_login(self) -> bool:
        """Return whether the page has a login, whoever set it. One that is configured but missing lets nobody in."""
        found = (getattr(self._app, word, None) for word in ("auth", "auth_dependency"))
        return self._access.login or any(one is not None for one in found)

    def _check_cookie(self, request: Any) -> None:
        if not self._is_logged_in(request):
            raise Refusal(
                401,
                "login",
                "Not logged in. Log in on the page first, or start the server with --api-auth and use HTTP Basic.",
            )

    def _is_logged_in(self, request: Any) -> bool:
        """Check the cookies of Gradio 3 (``access-token``) and 4 (``access-token-…``)."""
        dependency = getattr(self._app, "auth_dependency", None)
        if dependency is not None:
            return dependency(request) is not None
        own = getattr(self._app, "cookie_id", None)
        ending = f"-{own}" if own else ""
        given = (request.cookies.get(f"{name}{ending}") for name in ("access-token", "access-token-unsecure"))
        tokens = getattr(self._app, "tokens", {})
        return any(token is not None and tokens.get(token) is not None for token in given)

    def _check_place(self, request: Any) -> None:
        """Without a login, a publicly reachable server is read-only; any other is for this machine alone."""
        if self._access.exposed and request.method == "GET":
            return
        if self._access.exposed or not _is_from_here(request):
            raise Refusal(
                403,
                "remote",
                "This server has no login. Without one, only programs on its own machine have access, and a server "
                f"that other machines can reach is read-only. Start it with {self._access.option} USER:PASSWORD.",
            )


def is_known(authorization: str, users: tuple[tuple[str, str], ...]) -> bool:
    """Return whether an ``Authorization`` header is that of a user, in constant time."""
    scheme, _, code = authorization.partition(" ")
    if scheme.lower() != "basic":
        return False
    try:
        given = base64.b64decode(code.strip(), validate=True)
    except (binascii.Error, ValueError):
        return False
    found = False
    for name, password in users:
        found |= hmac.compare_digest(_digest(given), _digest(f"{name}:{password}".encode()))
    return found


def _digest(secret: bytes) -> bytes:
    """Return a digest, whose length does not depend on the secret."""
    return hashlib.sha256(secret).digest()


def _is_foreign(headers: Any) -> bool:
    """Return whether a browser reports that the request is from a page of another site."""
    if headers.get("sec-fetch-site", "") in ("cross-site", "same-site"):
        return True
    origin, host = headers.get("origin"), headers.get("host", "").lower()
    return origin is not None and (not host or _netloc(origin) != host)


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _is_from_here(request: Any) -> bool:
    """Return whether a request is from this machine, to a name of this machine, and through no proxy.

    The name is checked because of DNS rebinding.
    """
    if any(name in request.headers for name in _FORWARDED):
        return False
    client = request.client.host if request.client else None
    return is_loopback(client) and is_loopback(hostname(request.headers.get("host", "")))


def hostname(host: str) -> str | None:
    """Return the name in a ``Host`` header, without its port; None where it has none or is malformed."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
